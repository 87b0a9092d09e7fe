//! Kernel modules, built with the kernel's own build system.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sources::{HEADERS, KERNEL_TARGET, PATCHES};
use engraft_guest::{Context, Failure};

/// The file of a module that is refused for its kernel.
const FOREIGN: &str = "foreign.ko";

/// Builds the target and the livepatches for a kernel whose headers are installed; returns the
/// files.
pub(super) fn build_modules(version: &str, directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(directory).context(directory.display())?;
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).context(path.display())
    };
    for (name, text) in HEADERS {
        write(name, text)?;
    }
    let mut makefile = String::new();
    let mut files = Vec::new();
    for (name, text) in KERNEL_TARGET.iter().chain(PATCHES) {
        write(&format!("{name}.c"), text)?;
        let _ = writeln!(makefile, "obj-m += {name}.o");
        files.push(directory.join(format!("{name}.ko")));
    }
    for object in ["a", "b", "c"] {
        let _ = writeln!(makefile, "CFLAGS_conf_{object}.o := -DOBJECT={object}");
    }
    write("Makefile", &makefile)?;
    let mut make = Command::new("make");
    make.arg("-C").arg(format!("/lib/modules/{version}/build"));
    make.arg(format!("M={}", directory.display()))
        .arg("modules");
    make.arg("-j").arg("2");
    let output = make.output().context("make")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let message = format!(
            "building modules for Linux {version}: {}\n{said}",
            output.status
        );
        return Err(Failure::new(message));
    }
    files.push(make_foreign(version, directory)?);
    Ok(files)
}

/// A livepatch that says that it was built for another kernel.
fn make_foreign(version: &str, directory: &Path) -> Result<PathBuf, Failure> {
    let (name, _) = PATCHES[0];
    let path = directory.join(format!("{name}.ko"));
    let mut bytes = fs::read(&path).context(path.display())?;
    let told = format!("vermagic={version} ");
    let found = bytes
        .windows(told.len())
        .position(|window| window == told.as_bytes());
    let at = found.ok_or_else(|| Failure::new(format!("{name}.ko does not say {told}")))?;
    bytes[at + "vermagic=".len()] = b'9';
    let path = directory.join(FOREIGN);
    fs::write(&path, bytes).context(path.display())?;
    Ok(path)
}
