//! The files that rules apply to.

use std::fs;
use std::process::Command;

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

/// One text file of the repository.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        self.path
            .rsplit_once('.')
            .is_some_and(|(_, found)| found == extension)
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    /// Integration tests, fixtures, and modules that hold nothing but tests.
    pub(crate) fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let directories = self.path.rsplit_once('/').map_or("", |(rest, _)| rest);
        directories
            .split('/')
            .any(|part| part == "tests" || part == "benches")
            || name == "tests.rs"
            || name.ends_with("_tests.rs")
    }

    #[cfg(test)]
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// Tracked files and new ones that are not ignored; what is not text is left out.
pub(crate) fn read_all(workspace: &Workspace) -> Result<Vec<SourceFile>, Failure> {
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace.root());
    let listing = shell::read(&mut list, &Log::terminal())?;
    let mut files = Vec::new();
    for path in listing.lines() {
        let full = workspace.path(path);
        if !full.is_file() {
            continue;
        }
        let bytes = fs::read(&full).context(path)?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile {
                path: path.to_owned(),
                text,
            });
        }
    }
    Ok(files)
}
