//! A transition of the kernel, followed by looking.

use std::thread::sleep;
use std::time::Duration;

use engraft_engine::{BlockerStatus, Direction, TransitionStatus};
use engraft_kernel::{Kernel, Patch, Task};

use crate::failure::Failure;
use crate::wait::Transitioning;

/// The kernel's only transition.
pub(super) struct KernelTransition {
    kernel: Kernel,
    /// How often it was looked at.
    looks: u32,
    /// How many there were then.
    tasks: u32,
}

impl KernelTransition {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            looks: 0,
            tasks: 0,
        }
    }
}

/// The transition that runs among these patches.
pub(super) fn read_transition(kernel: &Kernel, patches: &[Patch]) -> Option<TransitionStatus> {
    let patch = patches.iter().find(|patch| patch.transition)?;
    let tasks = kernel.tasks(patch);
    let left = tasks.left.iter();
    Some(TransitionStatus {
        patch: patch.name.clone(),
        target: if patch.enabled {
            Direction::Patched
        } else {
            Direction::Unpatched
        },
        total: tasks.total,
        switched: tasks.total.saturating_sub(tasks.left.len() as u32),
        attempts: 1,
        blockers: left.map(|task| describe_task(task, patches)).collect(),
    })
}

fn describe_task(task: &Task, patches: &[Patch]) -> BlockerStatus {
    let function = task.function_of(patches);
    BlockerStatus {
        tid: task.tid,
        comm: task.comm.clone(),
        state: task.state,
        reason: match &function {
            Some(name) => format!("is in function {name}"),
            None => "has not been switched yet".to_owned(),
        },
        function,
        stack: task.stack.clone(),
    }
}

impl Transitioning for KernelTransition {
    fn retry(&mut self) -> Result<Option<TransitionStatus>, Failure> {
        self.looks += 1;
        let status = read_transition(&self.kernel, &self.kernel.patches());
        self.tasks = match &status {
            Some(status) => status.total,
            None => self.kernel.count_tasks(),
        };
        Ok(status.map(|status| TransitionStatus {
            attempts: self.looks,
            ..status
        }))
    }

    fn pause(&mut self, time: Duration) -> Result<(), Failure> {
        sleep(time);
        Ok(())
    }

    fn reverse(&mut self, status: &TransitionStatus) -> Result<(), Failure> {
        let enable = status.target == Direction::Unpatched;
        Ok(self.kernel.set_enabled(&status.patch, enable)?)
    }

    fn force(&mut self) -> Result<(), Failure> {
        let patches = self.kernel.patches();
        match patches.iter().find(|patch| patch.transition) {
            Some(patch) => Ok(self.kernel.force(&patch.name)?),
            None => Ok(()),
        }
    }

    fn threads(&self) -> u32 {
        self.tasks
    }
}
