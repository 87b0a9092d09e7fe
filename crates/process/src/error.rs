//! What can go wrong with a process from outside.

use std::fmt;

/// A failed operation: what was tried on which process, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("process {pid}: {context}: {kind}")]
pub struct Error {
    /// The process.
    pub pid: i32,
    /// What was tried.
    pub context: String,
    /// Why it failed.
    pub kind: Kind,
}

/// Reasons of failure.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kind {
    /// No such process, or it ended meanwhile.
    Gone,
    /// It has executed another program meanwhile, which holds nothing of ours.
    Replaced,
    /// The kernel refuses; the text says which capability or setting would allow it.
    NotPermitted(String),
    /// Another process traces it.
    Traced {
        /// The tracer.
        by: i32,
    },
    /// A 32-bit process, or one of another machine.
    WrongMachine(String),
    /// Another engraft holds it.
    Locked,
    /// Memory cannot be read or written there.
    Memory {
        /// First address of the access.
        address: u64,
        /// The kernel's error.
        errno: nix::errno::Errno,
    },
    /// Some threads could not be stopped in time.
    NotStopped {
        /// Thread and its state letter.
        threads: Vec<(i32, char)>,
    },
    /// The process is stopped (job control or frozen), so no code can run in it.
    Suspended,
    /// A system call made in the target failed.
    RemoteCall {
        /// Its name.
        name: &'static str,
        /// The error.
        errno: nix::errno::Errno,
    },
    /// Something else than expected happened to a borrowed thread.
    Strayed(String),
    /// Any other failed system call of this process.
    System(nix::errno::Errno),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("no such process"),
            Self::Replaced => f.write_str(
                "it has executed another program meanwhile (execve), which is not patched; load again",
            ),
            Self::NotPermitted(why) => write!(f, "not permitted: {why}"),
            Self::Traced { by } => {
                write!(
                    f,
                    "already traced by process {by} (a debugger?); detach it first"
                )
            }
            Self::WrongMachine(what) => {
                write!(f, "{what}; only 64-bit x86-64 programs can be patched")
            }
            Self::Locked => f.write_str("another engraft is working on it; wait until it is done"),
            Self::Memory { address, errno } => {
                write!(f, "memory at {address:#x}: {}", errno.desc())
            }
            Self::NotStopped { threads } => {
                f.write_str("cannot stop thread")?;
                for (tid, state) in threads {
                    write!(f, " {tid} (state {state})")?;
                }
                Ok(())
            }
            Self::Suspended => f.write_str(
                "it is stopped by job control or frozen; continue it (kill -CONT) first",
            ),
            Self::RemoteCall { name, errno } => {
                write!(f, "{name} made in the target: {}", errno.desc())
            }
            Self::Strayed(what) => f.write_str(what),
            Self::System(errno) => f.write_str(errno.desc()),
        }
    }
}

impl Error {
    pub(crate) fn new(pid: i32, context: impl Into<String>, kind: Kind) -> Self {
        Self {
            pid,
            context: context.into(),
            kind,
        }
    }

    pub(crate) fn system(pid: i32, context: impl Into<String>, errno: nix::errno::Errno) -> Self {
        let kind = match errno {
            nix::errno::Errno::ESRCH => Kind::Gone,
            errno => Kind::System(errno),
        };
        Self::new(pid, context, kind)
    }

    /// Whether the process, or the program that it ran, is known to have ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.kind, Kind::Gone | Kind::Replaced)
    }
}
