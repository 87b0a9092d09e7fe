//! A run of named steps: one line each, the output only of those that fail, a summary.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::excerpt;
use crate::failure::Failure;
use crate::shell::Log;
use crate::workspace::Workspace;

/// What a step does; the text it returns is printed beside its duration.
pub(crate) type Action<'a> = dyn Fn(&Log) -> Result<String, Failure> + 'a;

/// Steps run in order, and the names of those that failed.
pub(crate) struct Steps<'a> {
    workspace: &'a Workspace,
    failed: Vec<String>,
    started: Instant,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(workspace: &'a Workspace) -> Self {
        Self {
            workspace,
            failed: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Runs one step; whether it succeeded is returned and remembered.
    pub(crate) fn run(&mut self, name: &str, action: &Action<'_>) -> Result<bool, Failure> {
        print!("{name:<10} ");
        std::io::stdout().flush().ok();
        let path = self.workspace.scratch("")?.join(format!("{name}.log"));
        let log = Log::file(path)?;
        let started = Instant::now();
        match action(&log) {
            Ok(note) => {
                println!("ok     {:>7}  {note}", seconds(started.elapsed()));
                Ok(true)
            }
            Err(failure) => {
                println!("FAILED {:>7}  {failure}", seconds(started.elapsed()));
                show_excerpt(&log);
                self.failed.push(name.to_owned());
                Ok(false)
            }
        }
    }

    /// The summary line; a failure when any step failed.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let total = seconds(self.started.elapsed());
        if self.failed.is_empty() {
            println!("all steps passed in {total}");
            Ok(())
        } else {
            let names = self.failed.join(", ");
            Err(Failure::new(format!("failed after {total}: {names}")))
        }
    }
}

/// All of the output stays in the log.
fn show_excerpt(log: &Log) {
    for line in excerpt::of(&log.contents()) {
        println!("    {line}");
    }
    if let Some(path) = log.path() {
        println!("    (all of it: {})", path.display());
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
