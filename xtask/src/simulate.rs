//! The livepatch rules on the simulator: many random scenarios, in the release profile.

use crate::failure::Failure;
use crate::shell::{self, Log};
use crate::workspace::Workspace;

/// What CI runs.
pub(crate) const DEFAULT_COUNT: u64 = 100_000;

/// Runs the scenarios; a failing one prints its seed into the log.
pub(crate) fn run(
    workspace: &Workspace,
    count: u64,
    seed: Option<u64>,
    log: &Log,
) -> Result<String, Failure> {
    let mut command = workspace.cargo(&[
        "test",
        "--release",
        "--package",
        "engraft-core",
        "--test",
        "simulation",
    ]);
    command.env("ENGRAFT_SIM_COUNT", count.to_string());
    if let Some(seed) = seed {
        command.env("ENGRAFT_SIM_SEED", seed.to_string());
    }
    shell::run(&mut command, log)?;
    Ok(format!("{count} scenarios"))
}
