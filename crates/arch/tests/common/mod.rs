//! Functions of real ELF files, for the tests.
#![allow(dead_code)] // every test file uses a part

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// A file's code by function, and its memory image.
pub(crate) struct Binary {
    sections: Vec<(String, u64, Vec<u8>)>,
    functions: Vec<(String, u64, u64)>,
    names: HashMap<String, u64>,
}

impl Binary {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let file = object::File::parse(&*bytes).expect("an ELF file");
        let sections = file
            .sections()
            .filter(|section| section.address() != 0)
            .map(|section| {
                (
                    section.name().expect("a name").to_owned(),
                    section.address(),
                    section.data().expect("contents").to_vec(),
                )
            })
            .collect();
        let mut functions: Vec<_> = file
            .symbols()
            .chain(file.dynamic_symbols())
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
            .filter(|symbol| symbol.size() > 0)
            .map(|symbol| {
                (
                    symbol.name().unwrap_or("?").to_owned(),
                    symbol.address(),
                    symbol.size(),
                )
            })
            .collect();
        functions.sort_by_key(|(name, address, size)| (*address, u64::MAX - size, name.clone()));
        let names = functions
            .iter()
            .map(|(name, address, _)| (name.clone(), *address))
            .collect();
        functions.dedup_by_key(|(_, address, _)| *address);
        Self {
            sections,
            functions,
            names,
        }
    }

    pub(crate) fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let Some(bytes) = self.bytes(address) else {
            return false;
        };
        let Some(part) = bytes.get(..into.len()) else {
            return false;
        };
        into.copy_from_slice(part);
        true
    }

    /// Bytes from `address` to the end of its section.
    pub(crate) fn bytes(&self, address: u64) -> Option<&[u8]> {
        self.sections.iter().find_map(|(_, start, data)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            data.get(offset..).filter(|rest| !rest.is_empty())
        })
    }

    /// Name, address, bytes up to the next symbol, size.
    pub(crate) fn functions(&self) -> impl Iterator<Item = (&str, u64, &[u8], usize)> {
        self.functions
            .iter()
            .enumerate()
            .filter_map(|(position, (name, address, size))| {
                let rest = self.bytes(*address)?;
                let next = self
                    .functions
                    .get(position + 1)
                    .map_or(u64::MAX, |next| next.1);
                let room = usize::try_from(next - address)
                    .unwrap_or(usize::MAX)
                    .min(rest.len());
                let size = usize::try_from(*size).ok()?;
                (size <= rest.len()).then_some((
                    name.as_str(),
                    *address,
                    &rest[..room.max(size)],
                    size,
                ))
            })
    }

    pub(crate) fn address_of(&self, name: &str) -> u64 {
        let found = self.names.get(name);
        *found.unwrap_or_else(|| panic!("no function {name}"))
    }

    /// All functions, and the PLT sections as pseudo functions.
    pub(crate) fn indexed(&self) -> Vec<engraft_arch::reliance::Function<'_>> {
        let plt = self
            .sections
            .iter()
            .filter(|(name, ..)| name.starts_with(".plt"));
        let plt = plt.map(|(_, address, code)| (*address, code.as_slice()));
        let functions = self
            .functions()
            .map(|(_, address, code, size)| (address, &code[..size]));
        plt.chain(functions)
            .map(|(address, code)| engraft_arch::reliance::Function { address, code })
            .collect()
    }
}

/// Compiles C to a shared object.
pub(crate) fn compile(compiler: &str, directory: &Path, source: &str, flags: &[&str]) -> Binary {
    let file = directory.join("unit.c");
    let output = directory.join("unit.so");
    std::fs::write(&file, source).expect("a writable directory");
    let done = Command::new(compiler)
        .args(["-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o"])
        .args([&output, &file])
        .args(flags)
        .output()
        .expect("a C compiler");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    Binary::open(&output)
}

/// A shared library that the running test has mapped.
pub(crate) fn mapped_library(part: &str) -> std::path::PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let path = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5));
    let found = path.into_iter().find(|path| path.contains(part));
    found
        .unwrap_or_else(|| panic!("{part} is not mapped"))
        .into()
}
