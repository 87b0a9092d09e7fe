//! Call frame information of the functions that are taken along.

use std::collections::BTreeMap;

use crate::object::{FrameRecord, ObjectFile, Relocation};

/// Records of one object's `.eh_frame` that describe the chosen functions.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    pub(super) bytes: Vec<u8>,
    /// With offsets into `bytes`.
    pub(super) relocations: Vec<Relocation>,
}

/// Selects the frame descriptions of `functions` (sections), with what they share.
pub(super) fn select(object: &ObjectFile, functions: &[usize]) -> Frames {
    let mut frames = Frames::default();
    let records = object.frames();
    let mut copies: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for record in &records {
        let Some(function) = &record.function else {
            continue;
        };
        if !functions.contains(&function.code.0) {
            continue;
        }
        let Some(common) = records
            .iter()
            .find(|other| (other.section, other.bytes.start) == (record.section, function.common))
        else {
            continue;
        };
        let key = (record.section, function.common);
        let common_copy = match copies.get(&key) {
            Some(copy) => *copy,
            None => {
                let copy = frames.append(object, common);
                copies.insert(key, copy);
                copy
            }
        };
        let copy = frames.append(object, record);
        // The distance from this field back to what it has in common.
        let distance = (copy + 4 - common_copy) as u32;
        frames.bytes[copy + 4..copy + 8].copy_from_slice(&distance.to_le_bytes());
    }
    frames
}

impl Frames {
    fn append(&mut self, object: &ObjectFile, record: &FrameRecord) -> usize {
        let section = &object.sections[record.section];
        let start = self.bytes.len();
        self.bytes.extend(&section.bytes[record.bytes.clone()]);
        let inside = record.bytes.start as u64..record.bytes.end as u64;
        let moved = section
            .relocations
            .iter()
            .filter(|relocation| inside.contains(&relocation.offset))
            .map(|relocation| Relocation {
                offset: relocation.offset - inside.start + start as u64,
                ..*relocation
            });
        self.relocations.extend(moved);
        start
    }
}
