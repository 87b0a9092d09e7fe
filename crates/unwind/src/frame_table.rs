//! From a program counter to the frame description that may cover it.
//!
//! The search table of `.eh_frame_hdr` (Linux Standard Base core, section 10.6.2) is used
//! in the one encoding that linkers write; without it the section is indexed once.

use std::ops::Range;

use gimli::{CieOrFde, EhFrame, UnwindSection};

use crate::cfi::{Bytes, Section, base_addresses};

/// Version 1; pc-relative signed frame pointer; unsigned count; table of signed offsets
/// from the header's address.
const USUAL_ENCODING: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
const TABLE_OFFSET: usize = 12;
const ROW: usize = 8;

/// A search table inside `.eh_frame_hdr`.
#[derive(Debug)]
pub(crate) struct HeaderTable {
    header: Section,
    rows: usize,
}

impl HeaderTable {
    /// `None` when the header has no table in the usual encoding.
    pub(crate) fn parse(header: &Section) -> Option<Self> {
        let bytes = &header.bytes;
        if bytes.get(..4)? != USUAL_ENCODING {
            return None;
        }
        let rows = u32::from_le_bytes(bytes.get(8..TABLE_OFFSET)?.try_into().ok()?) as usize;
        let length = rows.checked_mul(ROW)?;
        bytes.get(TABLE_OFFSET..TABLE_OFFSET.checked_add(length)?)?;
        (rows > 0).then(|| Self {
            header: header.clone(),
            rows,
        })
    }

    /// Address of the last description that starts at or before `pc`.
    pub(crate) fn description_before(&self, pc: u64) -> Option<u64> {
        let (mut low, mut high) = (0, self.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.value(middle * ROW) <= pc {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some(self.value(low.checked_sub(1)? * ROW + 4))
    }

    fn value(&self, offset: usize) -> u64 {
        let at = TABLE_OFFSET + offset;
        let mut word = [0; 4];
        word.copy_from_slice(&self.header.bytes[at..at + 4]);
        let relative = i64::from(i32::from_le_bytes(word));
        self.header.address.wrapping_add_signed(relative)
    }
}

/// A sorted index made by reading all of `.eh_frame`.
#[derive(Debug)]
pub(crate) struct LinearIndex(Vec<(Range<u64>, usize)>);

impl LinearIndex {
    /// Indexes what can be read; after a malformed entry nothing can be located any more.
    pub(crate) fn build(section: &Section) -> Self {
        let eh_frame: EhFrame<Bytes<'_>> = section.eh_frame();
        let bases = base_addresses(section);
        let mut index = Vec::new();
        let mut entries = eh_frame.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            if let CieOrFde::Fde(partial) = entry
                && let Ok(fde) = partial.parse(EhFrame::cie_from_offset)
            {
                let start = fde.initial_address();
                let range = start..start.wrapping_add(fde.len());
                index.push((range, fde.offset()));
            }
        }
        index.retain(|(range, _)| !range.is_empty());
        index.sort_unstable_by_key(|(range, offset)| (range.start, *offset));
        Self(index)
    }

    /// The ranges that the descriptions cover.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(range, _)| range.clone())
    }

    /// The ranges, and the section offsets of their descriptions.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Range<u64>, usize)> + '_ {
        self.0.iter().cloned()
    }

    /// Section offset of the last description that starts at or before `pc`.
    pub(crate) fn description_before(&self, pc: u64) -> Option<usize> {
        let after = self.0.partition_point(|(range, _)| range.start <= pc);
        Some(self.0[after.checked_sub(1)?].1)
    }
}
