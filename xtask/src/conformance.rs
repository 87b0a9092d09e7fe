//! The kernel's livepatch and engraft's, compared on Debian's kernels in QEMU.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

/// How many random scenarios are run with each kernel.
pub(crate) const DEFAULT_COUNT: u64 = 1_000;

/// What CI runs, from a seed that is always the same.
const QUICK_COUNT: u64 = 100;
const QUICK_SEED: u64 = 1_000;

/// The system by which the guest's program is linked statically: naming it keeps the flag from
/// what runs while things are built.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What is to be compared.
pub(crate) struct Extent {
    /// Series of kernels, such as `6.1.`.
    series: Vec<&'static str>,
    count: u64,
    seed: Option<u64>,
}

impl Extent {
    /// What CI runs.
    pub(crate) fn quick() -> Self {
        Self {
            series: vec!["6.1."],
            count: QUICK_COUNT,
            seed: Some(QUICK_SEED),
        }
    }

    /// Both of Debian's kernels.
    pub(crate) fn whole(count: u64, seed: Option<u64>) -> Self {
        Self {
            series: vec!["6.1.", "6.12."],
            count,
            seed,
        }
    }
}

/// Compares; the result is a line for each kernel.
pub(crate) fn run(workspace: &Workspace, extent: &Extent, log: &Log) -> Result<String, Failure> {
    let guest = build_guest(workspace, log)?;
    for package in ["engraft", "engraft-conformance"] {
        let build = ["build", "--release", "--package", package];
        shell::run(&mut workspace.cargo(&build), log)?;
    }
    let program = workspace
        .target_directory()
        .join("release/engraft-conformance");
    let mut sums = Vec::new();
    for series in &extent.series {
        let version = find_kernel(series)?;
        let image = unpack_image(workspace, &version, log)?;
        let mut command = Command::new(&program);
        command
            .arg("--version")
            .arg(&version)
            .arg("--image")
            .arg(&image);
        command.arg("--guest").arg(&guest);
        command.arg("--engraft").arg(workspace.engraft_binary());
        command.arg("--count").arg(extent.count.to_string());
        if let Some(seed) = extent.seed {
            command.arg("--seed").arg(seed.to_string());
        }
        let told = shell::read(&mut command, log)?;
        println!("\n{}", told.trim_end());
        sums.extend(told.lines().last().map(str::to_owned));
    }
    Ok(sums.join("; "))
}

fn build_guest(workspace: &Workspace, log: &Log) -> Result<PathBuf, Failure> {
    let build = [
        "rustc",
        "--release",
        "--package",
        "engraft-guest",
        "--bin",
        "engraft-guest",
    ];
    let linked = ["--target", TARGET, "--", "-C", "target-feature=+crt-static"];
    shell::run(&mut workspace.cargo(&[&build[..], &linked].concat()), log)?;
    Ok(workspace
        .target_directory()
        .join(TARGET)
        .join("release/engraft-guest"))
}

/// The newest kernel of a series whose headers are installed.
fn find_kernel(series: &str) -> Result<String, Failure> {
    let entries = fs::read_dir("/lib/modules").context("/lib/modules")?;
    let names = entries
        .flatten()
        .filter(|entry| entry.path().join("build").exists());
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let fitting = names.filter(|name| name.starts_with(series) && name.ends_with("-amd64"));
    fitting.max_by_key(|name| numbers(name)).ok_or_else(|| {
        Failure::new(format!(
            "no headers of Linux {series} are installed in /lib/modules"
        ))
    })
}

fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// Downloads the package with the image, which is not installed, and unpacks it.
fn unpack_image(workspace: &Workspace, version: &str, log: &Log) -> Result<PathBuf, Failure> {
    let directory = workspace.scratch(&format!("conformance/{version}"))?;
    let image = directory.join(format!("boot/vmlinuz-{version}"));
    if image.exists() {
        return Ok(image);
    }
    let mut download = Command::new("apt-get");
    download.args(["download", &format!("linux-image-{version}")]);
    shell::run(download.current_dir(&directory), log)?;
    let package = find_package(&directory)?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&package).arg(&directory);
    shell::run(&mut unpack, log)?;
    fs::remove_file(&package).context(package.display())?;
    Ok(image)
}

fn find_package(directory: &Path) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(directory).context(directory.display())?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| {
            Failure::new(format!(
                "apt-get left no package in {}",
                directory.display()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("6.1.0-57-amd64") > numbers("6.1.0-9-amd64"));
        assert!(numbers("6.12.117+deb12-amd64") > numbers("6.12.99+deb12-amd64"));
    }
}
