//! Tasks, and which of them a transition waits for.

use std::fs;
use std::path::{Path, PathBuf};

use crate::stack::Patch;
use crate::{Kernel, directories};

/// How far a transition has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// Number of tasks.
    pub total: u32,
    /// Those that have not been switched.
    pub left: Vec<Task>,
}

/// A task that has not been switched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its number.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// Its state letter (proc_pid_stat(5)).
    pub state: char,
    /// Its stack in the kernel, innermost function first; only root may see it.
    pub stack: Vec<String>,
}

impl Task {
    /// The innermost function of a patch that it is in, if its stack tells.
    #[must_use]
    pub fn function_of(&self, patches: &[Patch]) -> Option<String> {
        let functions = || {
            let objects = patches.iter().flat_map(|patch| &patch.objects);
            objects.flat_map(|object| &object.functions)
        };
        let names = self.stack.iter().filter_map(|line| line.split('+').next());
        let mut hits = names.filter(|name| functions().any(|function| function.name == *name));
        hits.next().map(str::to_owned)
    }
}

impl Kernel {
    /// Number of tasks.
    #[must_use]
    pub fn count_tasks(&self) -> u32 {
        self.task_directories().count() as u32
    }

    /// The tasks that have not been switched by the transition to or from `patch`.
    #[must_use]
    pub fn tasks(&self, patch: &Patch) -> Tasks {
        let wanted = if patch.enabled { "1" } else { "0" };
        let mut tasks = Tasks::default();
        for (tid, path) in self.task_directories() {
            let Ok(state) = read(&path, "patch_state") else {
                continue;
            };
            tasks.total += 1;
            // -1: it has begun to exist after the transition.
            if !["-1", wanted].contains(&&*state) {
                tasks.left.push(read_task(tid, &path));
            }
        }
        tasks
    }

    fn task_directories(&self) -> impl Iterator<Item = (i32, PathBuf)> {
        let processes = directories(&self.proc()).into_iter();
        let tasks = processes
            .filter(|(name, _)| name.parse::<i32>().is_ok())
            .flat_map(|(_, path)| directories(&path.join("task")));
        tasks.filter_map(|(name, path)| Some((name.parse().ok()?, path)))
    }
}

fn read_task(tid: i32, path: &Path) -> Task {
    let stat = read(path, "stat").unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    let stack = read(path, "stack").unwrap_or_default();
    // `[<0>] function+0x12/0x34`, addresses being hidden.
    let frames = stack.lines().filter_map(|line| line.split_once("] "));
    Task {
        tid,
        comm: read(path, "comm").unwrap_or_default(),
        state: state.unwrap_or('?'),
        stack: frames.map(|(_, function)| function.to_owned()).collect(),
    }
}

fn read(directory: &Path, name: &str) -> std::io::Result<String> {
    Ok(fs::read_to_string(directory.join(name))?.trim().to_owned())
}
