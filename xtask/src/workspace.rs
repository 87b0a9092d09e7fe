//! Where things lie in the repository and in its build directory.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Context, Failure};

/// The checkout that this xtask was built from.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    pub(crate) fn locate() -> Result<Self, Failure> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest
            .parent()
            .filter(|root| root.join("Cargo.toml").is_file())
            .ok_or_else(|| {
                Failure::new(format!(
                    "{} is not inside the workspace any more: run through `cargo xtask`",
                    manifest.display()
                ))
            })?;
        Ok(Self {
            root: root.to_path_buf(),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Cargo's build directory: `CARGO_TARGET_DIR`, or `target`.
    pub(crate) fn target_directory(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => self.root.join(directory),
            None => self.root.join("target"),
        }
    }

    /// A directory of this xtask's own, created when missing.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, Failure> {
        let directory = self.target_directory().join("xtask").join(name);
        fs::create_dir_all(&directory).context(format!("creating {}", directory.display()))?;
        Ok(directory)
    }

    /// The command that users run, as the release profile builds it.
    pub(crate) fn engraft_binary(&self) -> PathBuf {
        self.target_directory().join("release").join("engraft")
    }

    /// `cargo` with the given arguments, run at the root.
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root);
        command
    }
}
