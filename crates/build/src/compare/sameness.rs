//! Whether two sections do the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Pairs;
use super::blocks::{Block, BlockStarts, Place};
use super::lines::{Compilation, Trace};
use crate::object::{Binding, ObjectFile, Relocation, SectionKind, Target};

/// Compares sections of two versions of one object.
pub(super) struct Sameness<'a> {
    before: &'a ObjectFile,
    after: &'a ObjectFile,
    pairs: &'a Pairs,
    /// Results by section before and after, `true` also while they are being compared: what
    /// refers to itself is the same if nothing else differs.
    known: HashMap<(usize, usize), bool>,
    known_blocks: HashMap<(Place, Place), bool>,
    /// Where constants without names begin, in both versions.
    block_starts: [BlockStarts; 2],
    compilation: Compilation<'a>,
    /// What differs without consequence, by section after.
    traces: BTreeMap<usize, BTreeSet<Trace>>,
}

impl<'a> Sameness<'a> {
    pub(super) fn new(
        before: &'a ObjectFile,
        after: &'a ObjectFile,
        pairs: &'a Pairs,
        compilation: Compilation<'a>,
    ) -> Self {
        Self {
            before,
            after,
            pairs,
            known: HashMap::new(),
            known_blocks: HashMap::new(),
            block_starts: [before, after].map(BlockStarts::of),
            compilation,
            traces: BTreeMap::new(),
        }
    }

    /// Same contents, and relocations that mean the same.
    pub(super) fn sections(&mut self, before: usize, after: usize) -> bool {
        if let Some(known) = self.known.get(&(before, after)) {
            return *known;
        }
        self.known.insert((before, after), true);
        let (old, new) = (&self.before.sections[before], &self.after.sections[after]);
        let alike = old.kind == new.kind
            && old.relocations.len() == new.relocations.len()
            && self.contents(before, after);
        let same = alike && {
            let mut relocations = old.relocations.iter().zip(&new.relocations);
            relocations.all(|(old, new)| self.relocations(after, (old, 0), (new, 0)))
        };
        self.known.insert((before, after), same);
        if !same {
            self.traces.remove(&after);
        }
        same
    }

    /// What differs without consequence, by section after the change.
    pub(super) fn into_traces(self) -> BTreeMap<usize, BTreeSet<Trace>> {
        self.traces
    }

    /// Same bytes, or such as differ in what the compilation was.
    fn contents(&mut self, before: usize, after: usize) -> bool {
        let (old, new) = (&self.before.sections[before], &self.after.sections[after]);
        if old.size == new.size && old.bytes == new.bytes {
            return true;
        }
        let compilation = &self.compilation;
        let trace = match new.kind {
            SectionKind::Code => compilation
                .differ_in_lines((before, &old.bytes), (after, &new.bytes))
                .then_some(Trace::LineNumbers),
            SectionKind::Data | SectionKind::ReadOnly => {
                compilation.differ_in_origin(&old.bytes, &new.bytes)
            }
            _ => None,
        };
        self.note(after, trace)
    }

    fn note(&mut self, section: usize, trace: Option<Trace>) -> bool {
        if let Some(trace) = trace {
            self.traces.entry(section).or_default().insert(trace);
        }
        trace.is_some()
    }

    /// Relocations of a section after the change, each with the start that they are counted
    /// from.
    fn relocations(
        &mut self,
        section: usize,
        (old, old_start): (&Relocation, u64),
        (new, new_start): (&Relocation, u64),
    ) -> bool {
        if (old.offset - old_start, old.kind) != (new.offset - new_start, new.kind) {
            return false;
        }
        match (self.before.target(old), self.after.target(new)) {
            (
                Target::Place {
                    section: old_section,
                    offset,
                },
                Target::Place {
                    section: new_section,
                    offset: new_offset,
                },
            ) => self.places(section, (old_section, offset), (new_section, new_offset)),
            // Undefined, or a variable or function that has moved to another file.
            _ => {
                let (old_symbol, new_symbol) = (
                    &self.before.symbols[old.symbol],
                    &self.after.symbols[new.symbol],
                );
                old_symbol.binding != Binding::Local
                    && new_symbol.binding != Binding::Local
                    && old_symbol.name == new_symbol.name
                    && old.distance == new.distance
            }
        }
    }

    fn places(&mut self, from: usize, old: (usize, i64), new: (usize, i64)) -> bool {
        let kind = self.after.sections[new.0].kind;
        if matches!(kind, SectionKind::Strings | SectionKind::Constants) {
            let old_kind = self.before.sections[old.0].kind;
            let elements = (
                self.before.element(old.0, old.1),
                self.after.element(new.0, new.1),
            );
            let (Some(old), Some(new), true) = (elements.0, elements.1, old_kind == kind) else {
                return false;
            };
            let trace = (kind == SectionKind::Strings && old != new)
                .then(|| self.compilation.differ_in_origin(old, new))
                .flatten();
            return old == new || self.note(from, trace);
        }
        let named = |object: &ObjectFile, place: (usize, i64)| object.symbol_at(place.0, place.1);
        if let (Some(old_symbol), Some(new_symbol)) =
            (named(self.before, old), named(self.after, new))
        {
            // One place may have several names.
            let paired = self.pairs.symbol(new_symbol.0).is_some_and(|known| {
                self.before.symbols[known].place == self.before.symbols[old_symbol.0].place
            });
            return old_symbol.1 == new_symbol.1
                && (paired || self.equal_constants(old_symbol.0, new_symbol.0));
        }
        // A place outside the variable that it is counted from, or constants without names.
        let anonymous = self.after.first_symbol(new.0).is_none();
        if anonymous && kind.is_constant() {
            return self.blocks(from, old, new);
        }
        self.pairs.section(new.0) == Some(old.0) && old.1 == new.1
    }

    /// Constants without names, such as jump tables and texts that are not merged.
    fn blocks(&mut self, from: usize, old: (usize, i64), new: (usize, i64)) -> bool {
        let blocks = (
            Block::at(self.before, &self.block_starts[0], old),
            Block::at(self.after, &self.block_starts[1], new),
        );
        let (Some(old_block), Some(new_block)) = blocks else {
            return false;
        };
        let texts = old_block.text().zip(new_block.text());
        let texts = texts.filter(|texts| texts.0 != texts.1);
        let trace = texts.and_then(|(old, new)| self.compilation.differ_in_origin(old, new));
        if self.note(from, trace) {
            return true;
        }
        if let Some(known) = self.known_blocks.get(&(old, new)) {
            return *known;
        }
        self.known_blocks.insert((old, new), true);
        let relocations = (old_block.relocations, new_block.relocations);
        let starts = (old_block.start, new_block.start);
        let same = old_block.same_bytes(&new_block)
            && relocations.0.len() == relocations.1.len()
            && relocations
                .0
                .iter()
                .zip(relocations.1)
                .all(|(old, new)| self.relocations(from, (old, starts.0), (new, starts.1)));
        self.known_blocks.insert((old, new), same);
        same
    }

    /// Local constants that differ in their made-up names only, such as `__func__.3`.
    fn equal_constants(&mut self, old: usize, new: usize) -> bool {
        let (old, new) = (&self.before.symbols[old], &self.after.symbols[new]);
        let (Some((old_section, 0)), Some((new_section, 0))) = (old.place, new.place) else {
            return false;
        };
        old.binding == Binding::Local
            && new.binding == Binding::Local
            && self.after.sections[new_section].kind.is_constant()
            && self.sections(old_section, new_section)
    }
}
