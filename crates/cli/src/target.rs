//! What a command is about.

use std::path::PathBuf;

use clap::Args;

use crate::failure::{Failure, Verdict};
use crate::output::Output;

/// `--pid N`, `--exe PATH` or `--kernel`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// The process with this number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Every process that runs this program
    #[arg(long, value_name = "PATH")]
    exe: Option<PathBuf>,
    /// The running kernel's own livepatch
    #[arg(long)]
    pub(crate) kernel: bool,
}

impl Target {
    /// The processes meant, at least one.
    pub(crate) fn processes(&self) -> Result<Vec<i32>, Failure> {
        if self.kernel {
            return Err(Failure::new("this command is for processes only")
                .with_help("name one with --pid, or a program with --exe"));
        }
        if let Some(pid) = self.pid {
            return Ok(vec![pid]);
        }
        let exe = self.exe.clone().unwrap_or_default();
        let processes = engraft_engine::find_processes(&exe).map_err(|error| {
            Failure::new(format!(
                "cannot look for processes of {}: {error}",
                exe.display()
            ))
        })?;
        if processes.is_empty() {
            let message = format!("no process runs {} (ESRCH)", exe.display());
            return Err(Failure {
                errno: Some("ESRCH".to_owned()),
                ..Failure::new(message)
            }
            .with_help(
                "only processes that this user may inspect are found; --pid names one directly",
            ));
        }
        Ok(processes)
    }
}

/// Does something with each process, one after the other, whether or not it failed with an
/// earlier one. Returns the worst verdict.
pub(crate) fn for_each(
    target: &Target,
    output: &Output,
    action: impl FnMut(i32) -> Result<Verdict, Failure>,
) -> Result<Verdict, Failure> {
    let processes = target.processes()?;
    let named = output.json || processes.len() > 1;
    let report = |pid, failure: &Failure| output.failure(named.then_some(pid), failure);
    Ok(visit(&processes, report, action))
}

fn visit(
    processes: &[i32],
    mut report: impl FnMut(i32, &Failure),
    mut action: impl FnMut(i32) -> Result<Verdict, Failure>,
) -> Verdict {
    let mut worst = Verdict::Done;
    for &pid in processes {
        let verdict = action(pid).unwrap_or_else(|failure| {
            report(pid, &failure);
            failure.verdict
        });
        worst = worst.max(verdict);
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_does_not_spare_the_others() {
        let mut visited = Vec::new();
        let mut reported = Vec::new();
        let verdict = visit(
            &[10, 11, 12],
            |pid, failure| reported.push(format!("{pid}: {failure}")),
            |pid| {
                visited.push(pid);
                match pid {
                    10 => Err(Failure::new("no")),
                    11 => Ok(Verdict::NotInTime),
                    _ => Ok(Verdict::Done),
                }
            },
        );
        assert_eq!(verdict, Verdict::Failed);
        assert_eq!(visited, [10, 11, 12]);
        assert_eq!(reported, ["10: no"]);
    }

    #[test]
    fn all_done_is_done() {
        let unreported = |pid, _: &Failure| panic!("{pid} was reported");
        assert_eq!(
            visit(&[10, 11], unreported, |_| Ok(Verdict::Done)),
            Verdict::Done
        );
    }
}
