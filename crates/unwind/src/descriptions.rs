//! What an `.eh_frame` section says, taken apart so that it can be written in another form
//! (LSB, "The .eh_frame section"). What only exceptions need is left out.

use std::collections::HashMap;
use std::ops::Range;

use gimli::{CieOrFde, EhFrame, UnwindSection};

use crate::cfi::{self, Section, base_addresses};
use crate::cursor::Cursor;

/// The descriptions of a section that can be read.
pub(crate) struct Descriptions<'s> {
    pub(crate) commons: Vec<Common>,
    pub(crate) entries: Vec<Description<'s>>,
}

/// What descriptions have in common.
pub(crate) struct Common {
    /// Code alignment, data alignment and the column of the return address, as encoded.
    pub(crate) columns: Vec<u8>,
    /// The rules that every description begins with.
    pub(crate) instructions: Vec<u8>,
    /// Length of the addresses in descriptions.
    address_size: usize,
    /// Descriptions have a block of augmentation data.
    augmented: bool,
}

/// How some code unwinds.
pub(crate) struct Description<'s> {
    /// Index of what it has in common with others.
    pub(crate) common: usize,
    pub(crate) range: Range<u64>,
    pub(crate) instructions: &'s [u8],
}

impl<'s> Descriptions<'s> {
    pub(crate) fn read(section: &'s Section) -> Self {
        let eh_frame = section.eh_frame();
        let bases = base_addresses(section);
        let mut known = HashMap::new();
        let mut descriptions = Self {
            commons: Vec::new(),
            entries: Vec::new(),
        };
        let mut entries = eh_frame.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            if let CieOrFde::Fde(partial) = entry
                && let Ok(description) = partial.parse(EhFrame::cie_from_offset)
            {
                descriptions.add(section, &description, &mut known);
            }
        }
        descriptions
    }

    /// `known` leads from the offset of what descriptions have in common to its index.
    fn add(
        &mut self,
        section: &'s Section,
        description: &cfi::Description<'_>,
        known: &mut HashMap<usize, usize>,
    ) -> Option<()> {
        let at = description.cie().offset();
        let common = match known.get(&at) {
            Some(index) => *index,
            None => {
                self.commons.push(read_common(record(section, at)?)?);
                known.insert(at, self.commons.len() - 1);
                self.commons.len() - 1
            }
        };
        let own = record(section, description.offset())?;
        let Common {
            address_size,
            augmented,
            ..
        } = self.commons[common];
        let mut cursor = Cursor::new(own, 4 + 2 * address_size);
        if augmented {
            skip_block(&mut cursor)?;
        }
        let start = description.initial_address();
        self.entries.push(Description {
            common,
            range: start..start.checked_add(description.len())?,
            instructions: own.get(cursor.position()..)?,
        });
        Some(())
    }
}

fn read_common(record: &[u8]) -> Option<Common> {
    let mut cursor = Cursor::new(record, 4);
    let version = cursor.byte().ok()?;
    let start = cursor.position();
    while cursor.byte().ok()? != 0 {}
    let augmentation = record.get(start..cursor.position() - 1)?;
    let augmented = augmentation.first() == Some(&b'z');
    let factors = cursor.position();
    cursor.unsigned().ok()?;
    cursor.signed().ok()?;
    let mut columns = record[factors..cursor.position()].to_vec();
    let register = match version {
        1 => u64::from(cursor.byte().ok()?),
        _ => cursor.unsigned().ok()?,
    };
    columns.push(u8::try_from(register).ok()?);
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
    Some(Common {
        columns,
        instructions: record.get(cursor.position()..)?.to_vec(),
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
