//! The process that an engine works on.

use engraft_process::{Identity, Mapping, Memory, ProcessLock, Tracer, read_maps};

use crate::error::Error;

/// A process that is open for work: its memory, its threads, and who it is.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) pid: i32,
    pub(crate) identity: Identity,
    pub(crate) memory: Memory,
    pub(crate) tracer: Tracer,
    /// `None` for those who only look.
    _lock: Option<ProcessLock>,
}

impl Attached {
    /// Opens a process to look at it.
    pub(crate) fn look(pid: i32) -> Result<Self, Error> {
        // Another engraft may be at work: its short stops do not hinder a look.
        let identity = Identity::read_traced(pid)?;
        Self::open(pid, identity, None)
    }

    /// Opens a process to change it.
    pub(crate) fn hold(pid: i32) -> Result<Self, Error> {
        let lock = ProcessLock::acquire(pid)?;
        let identity = Identity::read(pid)?;
        let process = Self::open(pid, identity, Some(lock))?;
        process.tracer.reap()?;
        Ok(process)
    }

    fn open(pid: i32, identity: Identity, lock: Option<ProcessLock>) -> Result<Self, Error> {
        let memory = Memory::open(pid)?;
        Ok(Self {
            pid,
            identity,
            memory,
            tracer: Tracer::new(pid),
            _lock: lock,
        })
    }

    /// The cause of a failure: whatever it seems to be, if the program has ended meanwhile,
    /// that is it.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match self.memory.check_alive() {
            Ok(()) => error,
            Err(end) => end.into(),
        }
    }

    pub(crate) fn maps(&self) -> Result<Vec<Mapping>, Error> {
        Ok(read_maps(self.pid)?)
    }
}
