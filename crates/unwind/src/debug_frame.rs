//! Call frame information for debuggers: what several `.eh_frame` sections say, as one
//! `.debug_frame` section (DWARF 4, 6.4.1), which may lie anywhere.

use crate::cfi::Section;
use crate::descriptions::Descriptions;
use crate::encode::encode_record;

/// Identification of what descriptions have in common.
const CIE_ID: u32 = 0xffff_ffff;
/// Version 1, no augmentation.
const CIE_START: [u8; 2] = [1, 0];

/// Writes the descriptions of all sections that can be read.
#[must_use]
pub fn encode_debug_frame(sections: &[Section]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for section in sections {
        add_section(&Descriptions::read(section), &mut encoded);
    }
    encoded
}

fn add_section(descriptions: &Descriptions<'_>, encoded: &mut Vec<u8>) {
    let mut commons = Vec::new();
    for common in &descriptions.commons {
        commons.push(encoded.len() as u32);
        let contents = [&CIE_START[..], &common.columns, &common.instructions].concat();
        encoded.extend(encode_record(CIE_ID, &contents));
    }
    for description in &descriptions.entries {
        let range = &description.range;
        let mut contents = range.start.to_le_bytes().to_vec();
        contents.extend((range.end - range.start).to_le_bytes());
        contents.extend(description.instructions);
        encoded.extend(encode_record(commons[description.common], &contents));
    }
}

#[cfg(test)]
mod tests {
    use gimli::{DebugFrame, LittleEndian, UnwindContext, UnwindSection};

    use super::encode_debug_frame;
    use crate::{Fixed, FixedBase, FixedEntry, Section};

    fn section(start: u64, rbp_saved: bool) -> Section {
        let entry = |offset, cfa_from_base| FixedEntry {
            offset,
            base: FixedBase::Rsp,
            cfa_from_base,
            rbp_saved,
        };
        let fixed = Fixed {
            name: "stub".into(),
            range: start..start + 32,
            entries: vec![entry(0, 16), entry(9, 200)],
        };
        Section {
            address: 0x5000,
            bytes: fixed.encode_eh_frame().into(),
        }
    }

    #[test]
    fn the_rules_are_the_same() {
        let sections = [section(0x1000, true), section(0x9000, false)];
        let encoded = encode_debug_frame(&sections);
        let mut written = DebugFrame::new(&encoded, LittleEndian);
        written.set_address_size(8);
        let bases = gimli::BaseAddresses::default();
        let mut context = UnwindContext::new();
        let mut expected_context = UnwindContext::new();
        for section in &sections {
            let eh_frame = section.eh_frame();
            let eh_bases = crate::cfi::base_addresses(section);
            for start in [0x1000_u64, 0x9000] {
                for pc in start..start + 32 {
                    let expected = eh_frame.unwind_info_for_address(
                        &eh_bases,
                        &mut expected_context,
                        pc,
                        gimli::EhFrame::cie_from_offset,
                    );
                    let Ok(expected) = expected else { continue };
                    let found = written.unwind_info_for_address(
                        &bases,
                        &mut context,
                        pc,
                        DebugFrame::cie_from_offset,
                    );
                    assert_eq!(found.expect("described"), expected, "{pc:#x}");
                }
            }
        }
    }

    #[test]
    fn damaged_sections_are_left_out() {
        let whole = section(0x1000, true);
        let complete = encode_debug_frame(std::slice::from_ref(&whole)).len();
        for length in 0..whole.bytes.len() {
            let part = Section {
                address: whole.address,
                bytes: whole.bytes[..length].into(),
            };
            let encoded = encode_debug_frame(&[part]);
            assert!(encoded.len() <= complete, "{length}");
        }
    }
}
