//! Stopping every thread of a process at once, briefly.
//!
//! Sleeping threads are stopped first, in small batches that are waited for, so that woken
//! threads never pile up on the run queue; running ones last, and they are let go first. A
//! running thread so loses the same time however many others sleep.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};
use crate::identity::{list_threads, read_thread_stat};
use crate::thread::Stopped;
use crate::tracer::{StopOutcome, Tracer};

/// Threads per batch: enough to overlap their wake-ups, few enough not to crowd two cores.
const BATCH: usize = 8;

/// How long one thread may take to stop. One that sleeps uninterruptibly is not waited for any
/// longer than it takes to see that.
const THREAD_PATIENCE: Duration = Duration::from_millis(200);
const SLEEP_PATIENCE: Duration = Duration::from_millis(2);

/// How long all of them may take.
const TOTAL_PATIENCE: Duration = Duration::from_secs(5);

/// All threads of a process, standing still. Dropping it lets them go, running ones first.
#[derive(Debug)]
pub struct Held<'t> {
    runners: Vec<Stopped<'t>>,
    sleepers: Vec<Stopped<'t>>,
    unresponsive: Vec<i32>,
    /// When the first running thread was stopped.
    since: Instant,
}

/// Figures of a common stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopReport {
    /// Threads held.
    pub threads: usize,
    /// How long the running ones were held.
    pub held: Duration,
}

impl<'t> Held<'t> {
    /// The stopped threads.
    pub fn threads(&self) -> impl Iterator<Item = &Stopped<'t>> {
        self.runners.iter().chain(&self.sleepers)
    }

    /// The stopped threads, to be changed.
    pub fn threads_mut(&mut self) -> impl Iterator<Item = &mut Stopped<'t>> {
        self.runners.iter_mut().chain(&mut self.sleepers)
    }

    /// Threads that sleep uninterruptibly in the kernel: they execute no user instruction
    /// before their pending stop.
    #[must_use]
    pub fn unresponsive(&self) -> &[i32] {
        &self.unresponsive
    }

    /// Any held thread, for writes through it.
    #[must_use]
    pub fn any_thread(&self) -> Option<i32> {
        self.threads().next().map(Stopped::tid)
    }

    /// Lets all threads go: running ones first, sleeping ones in batches.
    ///
    /// # Errors
    ///
    /// The first failure; the other threads are let go nevertheless.
    pub fn release(self) -> Result<StopReport, Error> {
        let threads = self.runners.len() + self.sleepers.len() + self.unresponsive.len();
        let mut result = Ok(());
        for stopped in self.runners {
            result = result.and(stopped.release());
        }
        let held = self.since.elapsed();
        for stopped in self.sleepers {
            result = result.and(stopped.release());
        }
        result.map(|()| StopReport { threads, held })
    }
}

/// Stops all threads but `borrowed`, which the caller holds already. `inspect` sees each
/// thread as soon as it stands still, sleeping ones while others still run.
///
/// # Errors
///
/// [`Kind::NotStopped`] after some seconds; [`Kind::Gone`]; everything is let go then.
pub fn stop_all<'t>(
    tracer: &'t Tracer,
    borrowed: Option<i32>,
    inspect: &mut dyn FnMut(&Stopped<'_>),
) -> Result<Held<'t>, Error> {
    let pid = tracer.pid();
    let mut held = Held {
        runners: Vec::new(),
        sleepers: Vec::new(),
        unresponsive: Vec::new(),
        since: Instant::now(),
    };
    let deadline = Instant::now() + TOTAL_PATIENCE;
    let mut seen: HashSet<i32> = borrowed.into_iter().collect();
    loop {
        let fresh: Vec<i32> = list_threads(pid)
            .into_iter()
            .filter(|tid| seen.insert(*tid))
            .collect();
        if fresh.is_empty() {
            if seen.is_empty() {
                return Err(Error::new(pid, "stop all threads", Kind::Gone));
            }
            return Ok(held);
        }
        if Instant::now() >= deadline {
            let threads = fresh.iter().map(|tid| (*tid, '?')).collect();
            return Err(Error::new(
                pid,
                "stop all threads",
                Kind::NotStopped { threads },
            ));
        }
        let (running, sleeping): (Vec<i32>, Vec<i32>) = fresh
            .into_iter()
            .partition(|tid| read_thread_stat(pid, *tid).is_some_and(|stat| stat.state == 'R'));
        for batch in sleeping.chunks(BATCH) {
            stop_batch(
                tracer,
                batch,
                &mut held.sleepers,
                &mut held.unresponsive,
                inspect,
            )?;
        }
        if held.runners.is_empty() {
            held.since = Instant::now();
        }
        stop_batch(
            tracer,
            &running,
            &mut held.runners,
            &mut held.unresponsive,
            inspect,
        )?;
    }
}

fn stop_batch<'t>(
    tracer: &'t Tracer,
    batch: &[i32],
    stopped: &mut Vec<Stopped<'t>>,
    unresponsive: &mut Vec<i32>,
    inspect: &mut dyn FnMut(&Stopped<'_>),
) -> Result<(), Error> {
    let mut begun = Vec::with_capacity(batch.len());
    for tid in batch {
        if tracer.begin_stop(*tid)? {
            begun.push(*tid);
        }
    }
    for tid in begun {
        let mut outcome = tracer.finish_stop(tid, SLEEP_PATIENCE)?;
        if matches!(outcome, StopOutcome::Unresponsive) && !sleeps_in_kernel(tracer.pid(), tid) {
            outcome = tracer.finish_stop(tid, THREAD_PATIENCE)?;
        }
        match outcome {
            StopOutcome::Stopped(thread) => {
                inspect(&thread);
                stopped.push(thread);
            }
            StopOutcome::Gone => {}
            StopOutcome::Unresponsive => require_kernel_sleep(tracer.pid(), tid, unresponsive)?,
        }
    }
    Ok(())
}

fn sleeps_in_kernel(pid: i32, tid: i32) -> bool {
    read_thread_stat(pid, tid).is_some_and(|stat| stat.state == 'D')
}

/// An unresponsive thread is as good as stopped only if it sits in the kernel.
fn require_kernel_sleep(pid: i32, tid: i32, unresponsive: &mut Vec<i32>) -> Result<(), Error> {
    match read_thread_stat(pid, tid) {
        Some(stat) if stat.state == 'D' => {
            unresponsive.push(tid);
            Ok(())
        }
        Some(stat) => {
            let threads = vec![(tid, stat.state)];
            Err(Error::new(
                pid,
                "stop all threads",
                Kind::NotStopped { threads },
            ))
        }
        None => Ok(()),
    }
}
