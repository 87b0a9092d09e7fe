//! The kernel module that is the target.

use std::collections::BTreeSet;
use std::fs;

use nix::errno::Errno;

use crate::errno_of;

const CONTROL: &str = "/proc/conf";

/// Number of its threads.
const THREADS: usize = 3;

/// Which of its threads are inside a function.
#[derive(Debug, Default)]
pub(crate) struct Target {
    parked: BTreeSet<String>,
}

impl Target {
    /// Gives a command and returns the answer.
    pub(crate) fn obey(&mut self, command: &str) -> Result<String, Errno> {
        fs::write(CONTROL, command).map_err(|error| errno_of(&error))?;
        let mut words = command.split(' ');
        match (words.next(), words.next()) {
            (Some("park"), Some(thread)) => {
                self.parked.insert(format!("conf-{thread}"));
            }
            (Some("free"), Some(thread)) => {
                self.parked.remove(&format!("conf-{thread}"));
            }
            _ => {}
        }
        Self::read_answer()
    }

    /// What it has answered last.
    pub(crate) fn read_answer() -> Result<String, Errno> {
        let answer = fs::read_to_string(CONTROL).map_err(|error| errno_of(&error))?;
        Ok(answer.trim().to_owned())
    }

    /// Whether a scenario keeps the thread of that name inside a function.
    pub(crate) fn is_parked(&self, name: &str) -> bool {
        self.parked.contains(name)
    }

    pub(crate) fn free_all(&mut self) {
        for thread in 0..THREADS {
            // Most are free.
            let _ = self.obey(&format!("free {thread}"));
        }
    }
}
