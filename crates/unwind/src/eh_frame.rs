//! Call frame information for profilers: what several `.eh_frame` sections say, as one that lies
//! beside the code, with its search table (LSB, "The .eh_frame section" and "The
//! .eh_frame_hdr section"). All addresses in it are relative, as in a shared library.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::cfi::Section;
use crate::descriptions::{Description, Descriptions};
use crate::encode::encode_record;

const DW_EH_PE_UDATA4: u8 = 0x03;
/// DW_EH_PE_pcrel, DW_EH_PE_sdata4.
const RELATIVE_TO_PLACE: u8 = 0x1b;
/// DW_EH_PE_datarel, DW_EH_PE_sdata4.
const RELATIVE_TO_TABLE: u8 = 0x3b;

/// Version 1 with the augmentation "zR".
const CIE_START: [u8; 4] = [1, b'z', b'R', 0];
/// Version 1, then how the table's parts are encoded.
const TABLE_START: [u8; 4] = [1, RELATIVE_TO_PLACE, DW_EH_PE_UDATA4, RELATIVE_TO_TABLE];

/// An `.eh_frame` section and the table that leads into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EhFrame {
    /// The contents of `.eh_frame`. Their length is a multiple of 8.
    pub section: Vec<u8>,
    /// The contents of `.eh_frame_hdr`, whose place is right behind `.eh_frame`.
    pub table: Vec<u8>,
}

/// Writes the descriptions of code in `code`, from all sections that can be read, for an
/// `.eh_frame` section at `address`. The first of several for the same code counts.
///
/// What lies 2 GiB or more away from its description is left out.
#[must_use]
pub fn encode_eh_frame(sections: &[Section], code: &Range<u64>, address: u64) -> EhFrame {
    let mut writer = Writer {
        address,
        section: Vec::new(),
        places: BTreeMap::new(),
    };
    for section in sections {
        writer.add_section(&Descriptions::read(section), code);
    }
    writer.finish()
}

struct Writer {
    /// Address of the section.
    address: u64,
    section: Vec<u8>,
    /// Addresses of descriptions by the code that they describe.
    places: BTreeMap<u64, u64>,
}

impl Writer {
    fn add_section(&mut self, descriptions: &Descriptions<'_>, code: &Range<u64>) {
        let mut commons = vec![None; descriptions.commons.len()];
        for description in &descriptions.entries {
            let start = description.range.start;
            if !code.contains(&start) || self.places.contains_key(&start) {
                continue;
            }
            let common = *commons[description.common].get_or_insert_with(|| {
                let common = &descriptions.commons[description.common];
                let own = [&[1, RELATIVE_TO_PLACE][..], &common.instructions].concat();
                let place = self.section.len();
                let contents = [&CIE_START[..], &common.columns, &own].concat();
                self.section.extend(encode_record(0, &contents));
                place
            });
            self.add_description(description, common);
        }
    }

    fn add_description(&mut self, description: &Description<'_>, common: usize) -> Option<()> {
        let range = &description.range;
        let place = self.end();
        // Behind the record's length and its distance from what it has in common.
        let start = distance(place + 8, range.start)?;
        let length = u32::try_from(range.end - range.start).ok()?;
        let mut contents = start.to_le_bytes().to_vec();
        contents.extend(length.to_le_bytes());
        contents.push(0);
        contents.extend(description.instructions);
        let back = (self.section.len() + 4 - common) as u32;
        self.section.extend(encode_record(back, &contents));
        self.places.insert(range.start, place);
        Some(())
    }

    fn end(&self) -> u64 {
        self.address + self.section.len() as u64
    }

    fn finish(mut self) -> EhFrame {
        // A word of zero ends the section, another one fills it up.
        self.section.extend([0; 8]);
        let at = self.end();
        let rows: Vec<[i32; 2]> = self
            .places
            .iter()
            .filter_map(|(code, place)| Some([distance(at, *code)?, distance(at, *place)?]))
            .collect();
        let section = distance(at + 4, self.address).unwrap_or_default();
        let mut table = TABLE_START.to_vec();
        table.extend(section.to_le_bytes());
        table.extend((rows.len() as u32).to_le_bytes());
        table.extend(rows.iter().flatten().flat_map(|word| word.to_le_bytes()));
        EhFrame {
            section: self.section,
            table,
        }
    }
}

fn distance(from: u64, to: u64) -> Option<i32> {
    i32::try_from(to.wrapping_sub(from).cast_signed()).ok()
}

#[cfg(test)]
mod tests {
    use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, UnwindContext, UnwindSection};

    use super::encode_eh_frame;
    use crate::{Fixed, FixedBase, FixedEntry, Section};

    const CODE: u64 = 0x7f00_0000_1000;
    const FRAMES: u64 = 0x7f00_0010_0000;

    fn section(start: u64, cfa_from_base: u32) -> Section {
        let entry = |offset, cfa_from_base| FixedEntry {
            offset,
            base: FixedBase::Rsp,
            cfa_from_base,
            rbp_saved: true,
        };
        let fixed = Fixed {
            name: "stub".into(),
            range: start..start + 32,
            entries: vec![entry(0, 16), entry(9, cfa_from_base)],
        };
        Section {
            address: 0x5000,
            bytes: fixed.encode_eh_frame().into(),
        }
    }

    #[test]
    fn the_table_leads_to_the_same_rules() {
        // Out of order, one twice, one elsewhere.
        let sections = [
            section(CODE + 0x100, 200),
            section(CODE, 300),
            section(CODE, 400),
            section(0x9000, 500),
        ];
        let written = encode_eh_frame(&sections, &(CODE..CODE + 0x1000), FRAMES);
        assert_eq!(written.section.len() % 8, 0);
        let table_at = FRAMES + written.section.len() as u64;
        let bases = BaseAddresses::default()
            .set_eh_frame(FRAMES)
            .set_eh_frame_hdr(table_at);
        let table = EhFrameHdr::new(&written.table, LittleEndian);
        let table = table.parse(&bases, 8).expect("table");
        let table = table.table().expect("sorted");
        let eh_frame = EhFrame::new(&written.section, LittleEndian);
        let mut context = UnwindContext::new();
        let mut expected_context = UnwindContext::new();
        for (section, start) in [(&sections[0], CODE + 0x100), (&sections[1], CODE)] {
            for pc in start..start + 32 {
                let expected = section.eh_frame();
                let expected = expected.unwind_info_for_address(
                    &crate::cfi::base_addresses(section),
                    &mut expected_context,
                    pc,
                    EhFrame::cie_from_offset,
                );
                let found = table.unwind_info_for_address(
                    &eh_frame,
                    &bases,
                    &mut context,
                    pc,
                    EhFrame::cie_from_offset,
                );
                assert_eq!(
                    found.expect("described"),
                    expected.expect("given"),
                    "{pc:#x}"
                );
            }
        }
        let mut descriptions = 0;
        let mut entries = eh_frame.entries(&bases);
        while let Some(entry) = entries.next().expect("sound") {
            descriptions += usize::from(matches!(entry, gimli::CieOrFde::Fde(_)));
        }
        assert_eq!(descriptions, 2);
    }

    #[test]
    fn what_is_too_far_away_is_left_out() {
        let sections = [section(CODE, 200)];
        let far = encode_eh_frame(&sections, &(0..u64::MAX), CODE + (3 << 30));
        assert_eq!(far.table.len(), 12, "no rows");
    }
}
