//! Copies of git working trees.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Changes;

/// Lets git take the patched files for unchanged.
///
/// Builds put the output of `git describe --dirty` and the like into programs, which would then
/// differ in more than what is patched. Only a repository that was copied with the tree is
/// touched; without git there is nothing to hide from.
pub(crate) fn hide_from_git(tree: &Path, changes: &Changes) {
    let paths: Vec<_> = changes.present.iter().chain(&changes.removed).collect();
    if paths.is_empty() || !tree.join(".git").is_dir() {
        return;
    }
    let tracked = git(tree)
        .args(["--literal-pathspecs", "ls-files", "-z", "--"])
        .args(&paths)
        .output();
    let Ok(tracked) = tracked else {
        return;
    };
    let marking = git(tree)
        .args(["update-index", "-z", "--assume-unchanged", "--stdin"])
        .stdin(Stdio::piped())
        .spawn();
    if let Ok(mut marking) = marking {
        if let Some(mut input) = marking.stdin.take() {
            let _ = input.write_all(&tracked.stdout);
        }
        let _ = marking.wait();
    }
}

fn git(tree: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(tree)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.as_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command
}
