//! Compiling fixtures, and reading the memory of processes.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use engraft_elf::{ReadMemory, Unreadable};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Links the program fixtures with these flags into `directory`.
pub fn build_program(directory: &Path, flags: &[&str]) -> PathBuf {
    let output = directory.join("program");
    let (main, other) = (fixture("main.c"), fixture("other.c"));
    let mut arguments = vec!["-O2", "-freorder-blocks-and-partition", "-o"];
    arguments.push(output.to_str().unwrap());
    arguments.push(main.to_str().unwrap());
    arguments.push(other.to_str().unwrap());
    arguments.extend(flags);
    run("gcc", &arguments);
    output
}

/// Memory of a process.
pub struct ProcessMemory(File);

impl ProcessMemory {
    pub fn open(pid: &str) -> Self {
        Self(File::open(format!("/proc/{pid}/mem")).unwrap())
    }
}

impl ReadMemory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let length = buffer.len();
        self.0
            .read_exact_at(buffer, address)
            .map_err(|_| Unreadable { address, length })
    }
}

/// First mapped address of the file whose name ends with `suffix`, and the file.
pub fn find_mapping(pid: &str, suffix: &str) -> (u64, String) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps
        .lines()
        .find(|line| line.ends_with(suffix) || line.contains(&format!("{suffix}.")))
        .unwrap_or_else(|| panic!("no {suffix} in\n{maps}"));
    let start = line.split('-').next().unwrap();
    let path = line.split_whitespace().last().unwrap();
    (u64::from_str_radix(start, 16).unwrap(), path.to_owned())
}

/// A running fixture program that has printed three addresses and waits for input.
pub struct Running {
    pub child: Child,
    pub pid: String,
    pub addresses: Vec<u64>,
}

impl Running {
    pub fn start(program: &Path) -> Self {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let parse = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        Self {
            pid: child.id().to_string(),
            addresses: line.split_whitespace().map(parse).collect(),
            child,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
