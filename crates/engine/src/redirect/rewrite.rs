//! Writing entry jumps while every thread stands still.

use std::mem;
use std::time::{Duration, Instant};

use engraft_elf::ReadMemory;
use engraft_process::{
    Held, Kind, Mapping, Memory, Stopped, Stops, list_threads, read_asleep, read_thread_stat,
    stop_all,
};

use crate::error::Error;
use crate::live::Live;
use crate::timeline::CommonStop;

/// How long a common stop is tried again when a thread does not stop or stands inside bytes to
/// be overwritten and cannot be moved, or a process runs there that shares the memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it is tried again when a thread that is ready to run does not get a processor on
/// which to stop.
const CROWD_PATIENCE: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(2);

/// Bytes of stack that are looked at in one read.
const STACK_CHUNK: u64 = 64 << 10;

/// clone, vfork, clone3.
const STARTING_CALLS: [i64; 3] = [56, 58, 435];

/// One entry to be rewritten.
pub(crate) struct Edit {
    /// Address of the old function, for messages.
    pub(crate) function: u64,
    pub(crate) site: u64,
    pub(crate) expected: [u8; 5],
    pub(crate) wanted: [u8; 5],
    /// Places inside the bytes at which a thread may stand, and the same place in the
    /// displaced prologue.
    pub(crate) interior: Vec<(u64, Option<u64>)>,
}

/// Why nothing was rewritten.
pub(crate) enum Obstacle {
    /// Somebody else has changed the bytes.
    Foreign { function: u64, found: [u8; 5] },
    /// A thread stands, or will return, inside them.
    Occupied { function: u64, tid: i32 },
    /// A thread did not stop in time.
    Restless { function: u64, tid: i32 },
    /// A thread has lent the memory to a process that it has started with vfork(2).
    Lent { function: u64, tid: i32 },
}

impl Obstacle {
    fn may_pass(&self) -> bool {
        !matches!(self, Self::Foreign { .. })
    }
}

/// Whether a thread that sleeps uninterruptibly does so in a call that starts a process:
/// vfork(2), or clone(2) as posix_spawn uses it.
fn waits_for_child(pid: i32, tid: i32) -> bool {
    let call = read_asleep(pid, tid).and_then(|asleep| asleep.call);
    call.is_some_and(|call| STARTING_CALLS.contains(&call))
}

impl Live<'_> {
    /// Rewrites all entries in one common stop, or none.
    pub(crate) fn rewrite_entries(
        &mut self,
        edits: &[Edit],
    ) -> Result<Result<(), Obstacle>, Error> {
        // A thread on its way out of the runtime will go on where its registers do not say yet.
        if self.session.is_none() {
            self.wait_for_runtime()?;
        }
        let deadline = Instant::now() + PATIENCE;
        let crowded = Instant::now() + CROWD_PATIENCE;
        let mut stops = Stops::default();
        loop {
            let obstacle = match self.find_lent_memory(edits) {
                Some(lent) => lent,
                None => match self.try_rewrite(edits, &mut stops) {
                    Ok(Err(obstacle)) if obstacle.may_pass() => obstacle,
                    // The others are let go in between: nobody stands still for that long.
                    Err(error) if error.is_not_stopped() && Instant::now() < crowded => continue,
                    other => return other,
                },
            };
            if Instant::now() > deadline {
                return Ok(Err(obstacle));
            }
            mem::take(&mut stops).let_get_on(self.process.pid, PAUSE);
        }
    }

    /// Such a process runs with the target's memory until it calls execve or ends.
    fn find_lent_memory(&self, edits: &[Edit]) -> Option<Obstacle> {
        let pid = self.process.pid;
        let waits = |tid: &i32| {
            read_thread_stat(pid, *tid).is_some_and(|stat| stat.state == 'D')
                && waits_for_child(pid, *tid)
        };
        let tid = list_threads(pid).into_iter().find(waits)?;
        let function = edits.first()?.function;
        Some(Obstacle::Lent { function, tid })
    }

    /// Notes in `stops` who stood in the way.
    fn try_rewrite(
        &mut self,
        edits: &[Edit],
        stops: &mut Stops,
    ) -> Result<Result<(), Obstacle>, Error> {
        if self.session.is_none() {
            // A thread on its way back has its registers in the runtime's memory, not in its own.
            self.wait_for_runtime()?;
        }
        let maps = self.process.maps()?;
        let interior: Vec<u64> = edits
            .iter()
            .flat_map(|e| e.interior.iter().map(|(pc, _)| *pc))
            .collect();
        let mut returning = None;
        let borrowed = self
            .session
            .as_ref()
            .map(|session| (session.tid(), *session.outside()));
        let mut inspect = |thread: &Stopped<'_>| {
            let hit = find_on_stack(
                &self.process.memory,
                &maps,
                thread.registers().rsp,
                &interior,
            );
            if let Some(pc) = hit {
                returning = Some((pc, thread.tid()));
            }
        };
        let stopped = stop_all(
            &self.process.tracer,
            borrowed.map(|(tid, _)| tid),
            &mut inspect,
        );
        let function = edits.first().map_or(0, |edit| edit.function);
        let mut held = match stopped {
            Ok(held) => held,
            Err(error) => {
                self.process.memory.check_alive()?;
                return match error.kind {
                    Kind::NotStopped { ref threads } if !threads.is_empty() => {
                        let tid = threads[0].0;
                        Ok(Err(Obstacle::Restless { function, tid }))
                    }
                    _ => Err(error.into()),
                };
            }
        };
        if let Some((tid, outside)) = borrowed {
            let on_stack = find_on_stack(&self.process.memory, &maps, outside.rsp, &interior);
            if let Some(pc) =
                on_stack.or_else(|| interior.contains(&outside.rip).then_some(outside.rip))
            {
                returning = Some((pc, tid));
            }
        }
        for tid in held.unresponsive() {
            if waits_for_child(self.process.pid, *tid) {
                return Ok(Err(Obstacle::Lent {
                    function,
                    tid: *tid,
                }));
            }
            let asleep = read_asleep(self.process.pid, *tid);
            if let Some(asleep) = asleep.filter(|asleep| interior.contains(&asleep.rip)) {
                returning = Some((asleep.rip, *tid));
            }
        }
        let pid = self.process.pid;
        let mut occupied = |pc: u64, tid: i32| {
            stops.note(pid, tid);
            let edit = edits
                .iter()
                .find(|edit| edit.interior.iter().any(|(at, _)| *at == pc));
            Obstacle::Occupied {
                function: edit.map_or(pc, |edit| edit.function),
                tid,
            }
        };
        if let Some((pc, tid)) = returning {
            return Ok(Err(occupied(pc, tid)));
        }
        if let Some(foreign) = self.find_foreign(edits)? {
            return Ok(Err(foreign));
        }
        if let Err((pc, tid)) = move_out(&self.process.memory, &mut held, edits)? {
            return Ok(Err(occupied(pc, tid)));
        }
        let writer = held
            .any_thread()
            .or(borrowed.map(|(tid, _)| tid))
            .unwrap_or(self.process.pid);
        for edit in edits {
            self.process
                .memory
                .write_through(writer, edit.site, &edit.wanted)?;
        }
        let report = held.release()?;
        if let Some(timeline) = &mut self.timeline {
            timeline.stops.push(CommonStop {
                began: Instant::now()
                    .checked_sub(report.held)
                    .unwrap_or(timeline.began),
                held: report.held,
                threads: report.threads,
            });
        }
        Ok(Ok(()))
    }

    fn find_foreign(&self, edits: &[Edit]) -> Result<Option<Obstacle>, Error> {
        for edit in edits {
            let mut found = [0; 5];
            self.process.memory.read_bytes(edit.site, &mut found)?;
            if found != edit.expected && found != edit.wanted {
                return Ok(Some(Obstacle::Foreign {
                    function: edit.function,
                    found,
                }));
            }
        }
        Ok(None)
    }
}

/// Threads that stand inside the bytes go on at the same place in the displaced prologue.
fn move_out(
    memory: &Memory,
    held: &mut Held<'_>,
    edits: &[Edit],
) -> Result<Result<(), (u64, i32)>, Error> {
    for thread in held.threads_mut() {
        let rip = thread.registers().rip;
        let place = edits
            .iter()
            .flat_map(|edit| &edit.interior)
            .find(|(pc, _)| *pc == rip);
        match place {
            None => {}
            Some((_, Some(copy))) if !thread.is_in_restartable_sequence(memory)? => {
                thread.move_to(*copy)?;
            }
            Some((pc, _)) => return Ok(Err((*pc, thread.tid()))),
        }
    }
    Ok(Ok(()))
}

/// Whether a word on the stack equals one of the addresses: a signal handler may have
/// interrupted the thread there and will return to it.
fn find_on_stack(
    memory: &dyn ReadMemory,
    maps: &[Mapping],
    rsp: u64,
    wanted: &[u64],
) -> Option<u64> {
    if wanted.is_empty() {
        return None;
    }
    let end = maps.iter().find(|mapping| mapping.contains(rsp))?.end;
    let mut at = rsp & !7;
    let mut buffer = vec![0; STACK_CHUNK as usize];
    while at < end {
        let length = (end - at).min(STACK_CHUNK) as usize;
        memory.read(at, &mut buffer[..length]).ok()?;
        let (words, _) = buffer[..length].as_chunks::<8>();
        let hit = words
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .find(|word| wanted.contains(word));
        if hit.is_some() {
            return hit;
        }
        at += length as u64;
    }
    None
}
