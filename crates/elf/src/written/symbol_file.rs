//! A symbol file for debuggers: which functions lie where, and how to unwind through them.

use std::ops::Range;

use super::{
    Draft, ET_EXEC, HEADER, SHF_ALLOC, SHF_EXECINSTR, SHT_NOBITS, SHT_PROGBITS, SectionHeader,
};

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

impl NewSymbolFile {
    /// The file: an ELF executable without segments, whose code is elsewhere.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut draft = Draft::new(0);
        for (name, range) in &self.code {
            let header = SectionHeader {
                flags: SHF_ALLOC | SHF_EXECINSTR,
                address: range.start,
                offset: HEADER as u64,
                size: range.end.saturating_sub(range.start),
                ..SectionHeader::of_kind(SHT_NOBITS)
            };
            draft.add_empty(name, header);
        }
        let header = SectionHeader::of_kind(SHT_PROGBITS);
        draft.add(".debug_frame", &self.debug_frame, header);
        draft.add_functions(&self.functions);
        draft.finish(ET_EXEC, &[])
    }
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
