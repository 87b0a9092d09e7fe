//! The `engraft` command, used as a user would.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::build::Built;
use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

/// Compiled patch modules, by version.
pub(super) struct Modules {
    paths: [PathBuf; 3],
}

pub(super) const NAMES: [&str; 3] = ["fix_v1", "fix_v2", "fix_v3"];

impl Modules {
    /// `version` counts from 1.
    pub(super) fn path(&self, version: usize) -> &Path {
        &self.paths[version - 1]
    }
}

/// `engraft cc` on the three versions, with the include path of memcached's own source.
pub(super) fn compile_series(
    workspace: &Workspace,
    built: &Built,
    log: &Log,
) -> Result<Modules, Failure> {
    let build = ["build", "--release", "--package", "engraft"];
    shell::run(&mut workspace.cargo(&build), log)?;
    let directory = workspace.scratch("memcached")?;
    let mut paths = NAMES.map(|name| directory.join(format!("{name}.lp")));
    for (name, path) in NAMES.iter().zip(&mut paths) {
        let source = workspace.path(format!("xtask/src/memcached/{name}.c"));
        let mut command = Command::new(workspace.engraft_binary());
        command
            .arg("cc")
            .arg(source)
            .arg("-o")
            .arg(&*path)
            .arg("--")
            .arg("-DHAVE_CONFIG_H")
            .arg("-DNDEBUG")
            .arg("-I")
            .arg(&built.source);
        shell::run(&mut command, log)?;
    }
    Ok(Modules { paths })
}

/// `engraft` aimed at one process.
pub(super) struct Tool<'a> {
    binary: PathBuf,
    pid: u32,
    log: &'a Log,
}

impl<'a> Tool<'a> {
    pub(super) fn new(workspace: &Workspace, pid: u32, log: &'a Log) -> Self {
        Self {
            binary: workspace.engraft_binary(),
            pid,
            log,
        }
    }

    pub(super) fn load(&self, module: &Path) -> Result<(), Failure> {
        let module = module.to_string_lossy();
        self.run(&["load", &module]).map(drop)
    }

    pub(super) fn disable(&self, name: &str) -> Result<(), Failure> {
        self.run(&["disable", name]).map(drop)
    }

    pub(super) fn unload(&self, name: &str) -> Result<(), Failure> {
        self.run(&["unload", name]).map(drop)
    }

    /// Names of the enabled patches; a transition that still runs is a failure.
    pub(super) fn enabled(&self) -> Result<Vec<String>, Failure> {
        let text = self.run(&["status"])?;
        let status: Value = serde_json::from_str(&text).context("`engraft status --json`")?;
        parse_enabled(&status)
    }

    /// The target's livepatch log, for a failure.
    pub(super) fn write_log(&self) {
        let pid = self.pid.to_string();
        let mut command = Command::new(&self.binary);
        command.args(["log", "--debug", "--pid", &pid]);
        // The failure that is being reported matters more than a log that cannot be read.
        shell::run(&mut command, self.log).ok();
    }

    fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        let pid = self.pid.to_string();
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(["--pid", &pid, "--json"]);
        shell::read(&mut command, self.log)
    }
}

fn parse_enabled(status: &Value) -> Result<Vec<String>, Failure> {
    // One process was asked for; several are answered as a list.
    let status = status.get(0).unwrap_or(status);
    let wrong = |what: &str| Failure::new(format!("`engraft status --json`: {what}: {status}"));
    let transition = &status["transition"];
    if !transition.is_null() {
        return Err(wrong("a transition still runs"));
    }
    let patches = status["patches"]
        .as_array()
        .ok_or_else(|| wrong("no list of patches"))?;
    patches
        .iter()
        .filter(|patch| patch["enabled"] == true)
        .map(|patch| {
            patch["name"]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| wrong("a patch without a name"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse_enabled;

    #[test]
    fn only_enabled_patches_count() {
        let status = json!({
            "transition": null,
            "patches": [
                {"name": "fix_v1", "enabled": false},
                {"name": "fix_v2", "enabled": true},
            ],
        });
        assert_eq!(parse_enabled(&status).expect("a status"), ["fix_v2"]);
        let list = json!([status]);
        assert_eq!(parse_enabled(&list).expect("a list"), ["fix_v2"]);
    }

    #[test]
    fn a_running_transition_is_a_failure() {
        let status = json!({"transition": {"patch": "fix_v1"}, "patches": []});
        assert!(parse_enabled(&status).is_err());
        assert!(parse_enabled(&json!({"transition": null})).is_err());
    }
}
