//! The simulated process.

use std::collections::{BTreeMap, HashMap};

use super::effects::Effects;
use super::library::{Libraries, Ran, Stage};
use super::model::Model;
use super::random::Random;
use super::{audit, original};
use crate::{
    Address, Blocker, CallbackCall, ForbiddenRange, Impl, Pass, PatchId, RouteFailure, RouteKind,
    Sighting, State, Switch, Target, Verdict, check_stack, forbidden, routes,
};

/// The tool was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("killed")]
pub struct Killed;

/// An activation of a function.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Number of the function.
    pub function: usize,
    /// Whose code was entered; `None` is the original.
    pub code: Option<PatchId>,
    /// Left behind by a forced transition: no rule holds for it any more.
    pub tainted: bool,
}

/// A simulated thread.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Thread id.
    pub tid: i32,
    /// What it carries (its GS base).
    pub carries: u64,
    /// Its stack, outermost call first.
    pub stack: Vec<Frame>,
}

/// Random behaviour and faults, in percent.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// Source of both.
    pub random: Random,
    /// The tool is killed at an effect.
    pub kill: usize,
    /// A thread cannot be stopped or its stack not be read.
    pub evade: usize,
    /// Threads act between two effects.
    pub activity: usize,
    /// The library that holds the functions from this one on.
    pub library: Option<(&'static str, usize)>,
    /// It comes and goes.
    pub restless: bool,
}

impl Chaos {
    /// Whether a function belongs to the library while that is not there.
    fn is_absent(&self, process: &Process, function: usize) -> bool {
        self.library.is_some_and(|(name, first)| {
            function >= first && !process.libraries.is_there(Some(name), true)
        })
    }
}

/// A simulated process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its threads.
    pub threads: Vec<Thread>,
    /// Number of functions.
    pub functions: usize,
    /// The state as last saved.
    pub saved: State,
    /// The state saved before that.
    pub before: State,
    /// Callbacks that really ran, with the token of the transition.
    pub ran: Vec<(u64, CallbackCall, i32)>,
    /// What they printed.
    pub printed: Vec<String>,
    /// What callbacks return, by address; the others return 0.
    pub returns: HashMap<u64, i32>,
    /// Functions whose entry cannot be changed, with the errno that says why: somebody else
    /// has taken it (EBUSY), or there is no place for a jump (EINVAL).
    pub taken: BTreeMap<u64, i32>,
    /// Time.
    pub clock: u64,
    /// Points passed at which the tool can be killed.
    pub steps: u64,
    /// The tool is killed when this many have been passed.
    pub kill_at: Option<u64>,
    /// Random behaviour.
    pub chaos: Option<Chaos>,
    /// Libraries that may come and go.
    pub libraries: Libraries,
    /// Side effects of states.
    pub effects: Effects,
    /// What must be run.
    pub model: Model,
    /// The first rule that was seen broken.
    pub violation: Option<String>,
    pub(super) code: BTreeMap<u64, (RouteKind, u64)>,
    pub(super) results: HashMap<u64, i32>,
    pub(super) stages: BTreeMap<(PatchId, usize), Stage>,
    next_tid: i32,
}

impl Process {
    /// A process with idle threads.
    #[must_use]
    pub fn new(main_name: &str, functions: usize, threads: usize) -> Self {
        let mut process = Self {
            threads: Vec::new(),
            functions,
            saved: State::new(main_name),
            before: State::new(main_name),
            ran: Vec::new(),
            printed: Vec::new(),
            returns: HashMap::new(),
            taken: BTreeMap::new(),
            clock: 0,
            steps: 0,
            kill_at: None,
            chaos: None,
            libraries: Libraries::default(),
            effects: Effects::default(),
            stages: BTreeMap::new(),
            model: Model::default(),
            violation: None,
            code: BTreeMap::new(),
            results: HashMap::new(),
            next_tid: 100,
        };
        for _ in 0..threads {
            process.spawn(0);
        }
        process
    }

    /// A new thread that carries what its creator does; its index.
    pub fn spawn(&mut self, carries: u64) -> usize {
        let tid = self.next_tid;
        self.next_tid += 1;
        let stack = Vec::new();
        self.threads.push(Thread {
            tid,
            carries,
            stack,
        });
        self.threads.len() - 1
    }

    /// Whose code a call of the function by a thread enters, as router and selector decide.
    #[must_use]
    pub fn selected(&self, thread: usize, function: usize) -> Option<PatchId> {
        let (kind, token) = self.code.get(&original(function).entry())?;
        let chosen = match kind {
            RouteKind::Direct(chosen) => chosen,
            RouteKind::Select {
                unswitched,
                switched,
            } => {
                if self.threads[thread].carries == *token {
                    switched
                } else {
                    unswitched
                }
            }
        };
        match chosen {
            Impl::Original => None,
            Impl::New { patch, .. } => Some(*patch),
        }
    }

    /// A thread calls a function.
    pub fn call(&mut self, thread: usize, function: usize) {
        let code = self.selected(thread, function);
        let expected = self.model.expected(self.threads[thread].carries, function);
        if code != expected {
            self.report(format!(
                "thread {thread} calls f{function}: runs {code:?}, must run {expected:?}"
            ));
        }
        self.threads[thread].stack.push(Frame {
            function,
            code,
            tainted: false,
        });
    }

    /// Whether the entry of a function is redirected.
    #[must_use]
    pub fn is_redirected(&self, function: usize) -> bool {
        self.code.contains_key(&original(function).entry())
    }

    /// Number of functions whose entry is redirected.
    #[must_use]
    pub fn redirected(&self) -> usize {
        self.code.len()
    }

    /// Whether the step from `before` to the saved state is one that a rule allows.
    fn audit(&mut self, before: &State) -> Result<(), String> {
        if let Some(ended) =
            self.model
                .observe(before, &self.saved, self.libraries.events_sighted)?
        {
            audit::check_callbacks(&self.model, &ended, &self.ran, &self.libraries)?;
            audit::check_end(&ended, before, &self.saved)?;
        }
        audit::check_state(&self.model, &self.saved)
    }

    pub(super) fn report(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }

    /// Every frame of every thread is of the thread's universe.
    fn check_threads(&mut self) {
        for thread in &self.threads {
            for frame in thread.stack.iter().filter(|frame| !frame.tainted) {
                let expected = self.model.expected(thread.carries, frame.function);
                if frame.code != expected {
                    let text = format!(
                        "thread {} has f{} of {:?} on its stack, its universe has {expected:?}",
                        thread.tid, frame.function, frame.code
                    );
                    self.violation.get_or_insert(text);
                    return;
                }
            }
        }
    }

    /// Random threads call, return, start and exit.
    pub fn act(&mut self, times: usize) {
        let Some(mut chaos) = self.chaos.take() else {
            return;
        };
        for _ in 0..times {
            let thread = chaos.random.below(self.threads.len());
            match chaos.random.below(17) {
                0..9 if self.threads[thread].stack.len() < 4 => {
                    let function = chaos.random.below(self.functions);
                    if !chaos.is_absent(self, function) {
                        self.call(thread, function);
                    }
                }
                16 => {
                    if let Some((library, _)) = chaos.library.filter(|_| chaos.restless) {
                        match chaos.random.chance(50) {
                            true => drop(self.come(library)),
                            false => self.go(library),
                        }
                    }
                }
                14 if self.threads.len() < 5 => {
                    let carries = self.threads[thread].carries;
                    self.spawn(carries);
                }
                15 if self.threads.len() > 1 => {
                    self.threads.remove(thread);
                }
                _ => {
                    self.threads[thread].stack.pop();
                }
            }
        }
        self.chaos = Some(chaos);
    }

    fn roll(&mut self, percent: impl Fn(&Chaos) -> usize) -> bool {
        let chaos = self.chaos.as_mut();
        chaos.is_some_and(|chaos| chaos.random.chance(percent(chaos)))
    }

    /// Lets time pass; fails when the tool is killed at this point.
    fn step(&mut self) -> Result<(), Killed> {
        self.clock += 1_000_000;
        self.steps += 1;
        self.check_threads();
        if self.kill_at.take_if(|at| *at == self.steps).is_some() {
            return Err(Killed);
        }
        if self.roll(|chaos| chaos.activity) {
            self.act(2);
            self.check_threads();
        }
        if self.roll(|chaos| chaos.kill) {
            return Err(Killed);
        }
        Ok(())
    }

    fn verdict(&mut self, thread: usize, ranges: &[ForbiddenRange]) -> Verdict {
        if self.roll(|chaos| chaos.evade) {
            return if self.roll(|_| 50) {
                Verdict::Running
            } else {
                Verdict::Unreliable("no unwind table".to_owned())
            };
        }
        let mut addresses = Vec::new();
        let stack = &self.threads[thread].stack;
        for (depth, frame) in stack.iter().enumerate().rev() {
            let Some(code) = audit::code_of(&self.saved, frame) else {
                continue;
            };
            let part = match code.cold.first() {
                Some(cold) if (thread + depth) % 2 == 1 => *cold,
                _ => code.body,
            };
            addresses.push(if depth + 1 == stack.len() {
                Address::Exact(part.start + (depth as u64) % part.len)
            } else {
                // the call may be the last instruction of its function
                Address::Return(part.start + part.len - (thread as u64 % 2))
            });
        }
        check_stack(ranges, addresses)
    }

    fn is_in_library(&self, thread: usize) -> bool {
        let stack = &self.threads[thread].stack;
        stack
            .iter()
            .any(|frame| self.libraries.holds(frame.function))
    }

    fn switch_one(&mut self, thread: usize, value: u64, how: Switch) {
        self.threads[thread].carries = value;
        if how == Switch::Force {
            let model = &self.model;
            for frame in &mut self.threads[thread].stack {
                frame.tainted |= frame.code != model.expected(value, frame.function);
            }
        }
        self.check_threads();
    }
}

impl Target for Process {
    type Error = Killed;

    fn save(&mut self, state: &State) -> Result<(), Killed> {
        self.step()?;
        let before = std::mem::replace(&mut self.saved, state.clone());
        if let Err(text) = self.audit(&before) {
            self.report(text);
        }
        self.before = before;
        self.step()
    }

    fn run_callback(&mut self, call: &CallbackCall) -> Result<i32, Killed> {
        self.step()?;
        if let Some(result) = self.results.get(&call.sequence) {
            return Ok(*result);
        }
        if self.is_void(call) {
            return Ok(0);
        }
        if let Some(running) = &self.model.running
            && let Err(text) = audit::check_view(running, &self.saved, call)
        {
            self.report(text);
        }
        let value = self.returns.get(&call.address).copied().unwrap_or(0);
        let token = self.saved.transition.as_ref().map(|t| t.token.value());
        self.ran.push((token.unwrap_or(0), *call, value));
        let line = audit::callback_line(&self.saved, call);
        self.printed.push(line);
        self.results.insert(call.sequence, value);
        match call.object() {
            Some(object) => self.note_ran(Ran {
                patch: call.patch,
                object,
                kind: call.kind,
                value,
            }),
            None => self.note_effect(call, value),
        }
        self.step()?;
        Ok(value)
    }

    fn sight_objects(&mut self, state: &State) -> Result<Vec<Sighting>, Killed> {
        self.step()?;
        Ok(self.libraries.sight(state))
    }

    fn apply_routes(&mut self, state: &State) -> Result<Result<(), RouteFailure>, Killed> {
        self.step()?;
        let token = state.transition.as_ref().map_or(0, |t| t.token.value());
        let wanted = routes(state);
        let entries: BTreeMap<u64, _> = wanted.iter().map(|r| (r.old.entry(), r)).collect();
        let is_changed =
            |entry: &&u64| entries.contains_key(*entry) != self.code.contains_key(*entry);
        if let Some((entry, errno)) = self.taken.iter().find(|(entry, _)| is_changed(entry)) {
            let route = entries.get(entry);
            return Ok(Err(RouteFailure {
                object: route.and_then(|r| r.object.clone()),
                function: route.map_or("?".to_owned(), |r| r.old_name.clone()),
                errno: *errno,
                reason: "a breakpoint sits on its entry; remove it".to_owned(),
            }));
        }
        // entries are exchanged one by one, while threads run and the tool may be killed
        let stale: Vec<u64> = self
            .code
            .keys()
            .copied()
            .filter(|e| !entries.contains_key(e))
            .collect();
        for entry in stale {
            if !self.libraries.is_unsighted(state, entry) {
                self.code.remove(&entry);
            }
            self.step()?;
        }
        for (entry, route) in entries {
            let kind = (route.kind.clone(), token);
            if self.code.get(&entry) != Some(&kind) && !self.libraries.is_unsighted(state, entry) {
                self.code.insert(entry, kind);
                self.step()?;
            }
        }
        Ok(Ok(()))
    }

    fn switch_threads(&mut self, state: &State, how: Switch) -> Result<Pass, Killed> {
        let Some(transition) = &state.transition else {
            return Ok(Pass::default());
        };
        let value = transition.wanted_value();
        let wants = transition.target_carries_token();
        let token = transition.token.value();
        let ranges = forbidden(state);
        let mut pass = Pass::default();
        let events = self.libraries.events_sighted;
        let listing: Vec<i32> = self.threads.iter().map(|t| t.tid).collect();
        for tid in listing {
            self.step()?;
            let Some(thread) = self.threads.iter().position(|t| t.tid == tid) else {
                continue;
            };
            if (self.threads[thread].carries == token) == wants {
                continue;
            }
            let verdict = match how {
                Switch::Force => Verdict::Switched,
                Switch::Check => self.verdict(thread, &ranges),
            };
            // What the ranges were made from is over: a thread that is in what may have come
            // since is not to be switched.
            let verdict = match verdict {
                Verdict::Switched
                    if how == Switch::Check
                        && self.libraries.events != events
                        && self.is_in_library(thread) =>
                {
                    Verdict::Unreliable("it is in a library that has just been loaded".to_owned())
                }
                other => other,
            };
            if verdict == Verdict::Switched {
                self.switch_one(thread, value, how);
                pass.switched += 1;
            } else {
                let comm = "worker".to_owned();
                pass.blockers.push(Blocker { tid, comm, verdict });
            }
        }
        self.step()?;
        pass.total = self.threads.len();
        pass.complete = self.threads.iter().all(|t| (t.carries == token) == wants);
        if pass.complete {
            pass.blockers.clear();
        }
        Ok(pass)
    }

    fn now(&self) -> u64 {
        self.clock
    }

    fn log_position(&self) -> u64 {
        self.printed.len() as u64
    }
}
