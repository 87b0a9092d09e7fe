//! The kernel's livepatch as it shows itself in sysfs and /proc.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::errno_of;
use engraft_guest::{Failure, Patch};

const DIRECTORY: &str = "/sys/kernel/livepatch";

/// Writes an attribute of a patch.
pub(crate) fn write(patch: &str, attribute: &str, value: &str) -> Result<(), Errno> {
    let path = Path::new(DIRECTORY).join(patch).join(attribute);
    fs::write(path, value).map_err(|error| errno_of(&error))
}

/// All patches of the stack.
pub(crate) fn read() -> Result<BTreeMap<String, Patch>, Failure> {
    let mut patches = BTreeMap::new();
    for (name, path) in directories(Path::new(DIRECTORY)) {
        let objects = directories(&path).into_iter();
        let objects = objects.filter_map(|(name, path)| Some((name, flag(&path, "patched")?)));
        let patch = Patch {
            enabled: flag(&path, "enabled").unwrap_or_default(),
            transition: flag(&path, "transition").unwrap_or_default(),
            replace: flag(&path, "replace"),
            objects: objects.collect(),
        };
        patches.insert(name, patch);
    }
    Ok(patches)
}

fn directories(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect()
}

fn flag(patch: &Path, attribute: &str) -> Option<bool> {
    let text = fs::read_to_string(patch.join(attribute)).ok()?;
    Some(text.trim() == "1")
}

/// Names of the threads that have not been switched yet.
pub(crate) fn stragglers(patches: &BTreeMap<String, Patch>) -> Vec<String> {
    let Some(patch) = patches.values().find(|patch| patch.transition) else {
        return Vec::new();
    };
    let wanted = if patch.enabled { "1" } else { "0" };
    let mut names = Vec::new();
    for (process, path) in directories(Path::new("/proc")) {
        if process.parse::<u32>().is_err() {
            continue;
        }
        for (_, path) in directories(&path.join("task")) {
            let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            let state = read("patch_state");
            if !["", "-1", wanted].contains(&state.trim()) {
                names.push(read("comm").trim().to_owned());
            }
        }
    }
    names.sort_unstable();
    names
}
