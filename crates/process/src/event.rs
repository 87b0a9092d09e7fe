//! What happens to traced threads, as waitpid reports it.

use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::gettid;

use crate::identity;

/// How often a thread is looked at, at first and then.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_micros(20);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// What waitpid reported of a seized thread (ptrace(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Ended,
    /// About to receive this signal.
    Signal(i32),
    /// Stopped by job control.
    GroupStop,
    /// Stopped by PTRACE_INTERRUPT, or single-stepped.
    Interrupted,
    SyscallStop,
}

/// waitpid for one thread; `None` when nothing is to report (WNOHANG).
pub(crate) fn wait(tid: i32, flags: libc::c_int) -> Result<Option<Event>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a live local variable that waitpid writes an int into.
    let result = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | flags) };
    match Errno::result(result) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some(Event::Ended));
    }
    let signal = libc::WSTOPSIG(status);
    let event = match (status >> 16, signal) {
        (libc::PTRACE_EVENT_STOP, libc::SIGTRAP) => Event::Interrupted,
        (libc::PTRACE_EVENT_STOP, _) => Event::GroupStop,
        (_, signal) if signal == libc::SIGTRAP | 0x80 => Event::SyscallStop,
        (_, signal) => Event::Signal(signal),
    };
    Ok(Some(event))
}

/// Whether a thread is traced by this one. The number of a leader whose process has called
/// exec in another thread belongs to that one from then on, and nothing reports it.
pub(crate) fn is_traced(tid: i32) -> bool {
    identity::read_tracer(tid) == Some(gettid().as_raw())
}

/// Waits for the next event of a thread that runs under observation.
pub(crate) fn wait_for_event(tid: i32) -> Result<Event, Errno> {
    let mut pause = FIRST_PAUSE;
    loop {
        match wait(tid, libc::WNOHANG) {
            Ok(Some(event)) => return Ok(event),
            Err(Errno::ECHILD) => return Ok(Event::Ended),
            Err(errno) => return Err(errno),
            Ok(None) if pause >= LONGEST_PAUSE && !is_traced(tid) => return Ok(Event::Ended),
            Ok(None) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
