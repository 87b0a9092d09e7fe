//! Small source trees and patches for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_build::{Built, CompilingError, Progress, Step, TreeRequest, build_both};
use tempfile::TempDir;

/// A source tree with patches, in a temporary directory.
pub(crate) struct Project {
    directory: TempDir,
    patches: Vec<PathBuf>,
}

impl Project {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("source")).expect("a source tree");
        fs::create_dir(directory.path().join("work")).expect("a scratch directory");
        Self {
            directory,
            patches: Vec::new(),
        }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Removes what a build has made.
    pub(crate) fn clear_work(&self) {
        fs::remove_dir_all(self.path("work")).expect("removed");
        fs::create_dir(self.path("work")).expect("created");
    }

    /// Adds a file to the source.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        write(&self.path("source").join(name), text);
        self
    }

    /// Adds a patch file as it is.
    pub(crate) fn patch_text(mut self, text: &str) -> Self {
        let patch = self.path(&format!("{}.patch", self.patches.len() + 1));
        fs::write(&patch, text).expect("a patch");
        self.patches.push(patch);
        self
    }

    /// Adds a patch that replaces text in a source file.
    pub(crate) fn patch(self, name: &str, old: &str, new: &str) -> Self {
        let text = fs::read_to_string(self.path("source").join(name)).expect("a source file");
        assert!(text.contains(old), "{name} has no '{old}'");
        let patched = self.path("patched");
        fs::write(&patched, text.replacen(old, new, 1)).expect("written");
        let diff = Command::new("diff")
            .args(["-u", "--label", &format!("a/{name}\t")])
            .args(["--label", &format!("b/{name}\t")])
            .arg(self.path("source").join(name))
            .arg(&patched)
            .output()
            .expect("diff runs");
        self.patch_text(&String::from_utf8(diff.stdout).expect("text"))
    }

    pub(crate) fn request(&self, target: &str, command: &[&str]) -> TreeRequest {
        TreeRequest {
            source: self.path("source"),
            patches: self.patches.clone(),
            strip: 1,
            command: command.iter().map(Into::into).collect(),
            target: target.into(),
            work: self.path("work"),
            wrapper: env!("CARGO_BIN_EXE_engraft-build-wrapper").into(),
        }
    }

    pub(crate) fn build(
        &self,
        target: &str,
        command: &[&str],
    ) -> Result<(Built, Built), CompilingError> {
        build_both(&self.request(target, command), &Quiet)
    }
}

/// Hears nothing.
pub(crate) struct Quiet;

impl Progress for Quiet {
    fn step(&self, _step: &Step<'_>) {}
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("created");
    fs::write(path, text).expect("written");
}
