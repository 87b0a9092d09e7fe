//! Moving threads from one universe to the other, each by itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use engraft_core::{
    Blocker, ForbiddenRange, Pass, State, Switch, Token, Transition, Universe, Verdict, forbidden,
};
use engraft_process::{
    Asleep, Registers, StopOutcome, ThreadStat, count_threads, list_threads, read_asleep,
    read_thread_stat,
};
use engraft_unwind::{End, ReasonKind, Trace, Unwinder};
use serde::{Deserialize, Serialize};

use crate::attached::Attached;
use crate::error::Error;
use crate::live::Live;
use crate::stacks::{Stacks, unwind_registers};
use crate::status::{Direction, explain};
use crate::timeline::{Look, Outcome};

/// How long a thread may take to stop; one in an uninterruptible sleep takes longer.
const STOP_PATIENCE: Duration = Duration::from_millis(20);

/// Listings in one pass: threads that come and go faster than this wait for the next pass.
const LISTINGS: u32 = 16;

/// Frames of a blocker's stack that are kept for messages.
const SHOWN_FRAMES: usize = 24;

/// What this tool has found out about threads; only saves work.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    /// The value that threads are to carry.
    wanted: Option<u64>,
    /// Threads that carry it, with their start times.
    done: HashMap<i32, u64>,
    /// Threads that could not be switched.
    blocked: HashMap<i32, Blocked>,
}

/// A thread that could not be switched when it was last stopped.
#[derive(Debug)]
struct Blocked {
    detail: BlockerDetail,
    seen: Seen,
    /// How often it was stopped in this transition.
    stops: u32,
    /// How often it was left alone since, though it may have moved.
    left_alone: u32,
}

/// What is known of a thread from the time when it was stopped; nothing when it did not stop
/// in time.
#[derive(Debug, Default)]
struct Seen {
    registers: Option<Registers>,
    /// How often it had been on a processor: before this number changes it has not moved.
    runs: Option<u64>,
}

/// What can be seen of a blocked thread that is asleep and is not stopped.
enum Sight {
    /// It is where it was.
    Unmoved,
    /// It seems to be, but that may be a misreading: not all its registers are known.
    Doubtful,
    /// It is somewhere else.
    Moved,
}

impl Blocked {
    fn look(
        &self,
        process: &Attached,
        rules: &Rules<'_>,
        unwinder: &mut Unwinder<'_>,
        asleep: Asleep,
    ) -> Sight {
        let Some(registers) = self.seen.registers else {
            return Sight::Moved;
        };
        let registers = Registers {
            rip: asleep.rip,
            rsp: asleep.rsp,
            ..registers
        };
        let blocker = &self.detail.blocker;
        let agrees = |trace: &Trace| {
            let verdict =
                rules
                    .stacks
                    .judge(process, blocker.tid, &registers, trace, &rules.forbidden);
            verdict == blocker.verdict
        };
        let memory = rules.stacks.memory(&process.memory);
        let seen = unwinder.walk_asleep(&memory, asleep.rip, asleep.rsp);
        let whole = !matches!(&seen.end, End::Unreliable(reason)
            if matches!(reason.kind, ReasonKind::LostRegister(_)));
        let certain = whole || matches!(blocker.verdict, Verdict::OnStack(_));
        if certain && agrees(&seen) {
            Sight::Unmoved
        } else if agrees(&unwinder.walk(&memory, &unwind_registers(&registers))) {
            Sight::Doubtful
        } else {
            Sight::Moved
        }
    }
}

/// A thread that holds up a transition, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockerDetail {
    pub(crate) blocker: Blocker,
    pub(crate) state: char,
    pub(crate) stack: Vec<String>,
}

/// What one visit needs.
struct Rules<'a> {
    transition: &'a Transition,
    how: Switch,
    forbidden: Vec<ForbiddenRange>,
    stacks: &'a Stacks,
    state: &'a State,
}

impl Live<'_> {
    /// One pass over all threads; see [`engraft_core::Target::switch_threads`].
    pub(crate) fn pass_over_threads(&mut self, state: &State, how: Switch) -> Result<Pass, Error> {
        let Some(transition) = &state.transition else {
            return Ok(Pass::default());
        };
        if self.visited.wanted != Some(transition.wanted_value()) {
            *self.visited = Visited {
                wanted: Some(transition.wanted_value()),
                ..Visited::default()
            };
        }
        let stacks = Stacks::read(self.process, &self.objects, Some(self.records))?;
        let rules = Rules {
            transition,
            how,
            forbidden: forbidden(state),
            stacks: &stacks,
            state,
        };
        let mut unwinder = stacks.unwinder();
        let mut pass = Pass::default();
        for _ in 0..LISTINGS {
            let before = count_threads(self.process.pid);
            let listed = list_threads(self.process.pid);
            let whole = before == Some(listed.len()) && count_threads(self.process.pid) == before;
            pass.total = listed.len();
            let stats = listed
                .iter()
                .filter_map(|tid| Some((*tid, read_thread_stat(self.process.pid, *tid)?)));
            let remaining: Vec<(i32, ThreadStat)> = stats
                .filter(|(tid, stat)| self.visited.done.get(tid) != Some(&stat.start_time))
                .collect();
            if remaining.is_empty() {
                pass.blockers.clear();
                pass.complete = whole;
                if whole {
                    break;
                }
                continue;
            }
            let switched = pass.switched;
            pass.blockers.clear();
            for (tid, stat) in remaining {
                let began = Instant::now();
                let blocker = self.visit(&rules, &mut unwinder, tid, &stat)?;
                self.note_look(began, tid, &stat, transition.target, blocker.as_ref());
                match blocker {
                    None => {
                        self.visited.done.insert(tid, stat.start_time);
                        self.visited.blocked.remove(&tid);
                        pass.switched += 1;
                    }
                    Some(blocker) => pass.blockers.push(blocker),
                }
            }
            if pass.switched == switched {
                break;
            }
        }
        self.records.threads_seen = pass.total as u32;
        self.records.blockers = pass
            .blockers
            .iter()
            .filter_map(|blocker| Some(self.visited.blocked.get(&blocker.tid)?.detail.clone()))
            .collect();
        Ok(pass)
    }

    fn note_look(
        &mut self,
        began: Instant,
        tid: i32,
        stat: &ThreadStat,
        target: Universe,
        blocker: Option<&Blocker>,
    ) {
        if let Some(timeline) = &mut self.timeline {
            timeline.looks.push(Look {
                tid,
                comm: stat.comm.clone(),
                began,
                took: began.elapsed(),
                heading: Direction::of(target),
                outcome: match blocker {
                    None => Outcome::Switched,
                    Some(blocker) => Outcome::Blocked(explain(&blocker.verdict)),
                },
            });
        }
    }

    /// Switches one thread, or says what is in the way.
    fn visit(
        &mut self,
        rules: &Rules<'_>,
        unwinder: &mut Unwinder<'_>,
        tid: i32,
        stat: &ThreadStat,
    ) -> Result<Option<Blocker>, Error> {
        if rules.how == Switch::Check && self.need_not_stop(rules, unwinder, tid, stat) {
            let blocked = self.visited.blocked.get(&tid);
            return Ok(blocked.map(|blocked| blocked.detail.blocker.clone()));
        }
        if let Some(session) = self.session.as_mut().filter(|session| session.tid() == tid) {
            let registers = *session.outside();
            let (verdict, trace) = examine(self.process, rules, unwinder, tid, &registers);
            if verdict == Verdict::Switched && self.is_in_newcomer(rules.state, trace.as_ref())? {
                return Ok(Some(newcomer_blocker(tid, stat)));
            }
            if verdict == Verdict::Switched
                && let Some(session) = &mut self.session
            {
                session.set_gs_base(rules.transition.wanted_value())?;
                return Ok(None);
            }
            let seen = Seen {
                registers: Some(registers),
                runs: None,
            };
            return Ok(Some(self.note(tid, stat, seen, verdict, trace.as_ref())));
        }
        match self.process.tracer.stop(tid, STOP_PATIENCE)? {
            StopOutcome::Gone => Ok(None),
            StopOutcome::Unresponsive => Ok(Some(self.note_unseen(tid, stat))),
            StopOutcome::Stopped(mut thread) => {
                let registers = *thread.registers();
                let (verdict, trace) = examine(self.process, rules, unwinder, tid, &registers);
                if verdict == Verdict::Switched
                    && self.is_in_newcomer(rules.state, trace.as_ref())?
                {
                    thread.release()?;
                    return Ok(Some(newcomer_blocker(tid, stat)));
                }
                if verdict == Verdict::Switched {
                    if registers.gs_base != rules.transition.wanted_value() {
                        thread.set_gs_base(rules.transition.wanted_value())?;
                    }
                    thread.release()?;
                    return Ok(None);
                }
                let seen = Seen {
                    registers: Some(registers),
                    runs: read_thread_stat(self.process.pid, tid).and_then(|now| now.runs),
                };
                thread.release()?;
                Ok(Some(self.note(tid, stat, seen, verdict, trace.as_ref())))
            }
        }
    }

    /// Whether a thread that could not be switched is to be left alone in this pass: every
    /// stop makes some system calls start their time-out anew, so a thread that sleeps must
    /// not be stopped again and again; and one that waits for a processor would never get
    /// anywhere.
    fn need_not_stop(
        &mut self,
        rules: &Rules<'_>,
        unwinder: &mut Unwinder<'_>,
        tid: i32,
        stat: &ThreadStat,
    ) -> bool {
        let pid = self.process.pid;
        let before = self.visited.blocked.get(&tid);
        if before
            .is_some_and(|blocked| blocked.seen.runs.is_some() && blocked.seen.runs == stat.runs)
        {
            return true;
        }
        let (Some(blocked), Some(asleep)) =
            (self.visited.blocked.get_mut(&tid), read_asleep(pid, tid))
        else {
            return false;
        };
        let sight = blocked.look(self.process, rules, unwinder, asleep);
        // It was seen in one piece only if it has not been on a processor meanwhile.
        let runs = read_thread_stat(pid, tid).and_then(|now| now.runs);
        if stat.runs.is_none() || runs != stat.runs {
            return false;
        }
        blocked.detail.state = stat.state;
        match sight {
            Sight::Unmoved => true,
            Sight::Moved => false,
            Sight::Doubtful => {
                blocked.left_alone += 1;
                blocked.left_alone < 1 << blocked.stops.min(16)
            }
        }
    }

    /// Notes a thread that did not stop in time. What was last seen of it tells people more
    /// than that.
    fn note_unseen(&mut self, tid: i32, stat: &ThreadStat) -> Blocker {
        match self.visited.blocked.get_mut(&tid) {
            Some(blocked) => {
                blocked.detail.state = stat.state;
                blocked.seen = Seen::default();
                blocked.stops += 1;
                blocked.detail.blocker.clone()
            }
            None => self.note(tid, stat, Seen::default(), Verdict::Running, None),
        }
    }

    fn note(
        &mut self,
        tid: i32,
        stat: &ThreadStat,
        seen: Seen,
        verdict: Verdict,
        trace: Option<&Trace>,
    ) -> Blocker {
        let blocker = Blocker {
            tid,
            comm: stat.comm.clone(),
            verdict,
        };
        let frames = trace.map_or(&[][..], |trace| &trace.frames);
        let shown = frames.iter().take(SHOWN_FRAMES);
        let detail = BlockerDetail {
            blocker: blocker.clone(),
            state: stat.state,
            stack: shown
                .map(|frame| self.name_of(frame.alias_of.unwrap_or(frame.lookup_pc)))
                .collect(),
        };
        let before = self.visited.blocked.get(&tid);
        let blocked = Blocked {
            detail,
            seen,
            stops: before.map_or(0, |blocked| blocked.stops) + 1,
            left_alone: 0,
        };
        self.visited.blocked.insert(tid, blocked);
        blocker
    }
}

/// It is looked at again when the rules know the library, and not noted as one to be left alone.
fn newcomer_blocker(tid: i32, stat: &ThreadStat) -> Blocker {
    let reason = "it is in a library that has just been loaded".to_owned();
    Blocker {
        tid,
        comm: stat.comm.clone(),
        verdict: Verdict::Unreliable(reason),
    }
}

/// The verdict about a stopped thread. A thread that is where it should be counts as switched.
fn examine(
    process: &Attached,
    rules: &Rules<'_>,
    unwinder: &mut Unwinder<'_>,
    tid: i32,
    registers: &Registers,
) -> (Verdict, Option<Trace>) {
    let carried = registers.gs_base;
    if carried == rules.transition.wanted_value() {
        return (Verdict::Switched, None);
    }
    if carried != 0 && !Token::is_token(carried) {
        let reason = format!("it uses the GS base itself ({carried:#x}), as Wine and DynamoRIO do");
        return (Verdict::Unreliable(reason), None);
    }
    if rules.how == Switch::Force {
        return (Verdict::Switched, None);
    }
    let memory = rules.stacks.memory(&process.memory);
    let trace = unwinder.walk(&memory, &unwind_registers(registers));
    let verdict = rules
        .stacks
        .judge(process, tid, registers, &trace, &rules.forbidden);
    (verdict, Some(trace))
}
