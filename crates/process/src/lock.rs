//! One tool at a time for a target.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Kind};

/// Held while a tool works on a process.
///
/// It is an flock(2) on the directory /proc/PID: it needs no file of ours, belongs to exactly
/// this process (not to a later one with the same number), and vanishes with its holder
/// however that ends.
#[derive(Debug)]
pub struct ProcessLock {
    _held: Flock<File>,
}

impl ProcessLock {
    /// Takes the lock, or says that another tool has it.
    ///
    /// # Errors
    ///
    /// [`Kind::Gone`] and [`Kind::Locked`].
    pub fn acquire(pid: i32) -> Result<Self, Error> {
        let context = "take hold of it";
        let directory =
            File::open(format!("/proc/{pid}")).map_err(|_| Error::new(pid, context, Kind::Gone))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self { _held: held }),
            Err((_, Errno::EWOULDBLOCK)) => Err(Error::new(pid, context, Kind::Locked)),
            Err((_, errno)) => Err(Error::system(pid, context, errno)),
        }
    }
}
