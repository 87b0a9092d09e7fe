//! Constants in sections that have no symbols.

use std::collections::HashMap;

use crate::object::{ObjectFile, Relocation, Target};

/// A section and an offset in it.
pub(super) type Place = (usize, i64);

/// Offsets at which constants without names begin, by section: where something refers to.
pub(super) struct BlockStarts(HashMap<usize, Vec<i64>>);

impl BlockStarts {
    pub(super) fn of(object: &ObjectFile) -> Self {
        let mut starts: HashMap<usize, Vec<i64>> = HashMap::new();
        let sections = object.sections.iter();
        for relocation in sections.flat_map(|section| &section.relocations) {
            if let Target::Place { section, offset } = object.target(relocation)
                && object.sections[section].kind.is_constant()
                && object.first_symbol(section).is_none()
            {
                starts.entry(section).or_default().push(offset);
            }
        }
        for offsets in starts.values_mut() {
            offsets.sort_unstable();
        }
        Self(starts)
    }

    /// The next start behind an offset.
    fn next(&self, section: usize, offset: i64) -> Option<i64> {
        let starts = self.0.get(&section)?;
        starts
            .get(starts.partition_point(|start| *start <= offset))
            .copied()
    }
}

/// A constant without a name: from where something refers to it to where the next one begins.
pub(super) struct Block<'a> {
    /// Distance from the section's start.
    pub(super) start: u64,
    bytes: &'a [u8],
    pub(super) relocations: &'a [Relocation],
}

impl<'a> Block<'a> {
    pub(super) fn at(object: &'a ObjectFile, starts: &BlockStarts, place: Place) -> Option<Self> {
        let section = &object.sections[place.0];
        let start = u64::try_from(place.1).ok()?;
        let end = starts
            .next(place.0, place.1)
            .and_then(|next| u64::try_from(next).ok())
            .unwrap_or(section.size)
            .min(section.size);
        let position = |offset: u64| {
            let relocations = &section.relocations;
            relocations.partition_point(|relocation| relocation.offset < offset)
        };
        Some(Self {
            start,
            bytes: section.bytes.get(start as usize..end as usize)?,
            relocations: section.relocations.get(position(start)..position(end))?,
        })
    }

    /// The zero-terminated text that it consists of.
    pub(super) fn text(&self) -> Option<&'a [u8]> {
        let length = self.bytes.iter().position(|byte| *byte == 0)?;
        let padded = self.bytes[length..].iter().all(|byte| *byte == 0);
        (padded && self.relocations.is_empty()).then(|| &self.bytes[..length])
    }

    /// Equal but for zeros that align what follows.
    pub(super) fn same_bytes(&self, other: &Self) -> bool {
        let common = self.bytes.len().min(other.bytes.len());
        let (own, others) = (self.bytes.split_at(common), other.bytes.split_at(common));
        own.0 == others.0 && own.1.iter().chain(others.1).all(|byte| *byte == 0)
    }
}
