//! A symbol file of our own making, for debuggers: which functions lie where, and how to unwind
//! through them.

use std::ops::Range;

const HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;

const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
/// STB_LOCAL, STT_FUNC.
const LOCAL_FUNCTION: u8 = 2;

/// What goes into a symbol file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSymbolFile {
    /// Where code lies, by the name of its section.
    pub code: Vec<(String, Range<u64>)>,
    /// The functions in it.
    pub functions: Vec<(String, Range<u64>)>,
    /// The contents of `.debug_frame`.
    pub debug_frame: Vec<u8>,
}

/// A string table as it grows.
struct Strings(Vec<u8>);

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

impl SectionHeader {
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

impl NewSymbolFile {
    /// The file: an ELF executable without segments, whose code is elsewhere.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut names = Strings::new();
        let mut headers = vec![SectionHeader::default()];
        for (name, range) in &self.code {
            headers.push(SectionHeader {
                name: names.add(name),
                kind: SHT_NOBITS,
                flags: SHF_ALLOC | SHF_EXECINSTR,
                address: range.start,
                offset: HEADER as u64,
                size: range.end.saturating_sub(range.start),
                ..SectionHeader::default()
            });
        }
        let (symbols, strings) = self.encode_symbols();
        let mut contents = Vec::new();
        let string_table = headers.len() as u32 + 2;
        let mut add = |name: &str, bytes: &[u8], header: SectionHeader| {
            let offset = (HEADER + contents.len()) as u64;
            contents.extend(bytes);
            contents.resize(contents.len().next_multiple_of(8), 0);
            headers.push(SectionHeader {
                name: names.add(name),
                offset,
                size: bytes.len() as u64,
                ..header
            });
        };
        let plain = |kind| SectionHeader {
            kind,
            ..SectionHeader::default()
        };
        add(".debug_frame", &self.debug_frame, plain(SHT_PROGBITS));
        let table = SectionHeader {
            link: string_table,
            info: (symbols.len() / SYMBOL) as u32,
            entry_size: SYMBOL as u64,
            ..plain(SHT_SYMTAB)
        };
        add(".symtab", &symbols, table);
        add(".strtab", &strings, plain(SHT_STRTAB));
        let name = names.add(".shstrtab");
        headers.push(SectionHeader {
            name,
            offset: (HEADER + contents.len()) as u64,
            size: names.0.len() as u64,
            ..plain(SHT_STRTAB)
        });
        contents.extend(&names.0);
        contents.resize(contents.len().next_multiple_of(8), 0);
        let mut file = encode_header(HEADER + contents.len(), headers.len() as u16);
        file.extend(contents);
        headers.iter().for_each(|header| header.write(&mut file));
        file
    }

    fn encode_symbols(&self) -> (Vec<u8>, Vec<u8>) {
        let mut strings = Strings::new();
        let mut symbols = vec![0; SYMBOL];
        for (name, range) in &self.functions {
            let section = self
                .code
                .iter()
                .position(|(_, code)| code.contains(&range.start));
            let Some(section) = section else {
                continue;
            };
            symbols.extend(strings.add(name).to_le_bytes());
            symbols.extend([LOCAL_FUNCTION, 0]);
            symbols.extend((section as u16 + 1).to_le_bytes());
            symbols.extend(range.start.to_le_bytes());
            symbols.extend(range.end.saturating_sub(range.start).to_le_bytes());
        }
        (symbols, strings.0)
    }
}

fn encode_header(section_headers: usize, count: u16) -> Vec<u8> {
    // 64-bit, little-endian, version 1, System V.
    let mut header = b"\x7fELF\x02\x01\x01\x00".to_vec();
    header.resize(16, 0);
    header.extend(ET_EXEC.to_le_bytes());
    header.extend(EM_X86_64.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    // No entry point, no program headers.
    header.extend([0; 16]);
    header.extend((section_headers as u64).to_le_bytes());
    header.extend(0_u32.to_le_bytes());
    header.extend((HEADER as u16).to_le_bytes());
    header.extend([0; 4]);
    header.extend((SECTION_HEADER as u16).to_le_bytes());
    header.extend(count.to_le_bytes());
    header.extend((count - 1).to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

    use super::NewSymbolFile;

    #[test]
    fn others_read_what_was_written() {
        let file = NewSymbolFile {
            code: vec![
                (".text.one".into(), 0x1000..0x1100),
                (".text.two".into(), 0x7f00_0000_0000..0x7f00_0000_1000),
            ],
            functions: vec![
                ("second".into(), 0x7f00_0000_0010..0x7f00_0000_0030),
                ("elsewhere".into(), 0x9000..0x9001),
                ("first".into(), 0x1000..0x1008),
            ],
            debug_frame: vec![1, 2, 3],
        };
        let bytes = file.to_bytes();
        let read = object::File::parse(&*bytes).expect("ELF");
        let frames = read.section_by_name(".debug_frame").expect("section");
        assert_eq!(frames.data().expect("contents"), [1, 2, 3]);
        let code = read.section_by_name(".text.two").expect("section");
        assert_eq!((code.address(), code.size()), (0x7f00_0000_0000, 0x1000));
        let symbols = read.symbols().map(|symbol| {
            let name = symbol.name().expect("name").to_owned();
            (name, symbol.address(), symbol.size())
        });
        let expected = [("second", 0x7f00_0000_0010, 0x20), ("first", 0x1000, 8)];
        let expected = expected.map(|(name, address, size)| (name.to_owned(), address, size));
        assert_eq!(symbols.collect::<Vec<_>>(), expected);
    }
}
