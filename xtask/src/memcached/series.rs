//! Up and down a cumulative series: each step asserts the new behaviour and no trace of the
//! old one, on every connection.

use super::engraft::{Modules, NAMES, Tool};
use super::level::Level;
use super::load::Load;
use crate::failure::{Context, Failure};

/// One command on the series; versions count from 1.
#[derive(Clone, Copy, Debug)]
enum Step {
    Load(usize),
    Unload(usize),
    Disable(usize),
}

/// A replaced version must be unloaded before it can be loaded again: that is a downgrade.
const ROUND: &[Step] = &[
    Step::Load(1),
    Step::Load(2),
    Step::Unload(1),
    Step::Load(3),
    Step::Unload(2),
    Step::Load(2),
    Step::Unload(3),
    Step::Load(1),
    Step::Unload(2),
    Step::Disable(1),
    Step::Unload(1),
];

pub(super) fn run(
    tool: &Tool<'_>,
    modules: &Modules,
    load: &Load,
    rounds: u32,
) -> Result<(), Failure> {
    for round in 1..=rounds {
        for step in ROUND {
            let outcome = take(*step, tool, modules, load);
            if outcome.is_err() {
                tool.write_log();
            }
            outcome.context(format!("round {round}, {step:?}"))?;
        }
    }
    Ok(())
}

fn take(step: Step, tool: &Tool<'_>, modules: &Modules, load: &Load) -> Result<(), Failure> {
    if let Some(level) = level_after(step) {
        load.begin(level);
    }
    match step {
        Step::Load(version) => tool.load(modules.path(version))?,
        Step::Unload(version) => tool.unload(NAMES[version - 1])?,
        Step::Disable(version) => tool.disable(NAMES[version - 1])?,
    }
    if level_after(step).is_none() {
        return load.check();
    }
    load.settle()?;
    let expected: &[&str] = match step {
        Step::Load(version) => &NAMES[version - 1..version],
        Step::Unload(_) | Step::Disable(_) => &[],
    };
    let enabled = tool.enabled()?;
    if enabled == expected {
        Ok(())
    } else {
        let message = format!("enabled are {enabled:?}, expected {expected:?}");
        Err(Failure::new(message))
    }
}

/// `None` for a step that must change nothing.
fn level_after(step: Step) -> Option<Level> {
    match step {
        Step::Load(1) => Some(Level::V1),
        Step::Load(2) => Some(Level::V2),
        Step::Load(_) => Some(Level::V3),
        Step::Disable(_) => Some(Level::Unpatched),
        Step::Unload(_) => None,
    }
}
