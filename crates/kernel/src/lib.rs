//! The running kernel's own livepatch, through what it offers to user space: sysfs
//! (Documentation/ABI/testing/sysfs-kernel-livepatch), `/proc/PID/patch_state`, `/dev/kmsg`,
//! finit_module(2) and delete_module(2); and the pins of a host, which are loaded again at boot.
//!
//! This crate must not know processes' patches, the livepatch rules (the kernel has them), when to
//! wait, or how anything is shown.
#![forbid(unsafe_code)]

mod change;
mod check;
mod contents;
mod error;
mod log;
mod module;
mod pin;
mod stack;
mod tasks;

use std::path::{Path, PathBuf};

pub use contents::{Contents, Need};
pub use error::Error;
pub use log::LogLine;
pub use module::KernelModule;
pub use pin::{Applied, Pin, Pinned, PinnedModule, Pins};
pub use stack::{Function, Object, Patch};
pub use tasks::{Task, Tasks};

/// A kernel's interface, below a root directory.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
}

impl Kernel {
    /// The running kernel.
    ///
    /// # Errors
    ///
    /// ENOSYS when it has no livepatch.
    pub fn running() -> Result<Self, Error> {
        Self::below("/")
    }

    /// What looks like a kernel's interface below another directory.
    ///
    /// # Errors
    ///
    /// As [`Kernel::running`].
    pub fn below(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let kernel = Self { root: root.into() };
        if kernel.stack_directory().is_dir() {
            return Ok(kernel);
        }
        Err(Error::missing_livepatch())
    }

    fn stack_directory(&self) -> PathBuf {
        self.root.join("sys/kernel/livepatch")
    }

    fn patch_directory(&self, patch: &str) -> PathBuf {
        self.stack_directory().join(patch)
    }

    fn module_directory(&self, module: &str) -> PathBuf {
        self.root.join("sys/module").join(module)
    }

    fn proc(&self) -> PathBuf {
        self.root.join("proc")
    }
}

/// The kernel's release, as of uname(2).
fn read_release(root: &Path) -> std::io::Result<String> {
    let release = std::fs::read_to_string(root.join("proc/sys/kernel/osrelease"))?;
    Ok(release.trim().to_owned())
}

/// The names of the directories in one, with their paths, sorted; none if it cannot be read.
fn directories(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<(String, PathBuf)> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, entry.path())
        })
        .collect();
    found.sort_unstable();
    found
}
