//! The `engraft` command, used as a user would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

/// `engraft`, with a log for what it prints.
pub(super) struct Engraft<'a> {
    binary: PathBuf,
    log: &'a Log,
}

/// What a module is built from.
pub(super) struct Request<'a> {
    pub(super) source: &'a Path,
    pub(super) patches: Vec<PathBuf>,
    /// A C file, and a directory for headers.
    pub(super) hook: Option<(PathBuf, PathBuf)>,
    pub(super) target: &'a str,
    pub(super) module: &'a Path,
    /// A command line for the shell.
    pub(super) build: &'a str,
}

/// What `engraft build` answers.
pub(super) struct Answer {
    /// Names of the functions that are replaced, sorted.
    pub(super) replaced: Vec<String>,
    /// Of these: those that a running program is said to be past, sorted.
    pub(super) in_vain: Vec<String>,
    /// Reasons for not making a module.
    pub(super) refusals: Vec<String>,
    pub(super) seconds: Seconds,
    /// All of it, for messages.
    pub(super) report: Value,
}

/// How long a build took.
#[derive(Clone, Copy, Default)]
pub(super) struct Seconds {
    /// Both compilations.
    pub(super) compiling: f64,
    /// Comparing, extracting and writing.
    pub(super) comparing: f64,
}

impl<'a> Engraft<'a> {
    pub(super) fn new(workspace: &Workspace, log: &'a Log) -> Self {
        Self {
            binary: workspace.engraft_binary(),
            log,
        }
    }

    /// A module, or the reasons why there is none.
    pub(super) fn build(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        if request.module.exists() {
            let doing = format!("removing {}", request.module.display());
            fs::remove_file(request.module).context(doing)?;
        }
        let mut command = Command::new(&self.binary);
        command.args(["--json", "build", "--source"]);
        command.arg(request.source);
        for patch in &request.patches {
            command.arg("--patch").arg(patch);
        }
        if let Some((hook, include)) = &request.hook {
            command.arg("--hook").arg(hook).arg("-I").arg(include);
        }
        command
            .args(["--target", request.target, "--output"])
            .arg(request.module)
            .args(["--", "sh", "-c", request.build])
            .stderr(self.log.output()?);
        let output = command.output().context("engraft build")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = text.lines().next().unwrap_or_default();
        let answer: Value = serde_json::from_str(first)
            .map_err(|_| Failure::new(format!("engraft build answers {text:?}")))?;
        if answer["report"].is_null() {
            return Err(Failure::new(format!("engraft build: {first}")));
        }
        Ok(Answer::read(&answer))
    }

    /// A command such as `load` for one process; it must succeed.
    pub(super) fn act(&self, command: &str, operand: &str, pid: u32) -> Result<(), Failure> {
        shell::read(&mut self.command(command, operand, pid), self.log).map(drop)
    }

    /// Names of the enabled patches of a process.
    pub(super) fn enabled(&self, pid: u32) -> Result<Vec<String>, Failure> {
        let mut command = Command::new(&self.binary);
        command.args(["list", "--pid", &pid.to_string(), "--json"]);
        let text = shell::read(&mut command, self.log)?;
        let answer: Value = serde_json::from_str(&text).context("`engraft list --json`")?;
        let patches = answer["patches"].as_array().into_iter().flatten();
        Ok(patches
            .filter(|patch| patch["enabled"] == true)
            .filter_map(|patch| patch["name"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// `engraft load` that must end without having completed; what it says.
    pub(super) fn load_in_vain(&self, module: &Path, pid: u32) -> Result<String, Failure> {
        const NOT_COMPLETED: i32 = 3;
        let mut command = self.command("load", &module.to_string_lossy(), pid);
        command.args(["--timeout", "2"]).stderr(self.log.output()?);
        let output = command.output().context("engraft load")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(NOT_COMPLETED) {
            Ok(text)
        } else {
            let described = shell::describe(&command);
            let message = format!("{described}: {}, not 3: {text}", output.status);
            Err(Failure::new(message))
        }
    }

    fn command(&self, command: &str, operand: &str, pid: u32) -> Command {
        let mut result = Command::new(&self.binary);
        result.args([command, operand, "--pid", &pid.to_string(), "--json"]);
        result
    }
}

impl Answer {
    fn read(answer: &Value) -> Self {
        let report = &answer["report"];
        let mut replaced = names(&report["replaced"]);
        replaced.sort_unstable();
        let mut in_vain = names(&report["once"]);
        in_vain.sort_unstable();
        let refusals = report["refusals"].as_array().into_iter().flatten();
        let seconds = |what: &str| answer["seconds"][what].as_f64().unwrap_or_default();
        Self {
            replaced,
            in_vain,
            refusals: refusals.map(Value::to_string).collect(),
            seconds: Seconds {
                compiling: seconds("compiling"),
                comparing: seconds("comparing"),
            },
            report: report.clone(),
        }
    }
}

/// The names in a list of things that have one.
fn names(list: &Value) -> Vec<String> {
    let things = list.as_array().into_iter().flatten();
    things
        .filter_map(|thing| thing["name"].as_str())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Answer;

    #[test]
    fn what_is_replaced_is_read_in_order() {
        let answer = Answer::read(&json!({
            "report": {
                "replaced": [{"name": "second"}, {"name": "first"}],
                "refusals": [],
            },
            "seconds": {"compiling": 2.5, "comparing": 0.5},
        }));
        assert_eq!(answer.replaced, ["first", "second"]);
        assert!(answer.refusals.is_empty());
        assert!((answer.seconds.compiling - 2.5).abs() < f64::EPSILON);
    }
}
