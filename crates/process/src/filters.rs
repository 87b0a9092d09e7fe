//! Threads that filter their system calls (seccomp(2)): what is run in one for a moment must not
//! be killed for what the program itself never does.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::error::{Error, Kind};
use crate::identity::{Status, list_threads};

const CAP_SYS_ADMIN: u32 = 21;

/// PTRACE_O_SUSPEND_SECCOMP (Linux 4.3), which nix does not know.
const SUSPEND_FILTERS: i32 = 1 << 21;

/// Refuses a process with filters that this tool could not lift.
///
/// # Errors
///
/// [`Kind::NotPermitted`].
pub fn require_liftable(pid: i32) -> Result<(), Error> {
    if may_lift() || !list_threads(pid).into_iter().any(filters_calls) {
        return Ok(());
    }
    Err(Error::new(pid, "run code", refused()))
}

/// Lifts the filters of a stopped thread until it is detached from, which the end of this tool
/// does as well. They hold again when the thread is back in its own code.
pub(crate) fn lift(pid: i32, tid: i32) -> Result<(), Error> {
    if !filters_calls(tid) {
        return Ok(());
    }
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD.bits() | SUSPEND_FILTERS;
    let options = ptrace::Options::from_bits_retain(options);
    let kind = match ptrace::setoptions(Pid::from_raw(tid), options) {
        // A thread that has been killed meanwhile is noticed when it is to run.
        Ok(()) | Err(Errno::ESRCH) => return Ok(()),
        Err(Errno::EPERM) => refused(),
        Err(Errno::EINVAL) => Kind::NotPermitted(
            "it filters its system calls (seccomp), and this kernel cannot lift that for a moment \
             (it lacks CONFIG_CHECKPOINT_RESTORE); start it without the filter"
                .to_owned(),
        ),
        Err(errno) => Kind::System(errno),
    };
    Err(Error::new(pid, format!("run code in thread {tid}"), kind))
}

fn filters_calls(tid: i32) -> bool {
    Status::read(tid).is_some_and(|status| status.seccomp() != 0)
}

/// Whether the kernel lets this thread lift filters (ptrace(2), PTRACE_O_SUSPEND_SECCOMP).
fn may_lift() -> bool {
    Status::read(nix::unistd::gettid().as_raw())
        .is_some_and(|own| own.seccomp() == 0 && own.has_capability(CAP_SYS_ADMIN))
}

fn refused() -> Kind {
    Kind::NotPermitted(
        "it filters its system calls (seccomp), and only a tool that has CAP_SYS_ADMIN and no \
         filter itself can lift that while it runs code there; run as root, or start it without \
         the filter (systemd: SystemCallFilter= and most Restrict settings)"
            .to_owned(),
    )
}
