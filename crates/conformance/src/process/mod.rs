//! The process' side: a program with the same functions and threads as the kernel's target.

mod build;
mod program;
mod seen;
mod target;

use std::path::{Path, PathBuf};

use crate::side::Side;
use engraft_guest::{Failure, Outcome, Step};
use target::Target;

/// A running process. Every scenario has a new one.
pub struct ProcessSide {
    directory: PathBuf,
    target: Option<Target>,
}

impl ProcessSide {
    /// Builds the target and the livepatches.
    ///
    /// # Errors
    ///
    /// When something cannot be built.
    pub fn start(work: &Path) -> Result<Self, Failure> {
        let directory = work.join("process");
        build::build(&directory)?;
        Ok(Self {
            directory,
            target: None,
        })
    }

    fn target(&mut self) -> Result<&mut Target, Failure> {
        let target = match self.target.take() {
            Some(target) => target,
            None => Target::start(&self.directory)?,
        };
        Ok(self.target.insert(target))
    }
}

impl Side for ProcessSide {
    fn take(&mut self, step: &Step) -> Result<Outcome, Failure> {
        let directory = self.directory.clone();
        self.target()?.take(&directory, step)
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.target = None;
        Ok(())
    }
}
