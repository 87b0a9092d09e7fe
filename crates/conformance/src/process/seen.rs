//! What is seen of a target from outside.

use std::collections::BTreeMap;

use engraft_engine::{PatchState, read_log, read_status};
use engraft_guest::{Context, Failure, Patch};

/// Lines of the log from number `seen` on, which is advanced; without those about single threads.
pub(super) fn read_new_lines(pid: i32, seen: &mut usize) -> Result<Vec<String>, Failure> {
    let lines = read_log(pid).context("reading the log")?;
    let lines = lines.into_iter().map(|line| line.text);
    let lines: Vec<String> = lines
        .filter(|line| !line.contains("klp_try_switch_task"))
        .filter(|line| !line.contains("signaling remaining tasks"))
        .collect();
    let new = lines.get(*seen..).unwrap_or_default().to_vec();
    *seen = lines.len();
    Ok(new)
}

/// Patches that are enabled or in transition.
pub(super) fn read_patches(pid: i32) -> Result<BTreeMap<String, Patch>, Failure> {
    let status = read_status(pid).context("reading the state")?;
    let stack = status
        .patches
        .into_iter()
        .filter(|patch| matches!(patch.state, PatchState::Enabled | PatchState::InTransition));
    let patches = stack.map(|patch| {
        let objects = patch.objects.into_iter();
        let seen = Patch {
            enabled: patch.enabled,
            transition: patch.transition,
            replace: Some(patch.replace),
            objects: objects
                .map(|object| (object.name, object.patched))
                .collect(),
        };
        (patch.name, seen)
    });
    Ok(patches.collect())
}
