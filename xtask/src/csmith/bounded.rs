//! Commands with a limit to their time and memory: nothing that is generated can be trusted
//! to end.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};

/// Address space of a compiler.
const MEMORY: &str = "--as=4294967296";

/// The command, killed after `seconds`.
pub(super) fn limit_time(program: &Path, seconds: u32) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg("--signal=KILL")
        .arg(seconds.to_string())
        .arg(program);
    command
}

/// The command, killed after `seconds` and with a limit to its memory.
pub(super) fn limit(program: &str, seconds: u32) -> Command {
    let mut command = limit_time(Path::new("prlimit"), seconds);
    command.args([MEMORY, program]);
    command
}

/// Whether it ends well, its output going to the log.
pub(super) fn succeeds(command: &mut Command, log: &Log) -> Result<bool, Failure> {
    command
        .stdin(Stdio::null())
        .stdout(log.output()?)
        .stderr(log.output()?);
    let status = command.status().context(shell::describe(command))?;
    Ok(status.success())
}

/// What it prints and how it ends.
pub(super) fn finish(command: &mut Command, log: &Log) -> Result<Output, Failure> {
    command.stdin(Stdio::null()).stderr(log.output()?);
    command.output().context(shell::describe(command))
}
