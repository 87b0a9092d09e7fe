//! Code of a running program, as it is in memory.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::Program;

/// The bytes of a function, and a few behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    pub address: u64,
    pub bytes: Vec<u8>,
}

/// Reads a function of the executable at `path`, found by `nm`.
pub fn read_code(program: &Program, path: &Path, name: &str) -> Code {
    let (offset, size) = find_symbol(path, name);
    let address = load_bias(program.pid(), path) + offset;
    Code {
        address,
        bytes: read_memory(program.pid(), address, size as usize + 8),
    }
}

/// Address in the file and size of a function.
pub fn find_symbol(path: &Path, name: &str) -> (u64, u64) {
    let output = Command::new("nm").arg("-S").arg(path).output().expect("nm");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let (address, size) = (number(fields.next()?)?, number(fields.next()?)?);
        (fields.nth(1) == Some(name)).then_some((address, size))
    });
    found.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// What is to be added to addresses in the file.
pub fn load_bias(pid: i32, path: &Path) -> u64 {
    let header = std::fs::read(path).expect("executable");
    let fixed = u16::from_le_bytes([header[16], header[17]]) == 2; // ET_EXEC
    if fixed {
        return 0;
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let name = path.to_str().expect("path in UTF-8");
    let first = maps.lines().find(|line| line.ends_with(name)).expect(name);
    let (start, _) = first.split_once('-').expect("a range");
    u64::from_str_radix(start, 16).expect("an address")
}

pub fn read_memory(pid: i32, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("memory");
    memory.read_exact_at(&mut bytes, address).expect("readable");
    bytes
}
