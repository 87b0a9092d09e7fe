//! Code that compilers and people have written: what is mapped here, and libraries beside it.
#![allow(dead_code)] // every test file uses a part of this

use std::collections::BTreeSet;
use std::path::PathBuf;

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// One loadable object.
pub(crate) struct Library {
    pub(crate) name: String,
    pub(crate) functions: Vec<Function>,
    /// The section `.text`.
    pub(crate) text: Vec<u8>,
}

/// One function.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) size: usize,
    /// The function and what lies between it and the next symbol.
    pub(crate) code: Vec<u8>,
}

/// The test itself, the libraries that it is linked to, and others from the same directory.
/// Those have hand-written code with AVX and AVX-512.
pub(crate) fn libraries() -> Vec<Library> {
    const OTHERS: [&str; 5] = [
        "libcrypto.so.3",
        "libgcrypt.so.20",
        "libm.so.6",
        "libmvec.so.1",
        "libstdc++.so.6",
    ];
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths: BTreeSet<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])))
        .filter(|path| path.is_file())
        .collect();
    let libc = paths
        .iter()
        .find(|path| path.ends_with("libc.so.6"))
        .expect("the test is linked to libc")
        .clone();
    paths.extend(
        OTHERS
            .iter()
            .map(|name| libc.with_file_name(name))
            .filter(|path| path.is_file()),
    );
    paths.into_iter().filter_map(read_library).collect()
}

/// `None` if the file is none: it may have been mapped for a backtrace.
fn read_library(path: PathBuf) -> Option<Library> {
    let bytes = std::fs::read(&path).unwrap();
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).ok()?;
    let mut symbols: Vec<(u64, usize, &str)> = file
        .symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .map(|symbol| {
            let name = symbol.name().unwrap_or("?");
            (symbol.address(), symbol.size() as usize, name)
        })
        .collect();
    symbols.sort_unstable();
    symbols.dedup_by_key(|(address, ..)| *address);
    let ends = symbols.iter().skip(1).map(|(address, ..)| *address);
    let functions = symbols
        .iter()
        .zip(ends.chain([u64::MAX]))
        .filter(|((_, size, _), _)| *size != 0)
        .filter_map(|(&(address, size, name), end)| {
            let section = file.sections().find(|section| {
                (section.address()..section.address() + section.size()).contains(&address)
            })?;
            let data = section.data().ok()?;
            let start = (address - section.address()) as usize;
            let next = (end.saturating_sub(section.address()) as usize).min(data.len());
            let end = next
                .max(start + size)
                .min(start + size + 64)
                .min(data.len());
            Some(Function {
                name: name.to_owned(),
                address,
                size,
                code: data[start..end].to_vec(),
            })
        })
        .collect();
    let text = file.section_by_name(".text")?;
    Some(Library {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        functions,
        text: text.data().ok()?.to_vec(),
    })
}
