//! The other direction: call frame information for code of our own making, so that the
//! target's own unwinder passes through it, too (DWARF 4, 6.4; LSB, "The .eh_frame section").

use crate::{Fixed, FixedBase, FixedEntry};

const RBP: u8 = 6;
const RSP: u8 = 7;
const RETURN_ADDRESS: u8 = 16;

const DW_CFA_NOP: u8 = 0x00;
const DW_CFA_ADVANCE_LOC4: u8 = 0x04;
const DW_CFA_DEF_CFA: u8 = 0x0c;
const DW_CFA_OFFSET: u8 = 0x80;
const DW_CFA_RESTORE: u8 = 0xc0;

/// Version 1, "zR", code alignment 1, data alignment -8, one augmentation byte: addresses are
/// absolute (DW_EH_PE_absptr).
const CIE: [u8; 9] = [1, b'z', b'R', 0, 1, 0x78, RETURN_ADDRESS, 1, 0x00];

impl Fixed {
    /// A whole .eh_frame section for the stub, with its terminating zero word. It holds
    /// absolute addresses, so it may lie anywhere.
    #[must_use]
    pub fn encode_eh_frame(&self) -> Vec<u8> {
        // At a function's first instruction: CFA = rsp+8, return address at CFA-8.
        let initial = [DW_CFA_DEF_CFA, RSP, 8, DW_CFA_OFFSET | RETURN_ADDRESS, 1];
        let mut section = encode_record(0, &[&CIE[..], &initial].concat());
        let cie_distance = section.len() as u32 + 4;
        let mut description = self.range.start.to_le_bytes().to_vec();
        description.extend((self.range.end - self.range.start).to_le_bytes());
        description.push(0);
        let mut offset = 0;
        for entry in &self.entries {
            if entry.offset > offset {
                description.push(DW_CFA_ADVANCE_LOC4);
                description.extend((entry.offset - offset).to_le_bytes());
                offset = entry.offset;
            }
            encode_entry(entry, &mut description);
        }
        section.extend(encode_record(cie_distance, &description));
        section.extend([0; 4]);
        section
    }
}

fn encode_entry(entry: &FixedEntry, into: &mut Vec<u8>) {
    let base = match entry.base {
        FixedBase::Rsp => RSP,
        FixedBase::Rbp => RBP,
    };
    into.extend([DW_CFA_DEF_CFA, base]);
    encode_uleb128(entry.cfa_from_base, into);
    if entry.rbp_saved {
        into.extend([DW_CFA_OFFSET | RBP, 2]);
    } else {
        into.push(DW_CFA_RESTORE | RBP);
    }
}

fn encode_uleb128(mut number: u32, into: &mut Vec<u8>) {
    while number >= 0x80 {
        into.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    into.push(number as u8);
}

/// Length, identification and contents, filled up to a multiple of 8 bytes.
pub(crate) fn encode_record(identification: u32, contents: &[u8]) -> Vec<u8> {
    let length = (8 + contents.len()).next_multiple_of(8) - 4;
    let mut record = (length as u32).to_le_bytes().to_vec();
    record.extend(identification.to_le_bytes());
    record.extend(contents);
    record.resize(length + 4, DW_CFA_NOP);
    record
}
