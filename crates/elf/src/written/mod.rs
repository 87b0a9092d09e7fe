//! ELF files of our own making, for debuggers and profilers (System V ABI, "Object Files").

mod code_file;
mod symbol_file;

pub use code_file::{CodeFile, NewCodeFile};
pub use symbol_file::NewSymbolFile;

use std::ops::Range;

const HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SYMBOL: usize = 24;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const PT_LOAD: u32 = 1;
const PAGE: u64 = 4096;
/// STB_LOCAL, STT_FUNC.
const LOCAL_FUNCTION: u8 = 2;

/// A file as it grows: contents first, section headers last.
struct Draft {
    contents: Vec<u8>,
    headers: Vec<SectionHeader>,
    /// The names of sections.
    names: Strings,
}

/// A section header (System V ABI, "Sections").
#[derive(Clone, Copy, Default)]
struct SectionHeader {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    entry_size: u64,
}

/// A program header of what lies at equal offsets in file and memory (System V ABI, "Program
/// Header").
struct Segment {
    kind: u32,
    flags: u32,
    range: Range<u64>,
}

/// A string table as it grows.
struct Strings(Vec<u8>);

impl Draft {
    /// Room for the file header and so many program headers comes first.
    fn new(program_headers: usize) -> Self {
        Self {
            contents: vec![0; HEADER + program_headers * PROGRAM_HEADER],
            headers: vec![SectionHeader::default()],
            names: Strings::new(),
        }
    }

    /// Where the next section's contents would go.
    fn end(&self) -> u64 {
        self.contents.len() as u64
    }

    /// A section without contents here. `header` needs no name.
    fn add_empty(&mut self, name: &str, header: SectionHeader) {
        let name = self.names.add(name);
        self.headers.push(SectionHeader { name, ..header });
    }

    /// A section with contents. `header` needs neither name nor offset and size.
    fn add(&mut self, name: &str, bytes: &[u8], header: SectionHeader) {
        let header = SectionHeader {
            offset: self.end(),
            size: bytes.len() as u64,
            ..header
        };
        self.contents.extend(bytes);
        self.fill_up();
        self.add_empty(name, header);
    }

    /// A section that lies in memory at its offset in the file. Returns where that is.
    fn add_loaded(&mut self, name: &str, bytes: &[u8], header: SectionHeader) -> Range<u64> {
        let header = SectionHeader {
            flags: SHF_ALLOC | header.flags,
            address: self.end(),
            ..header
        };
        let range = self.end()..self.end() + bytes.len() as u64;
        self.add(name, bytes, header);
        range
    }

    fn fill_up(&mut self) {
        self.fill_up_to(self.end().next_multiple_of(8));
    }

    /// Zeros up to an offset, if that has not been reached.
    fn fill_up_to(&mut self, end: u64) {
        let length = self.contents.len().max(end as usize);
        self.contents.resize(length, 0);
    }

    /// `.symtab` and `.strtab`, with functions by name and address. What lies in no section
    /// that was added is left out.
    fn add_functions(&mut self, functions: &[(String, Range<u64>)]) {
        let mut strings = Strings::new();
        let mut symbols = vec![0; SYMBOL];
        for (name, range) in functions {
            let section = self
                .headers
                .iter()
                .position(|header| header.range().contains(&range.start));
            let Some(section) = section else {
                continue;
            };
            symbols.extend(strings.add(name).to_le_bytes());
            symbols.extend([LOCAL_FUNCTION, 0]);
            symbols.extend((section as u16).to_le_bytes());
            symbols.extend(range.start.to_le_bytes());
            symbols.extend(range.end.saturating_sub(range.start).to_le_bytes());
        }
        let table = SectionHeader {
            link: self.headers.len() as u32 + 1,
            info: (symbols.len() / SYMBOL) as u32,
            entry_size: SYMBOL as u64,
            ..SectionHeader::of_kind(SHT_SYMTAB)
        };
        self.add(".symtab", &symbols, table);
        self.add(".strtab", &strings.0, SectionHeader::of_kind(SHT_STRTAB));
    }

    /// The file, with as many segments as there is room for.
    fn finish(mut self, kind: u16, segments: &[Segment]) -> Vec<u8> {
        let name = self.names.add(".shstrtab");
        self.headers.push(SectionHeader {
            name,
            offset: self.end(),
            size: self.names.0.len() as u64,
            ..SectionHeader::of_kind(SHT_STRTAB)
        });
        self.contents.extend(&self.names.0);
        self.fill_up();
        let mut start = self.encode_header(kind, segments.len() as u16);
        for segment in segments {
            segment.write(&mut start);
        }
        let mut file = self.contents;
        file[..start.len()].copy_from_slice(&start);
        for header in &self.headers {
            header.write(&mut file);
        }
        file
    }

    fn encode_header(&self, kind: u16, segments: u16) -> Vec<u8> {
        let sections = self.headers.len() as u16;
        let program_headers = if segments > 0 { HEADER as u64 } else { 0 };
        // 64-bit, little-endian, version 1, System V.
        let mut header = b"\x7fELF\x02\x01\x01\x00".to_vec();
        header.resize(16, 0);
        header.extend(kind.to_le_bytes());
        header.extend(EM_X86_64.to_le_bytes());
        header.extend(1_u32.to_le_bytes());
        // No entry point.
        header.extend(0_u64.to_le_bytes());
        header.extend(program_headers.to_le_bytes());
        header.extend(self.end().to_le_bytes());
        header.extend(0_u32.to_le_bytes());
        header.extend((HEADER as u16).to_le_bytes());
        header.extend((PROGRAM_HEADER as u16).to_le_bytes());
        header.extend(segments.to_le_bytes());
        header.extend((SECTION_HEADER as u16).to_le_bytes());
        header.extend(sections.to_le_bytes());
        header.extend((sections - 1).to_le_bytes());
        header
    }
}

impl SectionHeader {
    fn of_kind(kind: u32) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    /// The addresses of a section that occupies memory.
    fn range(&self) -> Range<u64> {
        let size = if self.flags & SHF_ALLOC == 0 {
            0
        } else {
            self.size
        };
        self.address..self.address.saturating_add(size)
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.extend(self.name.to_le_bytes());
        into.extend(self.kind.to_le_bytes());
        into.extend(self.flags.to_le_bytes());
        into.extend(self.address.to_le_bytes());
        into.extend(self.offset.to_le_bytes());
        into.extend(self.size.to_le_bytes());
        into.extend(self.link.to_le_bytes());
        into.extend(self.info.to_le_bytes());
        into.extend(1_u64.to_le_bytes());
        into.extend(self.entry_size.to_le_bytes());
    }
}

impl Segment {
    fn write(&self, into: &mut Vec<u8>) {
        let (start, size) = (self.range.start, self.range.end - self.range.start);
        into.extend(self.kind.to_le_bytes());
        into.extend(self.flags.to_le_bytes());
        let alignment = if self.kind == PT_LOAD { PAGE } else { 4 };
        for word in [start, start, start, size, size, alignment] {
            into.extend(word.to_le_bytes());
        }
    }
}

impl Strings {
    fn new() -> Self {
        Self(vec![0])
    }

    fn add(&mut self, text: &str) -> u32 {
        let offset = self.0.len() as u32;
        self.0.extend(text.bytes());
        self.0.push(0);
        offset
    }
}
