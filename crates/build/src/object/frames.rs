//! Call frame information: which record describes which function (LSB, "The .eh_frame
//! section").

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ObjectFile, Relocation, Section, SectionKind, Target};

/// A record of `.eh_frame`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameRecord {
    /// The section that it is in.
    pub section: usize,
    /// Where it is there.
    pub bytes: Range<usize>,
    /// What it describes; `None` for what several descriptions have in common (CIE).
    pub function: Option<FrameFunction>,
}

/// What a frame description (FDE) is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameFunction {
    /// Start of the record with what it has in common with others.
    pub common: usize,
    /// Section and offset of the code.
    pub code: (usize, i64),
    /// Section and offset of the exception table.
    pub table: Option<(usize, i64)>,
}

/// What exceptions do in a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExceptionTable {
    /// Section and offset of the table.
    pub place: (usize, i64),
    /// The reference to the routine that reads it.
    pub personality: Relocation,
}

impl ObjectFile {
    /// All records of call frame information, in order.
    #[must_use]
    pub(crate) fn frames(&self) -> Vec<FrameRecord> {
        let mut records = Vec::new();
        for (index, section) in self.sections.iter().enumerate() {
            if section.kind == SectionKind::EhFrame {
                self.read_records(index, section, &mut records);
            }
        }
        records
    }

    /// Exception tables of functions, and where what goes through them is found (personality
    /// routines), by section of the function. Only frame descriptions refer to them.
    #[must_use]
    pub(crate) fn exception_sections(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut commons: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for record in self.frames() {
            let Some(function) = record.function else {
                let start = record.bytes.start;
                commons.insert((record.section, start), self.referred_in(&record));
                continue;
            };
            let sections = found.entry(function.code.0).or_default();
            sections.extend(function.table.map(|(section, _)| section));
            let common = commons.get(&(record.section, function.common));
            sections.extend(common.into_iter().flatten());
        }
        found.retain(|_, sections| !sections.is_empty());
        found
    }

    /// What exceptions do in functions, by section and offset of the code.
    #[must_use]
    pub(crate) fn exception_tables(&self) -> BTreeMap<(usize, i64), ExceptionTable> {
        let mut found = BTreeMap::new();
        let mut personalities: BTreeMap<(usize, usize), Relocation> = BTreeMap::new();
        for record in self.frames() {
            let section = &self.sections[record.section];
            let Some(function) = record.function else {
                let inside = record.bytes.start as u64..record.bytes.end as u64;
                let mut relocations = section.relocations.iter();
                let personality = relocations.find(|it| inside.contains(&it.offset));
                let start = (record.section, record.bytes.start);
                personalities.extend(personality.map(|it| (start, *self.past_pointer(it))));
                continue;
            };
            let personality = personalities.get(&(record.section, function.common));
            if let (Some(place), Some(personality)) = (function.table, personality) {
                let personality = *personality;
                found.insert(function.code, ExceptionTable { place, personality });
            }
        }
        found
    }

    /// The relocation itself, or that of the pointer that it leads to: exception tables refer
    /// to what may lie in a library through one. GCC calls it `DW.ref.NAME`, clang nothing.
    #[must_use]
    pub(crate) fn past_pointer<'a>(&'a self, relocation: &'a Relocation) -> &'a Relocation {
        let Target::Place { section, offset } = self.target(relocation) else {
            return relocation;
        };
        let is_pointer = self
            .symbol_at(section, offset)
            .is_none_or(|(symbol, _)| is_exception_pointer(&self.symbols[symbol].name));
        let mut contents = self.sections[section].relocations.iter();
        let content = contents.find(|content| content.offset.cast_signed() == offset);
        content.filter(|_| is_pointer).unwrap_or(relocation)
    }

    fn referred_in(&self, record: &FrameRecord) -> Vec<usize> {
        let section = &self.sections[record.section];
        let inside = record.bytes.start as u64..record.bytes.end as u64;
        let own = section.relocations.iter();
        let own = own.filter(|relocation| inside.contains(&relocation.offset));
        own.filter_map(|relocation| match self.target(relocation) {
            Target::Place { section, .. } => Some(section),
            Target::Symbol { .. } => None,
        })
        .collect()
    }

    fn read_records(&self, index: usize, section: &Section, records: &mut Vec<FrameRecord>) {
        let word = |at: usize| {
            let field = section.bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes(field.try_into().ok()?) as usize)
        };
        let mut start = 0;
        // A length of 0 ends the section; one of 2^32 - 1 stands for the 64-bit form, which no
        // compiler writes for x86-64.
        while let (Some(length @ 1..0xffff_ffff), Some(id)) = (word(start), word(start + 4)) {
            let end = start + 4 + length;
            if end > section.bytes.len() || length < 8 {
                break;
            }
            let function = match id {
                0 => None,
                distance => self.frame_function(section, start..end, distance),
            };
            if id == 0 || function.is_some() {
                records.push(FrameRecord {
                    section: index,
                    bytes: start..end,
                    function,
                });
            }
            start = end;
        }
    }

    /// `distance` leads from behind the record's length back to what it has in common.
    fn frame_function(
        &self,
        section: &Section,
        bytes: Range<usize>,
        distance: usize,
    ) -> Option<FrameFunction> {
        let common = (bytes.start + 4).checked_sub(distance)?;
        let offset = |limit: usize| {
            let relocations = &section.relocations;
            relocations.partition_point(|relocation| relocation.offset < limit as u64)
        };
        let own = &section.relocations[offset(bytes.start)..offset(bytes.end)];
        let place = |relocation| match self.target(relocation) {
            Target::Place { section, offset } => Some((section, offset)),
            Target::Symbol { .. } => None,
        };
        let code = own
            .first()
            .filter(|first| first.offset == bytes.start as u64 + 8);
        let mut rest = own.iter().skip(1).filter_map(place);
        Some(FrameFunction {
            common,
            code: place(code?)?,
            table: rest
                .find(|(section, _)| self.sections[*section].kind == SectionKind::ExceptionTable),
        })
    }
}

/// Pointers that exception tables and frame descriptions go through.
pub(crate) fn is_exception_pointer(name: &str) -> bool {
    name.starts_with("DW.ref.")
}
