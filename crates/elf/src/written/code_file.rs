//! Code that lies in memory, as a shared library's file: profilers take names, unwind
//! information and instructions from files only.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{
    Draft, ET_DYN, PT_LOAD, SHF_EXECINSTR, SHT_NOTE, SHT_PROGBITS, SectionHeader, Segment,
};

const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const PF_R: u32 = 4;

const SEGMENTS: usize = 5;

/// Length of the build-id: that of SHA-1, which profilers expect no more than.
const ID: usize = 20;

/// Lengths of name and build-id, NT_GNU_BUILD_ID, the name (gABI, "Note Section").
const NOTE_START: [u8; 16] = *b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";

/// What goes into a code file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewCodeFile {
    /// The address that the file's first byte stands for.
    pub start: u64,
    /// Address of the code: at least a page behind `start`.
    pub address: u64,
    /// The code. Its length is a multiple of 8.
    pub code: Vec<u8>,
    /// The functions in it, by absolute address. Those elsewhere are left out.
    pub functions: Vec<(String, Range<u64>)>,
    /// The contents of `.eh_frame`, whose place is right behind the code. Their length is a
    /// multiple of 8.
    pub eh_frame: Vec<u8>,
    /// The contents of `.eh_frame_hdr`, whose place is right behind that.
    pub eh_frame_hdr: Vec<u8>,
}

/// A file and what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeFile {
    /// Its build-id: equal for equal files only.
    pub build_id: [u8; ID],
    /// The file.
    pub bytes: Vec<u8>,
}

impl NewCodeFile {
    /// The file: a shared library in which everything lies as far from the start as in memory.
    #[must_use]
    pub fn finish(&self) -> CodeFile {
        let mut draft = Draft::new(SEGMENTS);
        let headers = 0..draft.end();
        draft.fill_up_to(self.address.saturating_sub(self.start));
        let data = SectionHeader::of_kind(SHT_PROGBITS);
        let executable = SectionHeader {
            flags: SHF_EXECINSTR,
            ..data
        };
        let code = draft.add_loaded(".text", &self.code, executable);
        let eh_frame = draft.add_loaded(".eh_frame", &self.eh_frame, data);
        let table = draft.add_loaded(".eh_frame_hdr", &self.eh_frame_hdr, data);
        let note = [&NOTE_START[..], &[0; ID]].concat();
        let header = SectionHeader::of_kind(SHT_NOTE);
        let note = draft.add_loaded(".note.gnu.build-id", &note, header);
        draft.add_functions(&self.place_functions());
        let id = note.end as usize - ID;
        let segments = [
            (PT_LOAD, PF_R, headers),
            (PT_LOAD, PF_R | PF_X, code),
            (PT_LOAD, PF_R, eh_frame.start..note.end),
            (PT_GNU_EH_FRAME, PF_R, table),
            (PT_NOTE, PF_R, note),
        ];
        let segments = segments.map(|(kind, flags, range)| Segment { kind, flags, range });
        identify(draft.finish(ET_DYN, &segments), id)
    }

    /// The functions by their offsets in the file.
    fn place_functions(&self) -> Vec<(String, Range<u64>)> {
        let place = |address: u64| address.wrapping_sub(self.start);
        self.functions
            .iter()
            .map(|(name, range)| (name.clone(), place(range.start)..place(range.end)))
            .collect()
    }
}

/// Writes the build-id to its place, as linkers find it: from the file with zeros there.
fn identify(mut bytes: Vec<u8>, at: usize) -> CodeFile {
    let mut build_id = [0; ID];
    build_id.copy_from_slice(&Sha256::digest(&bytes)[..ID]);
    bytes[at..at + ID].copy_from_slice(&build_id);
    CodeFile { build_id, bytes }
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};

    use super::NewCodeFile;

    fn file() -> NewCodeFile {
        NewCodeFile {
            start: 0x7f00_0000_0000,
            address: 0x7f00_0000_2000,
            code: vec![0xc3; 64],
            functions: vec![("f".into(), 0x7f00_0000_2010..0x7f00_0000_2020)],
            eh_frame: vec![1; 16],
            eh_frame_hdr: vec![2; 12],
        }
    }

    #[test]
    fn everything_lies_as_far_from_the_start_as_in_memory() {
        let file = file().finish();
        let read = object::File::parse(&*file.bytes).expect("ELF");
        assert_eq!(read.build_id(), Ok(Some(&file.build_id[..])));
        let places = [
            (".text", 0x2000),
            (".eh_frame", 0x2040),
            (".eh_frame_hdr", 0x2050),
        ];
        for (name, place) in places {
            let section = read.section_by_name(name).expect("section");
            let offset = section.file_range().map(|(offset, _)| offset);
            assert_eq!((section.address(), offset), (place, Some(place)), "{name}");
        }
        let code = read.segments().find(|segment| segment.address() == 0x2000);
        assert_eq!(code.expect("segment").file_range(), (0x2000, 64));
        let symbol = read.symbols().next().expect("symbol");
        assert_eq!((symbol.name(), symbol.address()), (Ok("f"), 0x2010));
    }

    #[test]
    fn only_equal_files_have_equal_build_ids() {
        let other = NewCodeFile {
            code: vec![0x90; 64],
            ..file()
        };
        assert_eq!(file().finish(), file().finish());
        assert_ne!(file().finish().build_id, other.finish().build_id);
    }
}
