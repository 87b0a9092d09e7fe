//! A linked program or library: where a symbol really is.

use std::collections::HashMap;
use std::path::Path;

use iced_x86::{Code, Decoder, DecoderOptions};
use object::elf::PT_TLS;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolKind};

/// What the dynamic linker writes somewhere.
pub(crate) struct Dynamic {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) addend: i64,
}

pub(crate) struct LinkedFile {
    /// Address and contents.
    sections: Vec<(u64, Vec<u8>)>,
    /// Addresses by name; offsets in the TLS block for thread-local variables.
    symbols: HashMap<String, Vec<u64>>,
    functions: HashMap<String, Vec<u64>>,
    dynamic: HashMap<u64, Dynamic>,
    /// Size of the TLS block, up to the thread pointer.
    tls_size: u64,
}

impl LinkedFile {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let file = ElfFile64::<LittleEndian>::parse(&*bytes).expect("a linked file");
        let sections = file.sections().filter(|section| section.address() != 0);
        let sections = sections.map(|section| {
            let data = section.data().expect("contents").to_vec();
            (section.address(), data)
        });
        let mut symbols: HashMap<String, Vec<u64>> = HashMap::new();
        let mut functions = symbols.clone();
        for symbol in file.symbols().chain(file.dynamic_symbols()) {
            if symbol.is_undefined() {
                continue;
            }
            let name = symbol.name().expect("a name").split('@').next();
            let add = |map: &mut HashMap<String, Vec<u64>>| {
                let list = map.entry(name.unwrap_or_default().into()).or_default();
                if !list.contains(&symbol.address()) {
                    list.push(symbol.address());
                }
            };
            add(&mut symbols);
            if symbol.kind() == SymbolKind::Text {
                add(&mut functions);
            }
        }
        Self {
            sections: sections.collect(),
            symbols,
            functions,
            dynamic: read_dynamic(&file),
            tls_size: tls_size(&file),
        }
    }

    /// Bytes from `address` to the end of its section.
    pub(crate) fn bytes(&self, address: u64) -> Option<&[u8]> {
        self.sections.iter().find_map(|(start, data)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            data.get(offset..).filter(|rest| !rest.is_empty())
        })
    }

    pub(crate) fn symbols(&self, name: &str) -> &[u64] {
        self.symbols.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn functions(&self, name: &str) -> &[u64] {
        self.functions.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn dynamic(&self, address: u64) -> Option<&Dynamic> {
        self.dynamic.get(&address)
    }

    /// Distance from the thread pointer of a place in the TLS block.
    pub(crate) fn tls_offset(&self, place: u64) -> i64 {
        place.wrapping_sub(self.tls_size).cast_signed()
    }

    pub(crate) fn word(&self, address: u64) -> u64 {
        let bytes = self.bytes(address).and_then(|bytes| bytes.get(..8));
        bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
    }

    /// Slot that the PLT entry at `address` jumps through.
    pub(crate) fn plt_slot(&self, address: u64) -> Option<u64> {
        // Before the jump: endbr64, and mold loads a number.
        let instructions =
            Decoder::with_ip(64, self.bytes(address)?, address, DecoderOptions::NONE);
        let jump = instructions
            .into_iter()
            .take(3)
            .find(|instruction| instruction.code() == Code::Jmp_rm64)?;
        jump.is_ip_rel_memory_operand()
            .then(|| jump.ip_rel_memory_address())
    }
}

fn read_dynamic(file: &ElfFile64<'_, LittleEndian>) -> HashMap<u64, Dynamic> {
    let names: HashMap<u64, &str> = file
        .dynamic_symbols()
        .map(|symbol| (symbol.index().0 as u64, symbol.name().expect("a name")))
        .collect();
    let mut dynamic = HashMap::new();
    for section in file.sections() {
        let name = section.name().expect("a name");
        if !name.starts_with(".rela") || section.address() == 0 {
            continue;
        }
        for entry in section.data().expect("contents").chunks_exact(24) {
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            let symbol = word(8) >> 32;
            let found = Dynamic {
                number: word(8) as u32,
                name: names.get(&symbol).copied().unwrap_or_default().into(),
                addend: word(16).cast_signed(),
            };
            dynamic.insert(word(0), found);
        }
    }
    dynamic
}

fn tls_size(file: &ElfFile64<'_, LittleEndian>) -> u64 {
    let headers = file.elf_program_headers().iter();
    let mut tls = headers.filter(|header| header.p_type.get(LittleEndian) == PT_TLS);
    tls.next().map_or(0, |header| {
        let size = header.p_memsz(LittleEndian);
        size.next_multiple_of(header.p_align(LittleEndian).max(1))
    })
}
