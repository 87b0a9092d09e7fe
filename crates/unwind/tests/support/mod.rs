//! What the tests need around the unwinder: compiled fixtures, memory and code of a process.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod address_space;
pub(crate) mod tracee;

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A compiled fixture; its directory goes away with it.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    directory: TempDir,
}

/// Compiles `fixture` with `compiler` and its arguments, all separated by blanks.
pub(crate) fn compile(fixture: &str, compiler: &str) -> Program {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("program");
    let mut words = compiler.split_whitespace();
    let output = Command::new(words.next().expect("compiler"))
        .args(words)
        .args(["-g", "-pthread", "-o"])
        .arg(&path)
        .arg(fixtures.join(fixture))
        .arg("-I")
        .arg(&fixtures)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {compiler}: {error}"));
    assert!(
        output.status.success(),
        "{compiler}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Program { path, directory }
}
