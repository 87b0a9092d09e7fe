//! Patch files applied with the program `patch`.

use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Reject, TreeError};

/// Applies patches in order.
///
/// A hunk may have moved (an offset), but every line of it must be there: fuzz would put a
/// change where its author did not see it.
pub(crate) fn apply_patches(tree: &Path, patches: &[PathBuf], strip: u32) -> Result<(), TreeError> {
    for patch in patches {
        let bytes = fs::read(patch).map_err(TreeError::io("read the patch", patch))?;
        if !bytes.trim_ascii().is_empty() {
            apply(tree, patch, strip)?;
        }
    }
    Ok(())
}

fn apply(tree: &Path, patch: &Path, strip: u32) -> Result<(), TreeError> {
    let input = File::open(patch).map_err(TreeError::io("read the patch", patch))?;
    let output = Command::new("patch")
        .arg(format!("--strip={strip}"))
        .args([
            "--fuzz=0",
            "--forward",
            "--batch",
            "--no-backup-if-mismatch",
        ])
        .args(["--quoting-style=literal", "--reject-file=-"])
        .current_dir(tree)
        .env("LC_ALL", "C")
        .env_remove("POSIXLY_CORRECT")
        .env_remove("PATCH_GET")
        .stdin(Stdio::from(input))
        .output()
        .map_err(TreeError::NoPatchProgram)?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said += &String::from_utf8_lossy(&output.stderr);
    Err(explain(patch, strip, &said))
}

/// Turns what `patch` said into what did not fit.
fn explain(patch: &Path, strip: u32, said: &str) -> TreeError {
    let mut file = PathBuf::new();
    let mut rejects = Vec::new();
    for line in said.lines() {
        if let Some(rest) = line
            .strip_prefix("patching file ")
            .or_else(|| line.strip_prefix("patching symbolic link "))
        {
            file = PathBuf::from(rest.split(" (").next().unwrap_or(rest));
        } else if line.starts_with("Reversed (or previously applied) patch detected") {
            return TreeError::AlreadyApplied {
                patch: patch.to_path_buf(),
                file,
            };
        } else if let Some(hunk) = failed_hunk(line) {
            rejects.push(Reject {
                file: file.clone(),
                hunk: Some(hunk),
            });
        } else if let Some(name) = missing_file(line) {
            rejects.push(Reject {
                file: Path::new(name).iter().skip(strip as usize).collect(),
                hunk: None,
            });
        }
    }
    if rejects.is_empty() {
        TreeError::Unusable {
            patch: patch.to_path_buf(),
            message: said.trim().to_owned(),
        }
    } else {
        TreeError::Rejected {
            patch: patch.to_path_buf(),
            rejects,
        }
    }
}

/// `Hunk #2 FAILED at 123.`, possibly with a reason after the number.
fn failed_hunk(line: &str) -> Option<(u32, u32)> {
    let (hunk, rest) = line.strip_prefix("Hunk #")?.split_once(" FAILED at ")?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((hunk.parse().ok()?, rest[..end].parse().ok()?))
}

/// The name in the quoted header of a patch for a file that is not there.
fn missing_file(line: &str) -> Option<&str> {
    let name = line.strip_prefix("|+++ ")?;
    Some(name.split('\t').next().unwrap_or(name).trim())
}

/// Files that are not the same in two trees, as relative paths in no particular order.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Present in the patched tree: new or changed.
    pub(crate) present: Vec<PathBuf>,
    /// Present in the original tree only.
    pub(crate) removed: Vec<PathBuf>,
}

/// Compares a tree with the one that it was copied from before it was patched.
pub(crate) fn find_changes(original: &Path, patched: &Path) -> Result<Changes, TreeError> {
    let mut changes = Changes::default();
    visit_files(patched, Path::new(""), &mut |path, metadata| {
        if !is_same(&original.join(path), metadata) {
            changes.present.push(path.to_path_buf());
        }
    })?;
    visit_files(original, Path::new(""), &mut |path, _| {
        if fs::symlink_metadata(patched.join(path)).is_err() {
            changes.removed.push(path.to_path_buf());
        }
    })?;
    Ok(changes)
}

fn visit_files(
    root: &Path,
    relative: &Path,
    visit: &mut dyn FnMut(&Path, &Metadata),
) -> Result<(), TreeError> {
    let directory = root.join(relative);
    let entries = fs::read_dir(&directory).map_err(TreeError::io("read", &directory))?;
    for entry in entries {
        let entry = entry.map_err(TreeError::io("read", &directory))?;
        let path = relative.join(entry.file_name());
        let metadata = entry
            .metadata()
            .map_err(TreeError::io("read", entry.path()))?;
        if metadata.is_dir() {
            visit_files(root, &path, visit)?;
        } else if metadata.is_file() {
            visit(&path, &metadata);
        }
    }
    Ok(())
}

/// Copies keep the time and `patch` does not.
fn is_same(original: &Path, patched: &Metadata) -> bool {
    fs::symlink_metadata(original).is_ok_and(|original| {
        original.is_file()
            && original.len() == patched.len()
            && original.modified().ok() == patched.modified().ok()
    })
}
