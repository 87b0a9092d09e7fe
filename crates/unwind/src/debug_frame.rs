//! Call frame information for debuggers: what several `.eh_frame` sections say, as one
//! `.debug_frame` section (DWARF 4, 6.4.1), which may lie anywhere.

use std::collections::HashMap;

use gimli::{CieOrFde, EhFrame, UnwindSection};

use crate::cfi::{Description, Section, base_addresses};
use crate::cursor::Cursor;

/// Identification of what descriptions have in common.
const CIE_ID: u32 = 0xffff_ffff;
const VERSION: u8 = 1;
const DW_CFA_NOP: u8 = 0;

/// Writes the descriptions of all sections that can be read.
#[must_use]
pub fn encode_debug_frame(sections: &[Section]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for section in sections {
        let eh_frame = section.eh_frame();
        let bases = base_addresses(section);
        let mut commons = HashMap::new();
        let mut entries = eh_frame.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            if let CieOrFde::Fde(partial) = entry
                && let Ok(description) = partial.parse(EhFrame::cie_from_offset)
            {
                add_description(section, &description, &mut commons, &mut encoded);
            }
        }
    }
    encoded
}

/// What descriptions have in common.
#[derive(Clone)]
struct Common {
    /// The record's contents, without what only exceptions need.
    contents: Vec<u8>,
    /// Length of the addresses in descriptions.
    address_size: usize,
    /// Descriptions have a block of augmentation data.
    augmented: bool,
}

/// `commons` leads from what descriptions have in common to its copy.
fn add_description(
    section: &Section,
    description: &Description<'_>,
    commons: &mut HashMap<usize, (Common, u32)>,
    encoded: &mut Vec<u8>,
) -> Option<()> {
    let at = description.cie().offset();
    let (common, copy) = match commons.get(&at) {
        Some(known) => known.clone(),
        None => {
            let common = read_common(record(section, at)?)?;
            let copy = encoded.len() as u32;
            add_record(CIE_ID, &common.contents, encoded);
            commons.insert(at, (common.clone(), copy));
            (common, copy)
        }
    };
    let own = record(section, description.offset())?;
    let mut cursor = Cursor::new(own, 4 + 2 * common.address_size);
    if common.augmented {
        skip_block(&mut cursor)?;
    }
    let mut contents = description.initial_address().to_le_bytes().to_vec();
    contents.extend(description.len().to_le_bytes());
    contents.extend(own.get(cursor.position()..)?);
    add_record(copy, &contents, encoded);
    Some(())
}

fn read_common(record: &[u8]) -> Option<Common> {
    let mut cursor = Cursor::new(record, 4);
    let version = cursor.byte().ok()?;
    let start = cursor.position();
    while cursor.byte().ok()? != 0 {}
    let augmentation = record.get(start..cursor.position() - 1)?;
    let augmented = augmentation.first() == Some(&b'z');
    let mut contents = vec![VERSION, 0];
    let factors = cursor.position();
    cursor.unsigned().ok()?;
    cursor.signed().ok()?;
    contents.extend(&record[factors..cursor.position()]);
    let register = match version {
        1 => u64::from(cursor.byte().ok()?),
        _ => cursor.unsigned().ok()?,
    };
    contents.push(u8::try_from(register).ok()?);
    let mut address_size = 8;
    if augmented {
        let length = cursor.unsigned().ok()?;
        let end = cursor
            .position()
            .checked_add(usize::try_from(length).ok()?)?;
        for letter in &augmentation[1..] {
            match letter {
                b'R' => address_size = pointer_size(cursor.byte().ok()?)?,
                b'L' => {
                    cursor.byte().ok()?;
                }
                b'P' => {
                    let size = pointer_size(cursor.byte().ok()?)?;
                    cursor = Cursor::new(record, cursor.position() + size);
                }
                b'S' | b'B' => {}
                _ => return None,
            }
        }
        cursor = Cursor::new(record, end);
    }
    contents.extend(record.get(cursor.position()..)?);
    Some(Common {
        contents,
        address_size,
        augmented,
    })
}

fn pointer_size(encoding: u8) -> Option<usize> {
    match encoding & 0x0f {
        0x02 | 0x0a => Some(2),
        0x03 | 0x0b => Some(4),
        0x00 | 0x04 | 0x0c => Some(8),
        _ => None,
    }
}

/// A record from behind its length on.
fn record(section: &Section, offset: usize) -> Option<&[u8]> {
    let rest = section.bytes.get(offset..)?;
    let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    rest.get(4..4usize.checked_add(length)?)
}

/// Leaves out bytes that their number stands before.
fn skip_block(cursor: &mut Cursor<'_>) -> Option<()> {
    let length = cursor.unsigned().ok()?;
    for _ in 0..length {
        cursor.byte().ok()?;
    }
    Some(())
}

/// Length, identification and contents, filled up to a multiple of 8 bytes.
fn add_record(identification: u32, contents: &[u8], encoded: &mut Vec<u8>) {
    let length = (8 + contents.len()).next_multiple_of(8) - 4;
    let end = encoded.len() + 4 + length;
    encoded.extend((length as u32).to_le_bytes());
    encoded.extend(identification.to_le_bytes());
    encoded.extend(contents);
    encoded.resize(end, DW_CFA_NOP);
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
