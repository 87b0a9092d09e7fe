//! Stopping single threads of a process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::bystander::Bystander;
use crate::error::{Error, Kind};
use crate::event::{Event, FIRST_PAUSE, LONGEST_PAUSE, is_traced, wait};
use crate::identity;
use crate::thread::Stopped;

/// What became of an attempt to stop a thread. A verdict, not an error.
#[derive(Debug)]
pub enum StopOutcome<'t> {
    /// It stands still until the value is dropped or released.
    Stopped(Stopped<'t>),
    /// It has ended.
    Gone,
    /// It sleeps uninterruptibly in the kernel. Its stop is pending: it will not execute
    /// another user instruction before it is seen by [`Tracer::reap`].
    Unresponsive,
}

/// How long a call of exec may make it impossible to attach.
const EXEC_PATIENCE: Duration = Duration::from_millis(50);

/// How long a tracer that is dropped waits for threads that were killed, or that sleep
/// uninterruptibly.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Stops threads of one process. Use it from one operating system thread only.
#[derive(Debug)]
pub struct Tracer {
    pid: i32,
    /// Seized threads whose stop is still pending.
    pending: RefCell<Vec<i32>>,
    bystander: Bystander,
    /// Keeps the tracer on its thread: ptrace knows the tracing thread, not the process.
    _not_send: std::marker::PhantomData<*const ()>,
}

thread_local! {
    /// What tracers of this thread have left: process and threads whose stop is pending.
    static LEFT_BEHIND: RefCell<HashMap<i32, Vec<i32>>> = RefCell::default();
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_PATIENCE;
        while self.reap().is_ok_and(|left| left > 0) && Instant::now() < deadline {
            std::thread::sleep(LONGEST_PAUSE);
        }
        let left = self.pending.take();
        if !left.is_empty() {
            LEFT_BEHIND.with_borrow_mut(|all| all.insert(self.pid, left));
        }
    }
}

enum Waited {
    Stop { signal: Option<i32>, group: bool },
    Gone,
    NotYet,
}

impl Tracer {
    /// A tracer for `pid`. Nothing is attached yet, but for threads that an earlier one on
    /// this operating system thread could not let go of.
    #[must_use]
    pub fn new(pid: i32) -> Self {
        let left = LEFT_BEHIND.with_borrow_mut(|all| all.remove(&pid));
        let pending = left.unwrap_or_default();
        Self {
            pid,
            bystander: Bystander::new(pid, &pending),
            pending: RefCell::new(pending),
            _not_send: std::marker::PhantomData,
        }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Stops one thread, waiting at most `patience`.
    ///
    /// # Errors
    ///
    /// [`Kind::Traced`], [`Kind::NotPermitted`], [`Kind::System`].
    pub fn stop(&self, tid: i32, patience: Duration) -> Result<StopOutcome<'_>, Error> {
        if !self.begin_stop(tid)? {
            return Ok(StopOutcome::Gone);
        }
        self.finish_stop(tid, patience)
    }

    /// Asks a thread to stop, without waiting. False when it is gone.
    pub(crate) fn begin_stop(&self, tid: i32) -> Result<bool, Error> {
        if self.pending.borrow().contains(&tid) {
            return Ok(!self.has_ended(tid));
        }
        if !self.seize(tid)? {
            return Ok(false);
        }
        self.pending.borrow_mut().push(tid);
        match ptrace::interrupt(Pid::from_raw(tid)) {
            Ok(()) | Err(Errno::ESRCH) => Ok(true),
            Err(errno) => Err(Error::system(
                self.pid,
                format!("interrupt thread {tid}"),
                errno,
            )),
        }
    }

    /// Attaches to a thread. False when it is gone.
    fn seize(&self, tid: i32) -> Result<bool, Error> {
        let context = || format!("attach to thread {tid}");
        let deadline = Instant::now() + EXEC_PATIENCE;
        loop {
            let options = ptrace::Options::PTRACE_O_TRACESYSGOOD;
            let seize = || ptrace::seize(Pid::from_raw(tid), options);
            match self.bystander.attach(tid, seize) {
                Ok(()) => return Ok(true),
                Err(Errno::ESRCH) => return Ok(false),
                Err(Errno::EPERM) if self.has_ended(tid) => return Ok(false),
                Err(Errno::EPERM) => {}
                Err(errno) => return Err(Error::system(self.pid, context(), errno)),
            }
            let kind = match identity::read_tracer(tid) {
                // See `find_stray`.
                Some(_) if is_traced(tid) => Kind::Replaced,
                Some(by) => Kind::Traced { by },
                // A thread cannot be attached to while it takes over the leader's number.
                None if Instant::now() < deadline => {
                    std::thread::sleep(LONGEST_PAUSE);
                    continue;
                }
                None => identity::explain_permission(self.pid),
            };
            return Err(Error::new(self.pid, context(), kind));
        }
    }

    /// Waits for a stop that was begun.
    pub(crate) fn finish_stop(
        &self,
        tid: i32,
        patience: Duration,
    ) -> Result<StopOutcome<'_>, Error> {
        let deadline = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.wait_once(tid)? {
                Waited::Stop { signal, group } => {
                    self.arrived(tid);
                    return match Stopped::take(self, tid, signal, group)? {
                        Some(stopped) => Ok(StopOutcome::Stopped(stopped)),
                        None => Ok(StopOutcome::Gone),
                    };
                }
                Waited::Gone => {
                    self.forget(tid);
                    return Ok(StopOutcome::Gone);
                }
                Waited::NotYet if Instant::now() >= deadline => {
                    return Ok(StopOutcome::Unresponsive);
                }
                Waited::NotYet if pause >= LONGEST_PAUSE && !is_traced(tid) => {
                    self.forget(tid);
                    return Ok(StopOutcome::Gone);
                }
                // A leader that ends before the other threads reports it after them.
                Waited::NotYet if pause >= LONGEST_PAUSE && self.has_ended(tid) => {
                    return Ok(StopOutcome::Gone);
                }
                Waited::NotYet => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Lets go of threads whose stop was pending and has come about meanwhile, and takes note
    /// of the end of those that were killed: before that their process does not end. Returns
    /// how many are left; they are let go when the tracing thread ends, or by another call.
    /// Nothing may be held when this is called.
    ///
    /// # Errors
    ///
    /// As [`Tracer::stop`].
    pub fn reap(&self) -> Result<usize, Error> {
        let pending = self.pending.borrow().clone();
        for tid in pending {
            drop(self.finish_stop(tid, Duration::ZERO)?);
        }
        self.find_stray();
        Ok(self.pending.borrow().len())
    }

    /// A traced thread that calls exec takes over the leader's number, and stays traced.
    fn find_stray(&self) {
        if is_traced(self.pid) && !self.pending.borrow().contains(&self.pid) {
            self.pending.borrow_mut().push(self.pid);
            // It may have stopped by itself, or be gone: the wait that follows tells.
            let _ = ptrace::interrupt(Pid::from_raw(self.pid));
        }
    }

    fn has_ended(&self, tid: i32) -> bool {
        identity::read_thread_stat(self.pid, tid).is_none_or(|stat| matches!(stat.state, 'Z' | 'X'))
    }

    /// A traced thread was killed; its end is still to be taken note of.
    pub(crate) fn expect_end_of(&self, tid: i32) {
        self.pending.borrow_mut().push(tid);
    }

    /// A thread is no longer traced.
    pub(crate) fn detached(&self, tid: i32) {
        self.bystander.detached(tid);
    }

    fn arrived(&self, tid: i32) {
        self.pending.borrow_mut().retain(|other| *other != tid);
    }

    fn forget(&self, tid: i32) {
        self.arrived(tid);
        self.detached(tid);
    }

    fn wait_once(&self, tid: i32) -> Result<Waited, Error> {
        match wait(tid, libc::WNOHANG) {
            Ok(None) => Ok(Waited::NotYet),
            Ok(Some(event)) => Ok(match event {
                Event::Ended => Waited::Gone,
                Event::Signal(signal) => Waited::Stop {
                    signal: Some(signal),
                    group: false,
                },
                Event::GroupStop => Waited::Stop {
                    signal: None,
                    group: true,
                },
                Event::Interrupted | Event::SyscallStop => Waited::Stop {
                    signal: None,
                    group: false,
                },
            }),
            Err(Errno::ECHILD) => Ok(Waited::Gone),
            Err(errno) => Err(Error::system(
                self.pid,
                format!("wait for thread {tid}"),
                errno,
            )),
        }
    }
}
