//! Memory, code map and symbols of a live process, found through /proc.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use engraft_unwind::{Cfi, CodeMap, CodeObject, ReadMemory, Section, Unreadable};
use object::elf::PT_GNU_EH_FRAME;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// Functions that return to nobody, as far as the objects' symbols name them.
const ENTRIES: [&str; 5] = ["_start", "clone", "__clone", "clone3", "__clone3"];

pub(crate) struct ProcessMemory {
    file: File,
    pub(crate) reads: Cell<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    pub(crate) permissions: String,
    pub(crate) offset: u64,
    pub(crate) path: String,
}

#[derive(Default)]
pub(crate) struct Symbols(BTreeMap<u64, (u64, String)>);

pub(crate) struct AddressSpace {
    pub(crate) memory: ProcessMemory,
    pub(crate) code: CodeMap,
    pub(crate) symbols: Symbols,
    pub(crate) mappings: Vec<Mapping>,
}

impl ReadMemory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        self.reads.set(self.reads.get() + 1);
        let length = buffer.len();
        self.file
            .read_exact_at(buffer, address)
            .map_err(|_| Unreadable { address, length })
    }
}

impl Symbols {
    pub(crate) fn name(&self, pc: u64) -> String {
        match self.0.range(..=pc).next_back() {
            Some((start, (size, name))) if pc < start + size => name.clone(),
            _ => "?".into(),
        }
    }

    pub(crate) fn find(&self, wanted: &str) -> Option<u64> {
        let named = |(_, (_, name)): &(&u64, &(u64, String))| name == wanted;
        self.0.iter().find(named).map(|(&start, _)| start)
    }

    /// Addresses of a variable.
    pub(crate) fn object(&self, wanted: &str) -> Range<u64> {
        let start = self.address(wanted);
        start..start + self.0[&start].0
    }

    pub(crate) fn size(&self, start: u64) -> u64 {
        self.0[&start].0
    }

    pub(crate) fn address(&self, wanted: &str) -> u64 {
        self.find(wanted)
            .unwrap_or_else(|| panic!("no symbol {wanted}"))
    }

    /// All functions but those parts of others that are jumped to.
    fn functions_in(&self, within: &[Range<u64>]) -> Vec<Range<u64>> {
        let symbols = self.0.iter().filter(|(start, (_, name))| {
            !name.contains(".cold") && within.iter().any(|range| range.contains(start))
        });
        symbols
            .map(|(&start, (size, _))| start..start + size)
            .collect()
    }

    fn ranges_of(&self, within: &[Range<u64>], names: &[&str]) -> Vec<Range<u64>> {
        let named = self.0.iter().filter(|(start, (_, name))| {
            names.contains(&name.as_str()) && within.iter().any(|range| range.contains(start))
        });
        named
            .map(|(&start, (size, _))| start..start + size)
            .collect()
    }
}

impl AddressSpace {
    pub(crate) fn of(pid: i32) -> Self {
        let memory = ProcessMemory {
            file: File::open(format!("/proc/{pid}/mem")).expect("target memory"),
            reads: Cell::new(0),
        };
        let mappings = read_mappings(pid);
        let mut space = Self {
            memory,
            code: CodeMap::new(),
            symbols: Symbols::default(),
            mappings,
        };
        let mut paths: Vec<String> = Vec::new();
        for mapping in &space.mappings {
            if mapping.permissions.contains('x') && !paths.contains(&mapping.path) {
                paths.push(mapping.path.clone());
            }
        }
        for path in paths {
            space.add_object(&path);
        }
        space
    }

    pub(crate) fn name(&self, pc: u64) -> String {
        self.symbols.name(pc)
    }

    fn add_object(&mut self, path: &str) {
        let mappings: Vec<Mapping> = self.mappings_of(path);
        let image = match path {
            "[vdso]" => self.read(&mappings[0].range),
            _ if path.starts_with('/') => std::fs::read(path).expect("object file"),
            _ => return,
        };
        let file: ElfFile64 = ElfFile64::parse(image.as_slice()).expect("ELF");
        let bias = mappings[0].range.start
            - file
                .elf_program_headers()
                .iter()
                .find(|header| header.p_type(file.endian()) == object::elf::PT_LOAD)
                .map(|header| header.p_vaddr(file.endian()) & !0xfff)
                .expect("PT_LOAD");
        for symbol in file.symbols().chain(file.dynamic_symbols()) {
            if matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data)
                && symbol.is_definition()
                && symbol.size() > 0
            {
                let name = symbol.name().unwrap_or_default().to_owned();
                self.symbols
                    .0
                    .entry(bias + symbol.address())
                    .or_insert((symbol.size(), name));
            }
        }
        let text: Vec<_> = mappings
            .iter()
            .filter(|mapping| mapping.permissions.contains('x'))
            .map(|mapping| mapping.range.clone())
            .collect();
        let entries = self.symbols.ranges_of(&text, &ENTRIES);
        let cfi = self.cfi_of(&file, bias, &mappings).map(Arc::new);
        let object = CodeObject {
            name: path.rsplit('/').next().unwrap_or(path).into(),
            cfi,
            functions: self.symbols.functions_in(&text).into(),
            text,
            entries,
            starts_threads: false,
        };
        self.code.add_object(object).expect("object fits");
    }

    /// By the header where there is one; gcc's static executables have none, so there the
    /// section table of the file tells.
    fn cfi_of(&self, file: &ElfFile64, bias: u64, mappings: &[Mapping]) -> Option<Cfi> {
        let endian = file.endian();
        let headers = file.elf_program_headers();
        if let Some(header) = headers
            .iter()
            .find(|header| header.p_type(endian) == PT_GNU_EH_FRAME)
        {
            let start = bias + header.p_vaddr(endian);
            let mapping = mappings
                .iter()
                .find(|mapping| mapping.range.contains(&start));
            let mapping = mapping.expect("mapped header").range.clone();
            let range = start..start + header.p_memsz(endian);
            return Some(Cfi::read(&self.memory, range, mapping).expect("call frame information"));
        }
        let section = file.section_by_name(".eh_frame")?;
        let address = bias + section.address();
        let bytes = self.read(&(address..address + section.size())).into();
        Some(Cfi::new(Section { address, bytes }, None))
    }

    fn mappings_of(&self, path: &str) -> Vec<Mapping> {
        let own = self.mappings.iter().filter(|mapping| mapping.path == path);
        own.cloned().collect()
    }

    pub(crate) fn read(&self, range: &Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.memory.read(range.start, &mut bytes).expect("readable");
        bytes
    }
}

fn read_mappings(pid: i32) -> Vec<Mapping> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    text.lines()
        .map(|line| {
            let mut fields = line.split_whitespace();
            let mut next = || fields.next().unwrap_or_default();
            let (start, end) = next().split_once('-').expect("range");
            let hex = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
            Mapping {
                range: hex(start)..hex(end),
                permissions: next().into(),
                offset: hex(next()),
                path: (next(), next(), next()).2.into(),
            }
        })
        .collect()
}
