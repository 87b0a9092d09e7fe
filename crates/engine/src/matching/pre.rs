//! The pre-patch code of one object, indexed: which symbols are one, where functions and
//! constants begin and end, and what a reference leads to.

use std::collections::HashMap;

use engraft_arch::matching::{Field, FieldKind};
use engraft_module::{
    PreExceptionTable, PreKind, PreObject, PreRelocation, PreSection, PreSymbol, PreSymbolKind,
};

/// Position of a symbol in [`PreObject::symbols`].
pub(super) type SymbolId = u32;

/// Filler between two constants is shorter than the alignment of the second, which is at
/// most this.
const MAX_ALIGNMENT: u64 = 32;

/// Symbols inside others that are looked behind.
const REACH: usize = 8;

/// An index of one object's pre-patch code.
pub(super) struct PreIndex<'a> {
    pub(super) object: &'a PreObject,
    /// By symbol: the one that stands for it.
    canonical: Vec<SymbolId>,
    sections: Vec<SectionIndex>,
}

/// What lies where in a section.
#[derive(Default)]
struct SectionIndex {
    /// Functions or named constants: start, end, symbol. By start.
    extents: Vec<(u64, u64, SymbolId)>,
    /// Offsets at which something starts, sorted.
    starts: Vec<u64>,
}

/// The code of one function.
pub(super) struct PreCodeOf<'a> {
    section: u32,
    pub(super) start: u64,
    pub(super) bytes: &'a [u8],
    /// Its relocations, by offset in the section.
    pub(super) relocations: &'a [PreRelocation],
}

/// What a reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// What the symbol itself stands for; its contents are not carried along.
    Symbol(SymbolId),
    /// Code that is carried along, at this distance from the function's start.
    Code(SymbolId, u64),
    /// A constant that is carried along.
    Constant {
        constant: Constant,
        /// Distance from the constant's start.
        distance: i64,
    },
    /// A zero-terminated text.
    Text { section: u32, offset: u64 },
    /// Nothing that the section has.
    Nothing,
}

/// Bytes of a section that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Constant {
    pub(super) section: u32,
    pub(super) start: u64,
    pub(super) end: u64,
    /// So many zeros at its end may be filler.
    pub(super) filler: u64,
    /// Its name, if it has one.
    pub(super) symbol: Option<SymbolId>,
}

impl<'a> PreIndex<'a> {
    pub(super) fn new(object: &'a PreObject) -> Self {
        let mut index = Self {
            object,
            canonical: (0u32..).take(object.symbols.len()).collect(),
            sections: Vec::new(),
        };
        index.unify_symbols();
        index.find_extents();
        index.find_starts();
        index
    }

    /// Names of one place, and uses of one global name, are one symbol.
    fn unify_symbols(&mut self) {
        let mut places = HashMap::new();
        let mut names = HashMap::new();
        for (id, symbol) in (0..).zip(&self.object.symbols) {
            if symbol.kind == PreSymbolKind::Section {
                continue;
            }
            if let Some(place) = symbol.place {
                let standing = places.entry(place).or_insert(id);
                // A function, not a label at its start.
                let rank = |id: SymbolId| {
                    let symbol = self.symbol(id);
                    (symbol.kind == PreSymbolKind::Function, symbol.size > 0)
                };
                if rank(id) > rank(*standing) {
                    *standing = id;
                }
            }
        }
        for (id, symbol) in (0..).zip(&self.object.symbols) {
            let standing = symbol.place.and_then(|place| places.get(&place));
            if let Some(standing) = standing
                && symbol.kind != PreSymbolKind::Section
            {
                self.canonical[id as usize] = *standing;
                if symbol.file.is_none() {
                    names.insert(&symbol.name, *standing);
                }
            }
        }
        for (id, symbol) in (0..).zip(&self.object.symbols) {
            let global = symbol.place.is_none() && symbol.file.is_none();
            if global && symbol.kind != PreSymbolKind::Section {
                self.canonical[id as usize] = *names.entry(&symbol.name).or_insert(id);
            }
        }
    }

    fn find_extents(&mut self) {
        self.sections = self
            .object
            .sections
            .iter()
            .map(|_| SectionIndex::default())
            .collect();
        for (id, symbol) in (0..).zip(&self.object.symbols) {
            let Some((section, start)) = symbol.place else {
                continue;
            };
            let index = &mut self.sections[section as usize];
            index.starts.push(start);
            if self.canonical[id as usize] == id && symbol.kind != PreSymbolKind::Section {
                index
                    .extents
                    .push((start, start.saturating_add(symbol.size), id));
            }
        }
        for (section, index) in self.object.sections.iter().zip(&mut self.sections) {
            let length = section.bytes.len() as u64;
            index.extents.sort_unstable();
            for position in 0..index.extents.len() {
                let next = index
                    .extents
                    .get(position + 1)
                    .map_or(length, |next| next.0);
                let (start, end, _) = &mut index.extents[position];
                // Assembly need not say how long its functions are.
                if *end == *start && section.kind == PreKind::Code {
                    *end = next;
                }
                *end = (*end).min(length);
            }
        }
    }

    /// Whatever a reference leads to begins there.
    fn find_starts(&mut self) {
        for section in &self.object.sections {
            for relocation in &section.relocations {
                let symbol = &self.object.symbols[relocation.symbol as usize];
                let Some((place, offset)) = symbol.place else {
                    continue;
                };
                let relative = matches!(relocation.kind, 2 | 4) && section.kind == PreKind::Code;
                let addend = relocation.addend + if relative { 4 } else { 0 };
                if let Some(start) = offset.checked_add_signed(addend) {
                    self.sections[place as usize].starts.push(start);
                }
            }
        }
        for (section, index) in self.object.sections.iter().zip(&mut self.sections) {
            index.starts.push(section.bytes.len() as u64);
            index.starts.sort_unstable();
            index.starts.dedup();
        }
    }

    pub(super) fn symbol(&self, id: SymbolId) -> &'a PreSymbol {
        &self.object.symbols[id as usize]
    }

    /// Whether the contents of a symbol are carried along.
    pub(super) fn is_carried(&self, id: SymbolId) -> bool {
        self.symbol(self.canonical(id)).place.is_some()
    }

    /// The symbol that stands for all names of one thing.
    pub(super) fn canonical(&self, id: SymbolId) -> SymbolId {
        self.canonical[id as usize]
    }

    /// The code of a function, if it is carried along.
    pub(super) fn code(&self, id: SymbolId) -> Option<PreCodeOf<'a>> {
        let id = self.canonical(id);
        let (position, start) = self.symbol(id).place?;
        let section = &self.object.sections[position as usize];
        if section.kind != PreKind::Code {
            return None;
        }
        let extents = &self.sections[position as usize].extents;
        let end = extents.iter().find(|extent| extent.2 == id)?.1;
        Some(PreCodeOf {
            section: position,
            start,
            bytes: section.bytes.get(start as usize..end as usize)?,
            relocations: relocations_in(section, start, end),
        })
    }

    /// What exceptions do in a function: where its table is, and the section that holds it.
    pub(super) fn exception_table(
        &self,
        id: SymbolId,
    ) -> Option<(&'a PreExceptionTable, &'a PreSection)> {
        let id = self.canonical(id);
        let mut tables = self.object.exception_tables.iter();
        let table = tables.find(|table| self.canonical(table.function) == id)?;
        Some((table, &self.object.sections[table.section as usize]))
    }

    /// What a reference to `symbol` at this distance leads to.
    pub(super) fn target(&self, symbol: SymbolId, distance: i64) -> Target {
        let id = self.canonical(symbol);
        let Some((position, start)) = self.symbol(id).place else {
            return Target::Symbol(id);
        };
        let section = &self.object.sections[position as usize];
        let offset = start.checked_add_signed(distance);
        let inside = offset.filter(|offset| *offset <= section.bytes.len() as u64);
        match (section.kind, inside) {
            (PreKind::Code, Some(offset)) => self.code_at(position, offset, id),
            (PreKind::Strings, Some(offset)) => Target::Text {
                section: position,
                offset,
            },
            (PreKind::ReadOnly, _) => self.constant_at(position, start, distance, id),
            (PreKind::ExceptionTable, _) | (_, None) => Target::Nothing,
        }
    }

    fn code_at(&self, section: u32, offset: u64, id: SymbolId) -> Target {
        if self.symbol(id).place == Some((section, offset))
            && self.symbol(id).kind != PreSymbolKind::Section
        {
            return Target::Code(id, 0);
        }
        // A label may stand behind a function's last instruction.
        let found = self.extent_at(section, offset).or_else(|| {
            let mut near = self.extents_before(section, offset);
            near.find(|extent| extent.1 == offset)
        });
        match found {
            Some((start, _, function)) => Target::Code(function, offset - start),
            None => Target::Nothing,
        }
    }

    /// What a branch leads to that stays in its section, by the distance from the start of
    /// the function that it is in.
    pub(super) fn exit_target(&self, code: &PreCodeOf<'_>, distance: i64) -> Target {
        let offset = code.start.checked_add_signed(distance);
        let function = offset.and_then(|offset| self.extent_at(code.section, offset));
        match (function, offset) {
            (Some((start, _, function)), Some(offset)) => Target::Code(function, offset - start),
            _ => Target::Nothing,
        }
    }

    fn extent_at(&self, section: u32, offset: u64) -> Option<(u64, u64, SymbolId)> {
        let mut near = self.extents_before(section, offset);
        near.find(|extent| (extent.0..extent.1).contains(&offset))
    }

    /// The last few extents that start at or before an offset, the nearest first.
    fn extents_before(
        &self,
        section: u32,
        offset: u64,
    ) -> impl Iterator<Item = (u64, u64, SymbolId)> + '_ {
        let extents = &self.sections[section as usize].extents;
        let after = extents.partition_point(|extent| extent.0 <= offset);
        extents[..after].iter().rev().take(REACH).copied()
    }

    fn constant_at(&self, section: u32, start: u64, distance: i64, id: SymbolId) -> Target {
        let named = |(start, end, symbol): (u64, u64, SymbolId)| Constant {
            section,
            start,
            end,
            filler: 0,
            symbol: Some(symbol),
        };
        let symbol = self.symbol(id);
        if symbol.kind != PreSymbolKind::Section && symbol.size > 0 {
            let length = self.object.sections[section as usize].bytes.len() as u64;
            let end = start.saturating_add(symbol.size).min(length);
            return Target::Constant {
                constant: named((start, end, id)),
                distance,
            };
        }
        let length = self.object.sections[section as usize].bytes.len() as u64;
        let offset = start.checked_add_signed(distance);
        let Some(offset) = offset.filter(|offset| *offset < length) else {
            // An index that does not start at 0: with -fdata-sections the section is one
            // variable.
            let whole = Constant {
                section,
                start: 0,
                end: length,
                filler: 0,
                symbol: None,
            };
            return Target::Constant {
                constant: whole,
                distance: start.cast_signed().wrapping_add(distance),
            };
        };
        let constant = match self.extent_at(section, offset) {
            Some(extent) => named(extent),
            None => self.unnamed_at(section, offset),
        };
        Target::Constant {
            constant,
            distance: offset.wrapping_sub(constant.start).cast_signed(),
        }
    }

    /// A constant without a name: one entry of a section of equally long ones, a jump table,
    /// or everything up to where something else begins.
    fn unnamed_at(&self, section: u32, offset: u64) -> Constant {
        let contents = &self.object.sections[section as usize];
        let unnamed = |start, end, filler| Constant {
            section,
            start,
            end,
            filler,
            symbol: None,
        };
        let length = contents.bytes.len() as u64;
        if let Some(size) = entry_size(&contents.name, ".cst") {
            let start = offset / size * size;
            return unnamed(start, (start + size).min(length), 0);
        }
        let starts = &self.sections[section as usize].starts;
        let next = starts.partition_point(|start| *start <= offset);
        let end = starts.get(next).copied().unwrap_or(length);
        if let Some(table_end) = self.jump_table_end(contents, offset, end) {
            return unnamed(offset, table_end, 0);
        }
        let alignment = (1 << end.trailing_zeros().min(63)).min(MAX_ALIGNMENT);
        let filler = if end == length { 0 } else { alignment - 1 };
        unnamed(offset, end, filler)
    }

    /// Where the run of references to code ends that begins at `offset`.
    fn jump_table_end(&self, section: &PreSection, offset: u64, end: u64) -> Option<u64> {
        let mut at = offset;
        for relocation in relocations_in(section, offset, end) {
            let symbol = self.symbol(self.canonical(relocation.symbol));
            let place = symbol
                .place
                .map(|place| &self.object.sections[place.0 as usize]);
            let is_code = place.is_some_and(|place| place.kind == PreKind::Code);
            if u64::from(relocation.offset) != at || !is_code {
                break;
            }
            at += FieldKind::from_raw(relocation.kind)?.size() as u64;
        }
        (at > offset).then_some(at.min(end))
    }

    /// The functions that are carried along, each once.
    pub(super) fn functions(&self) -> impl Iterator<Item = SymbolId> + '_ {
        let sections = self.object.sections.iter().zip(&self.sections);
        sections
            .filter(|(section, _)| section.kind == PreKind::Code)
            .flat_map(|(_, index)| index.extents.iter().map(|extent| extent.2))
    }
}

impl PreCodeOf<'_> {
    /// Its relocated fields; an error is the number of a relocation that does not occur in
    /// code.
    pub(super) fn fields(&self) -> Result<Vec<Field>, u32> {
        let field = |relocation: &PreRelocation| {
            let kind = FieldKind::from_raw(relocation.kind).ok_or(relocation.kind)?;
            Ok(Field {
                offset: relocation.offset - self.start as u32,
                kind,
            })
        };
        self.relocations.iter().map(field).collect()
    }
}

/// The relocations of a part of a section; they are sorted.
pub(super) fn relocations_in(section: &PreSection, start: u64, end: u64) -> &[PreRelocation] {
    let before = |limit: u64| {
        section
            .relocations
            .partition_point(|relocation| u64::from(relocation.offset) < limit)
    };
    section
        .relocations
        .get(before(start)..before(end))
        .unwrap_or_default()
}

/// The size of the entries of a mergeable section, from its name: `.rodata.cst16`,
/// `.rodata.str1.8`.
pub(super) fn entry_size(name: &str, mark: &str) -> Option<u64> {
    let digits = name.rsplit_once(mark)?.1.split('.').next()?;
    let size = digits.parse().ok()?;
    (1..=64).contains(&size).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: u32 = 0;
    const TABLES: u32 = 1;
    const CONSTANTS: u32 = 2;

    fn section(name: &str, kind: PreKind, length: usize) -> PreSection {
        PreSection {
            name: name.into(),
            kind,
            bytes: vec![0; length],
            relocations: Vec::new(),
        }
    }

    fn symbol(name: &str, kind: PreSymbolKind, size: u64, place: Option<(u32, u64)>) -> PreSymbol {
        PreSymbol {
            name: name.into(),
            file: None,
            kind,
            size,
            place,
            wanted: false,
        }
    }

    fn relocation(offset: u32, kind: u32, symbol: u32, addend: i64) -> PreRelocation {
        PreRelocation {
            offset,
            kind,
            symbol,
            addend,
        }
    }

    /// Two functions, one with two names; a jump table, something unnamed behind it, and a
    /// named constant; mergeable constants.
    fn example() -> PreObject {
        use PreSymbolKind::{Function, Object, Section};
        let mut code = section(".text", PreKind::Code, 48);
        code.relocations = vec![
            relocation(3, 2, 4, -4),
            relocation(10, 2, 4, 4),
            relocation(20, 2, 5, 12),
        ];
        let mut tables = section(".rodata", PreKind::ReadOnly, 40);
        tables.relocations = vec![relocation(0, 2, 3, 5), relocation(4, 2, 3, 9)];
        PreObject {
            name: None,
            sections: vec![
                code,
                tables,
                section(".rodata.cst16", PreKind::ReadOnly, 32),
            ],
            symbols: vec![
                symbol("alias", Object, 0, Some((CODE, 0))),
                symbol("first", Function, 16, Some((CODE, 0))),
                symbol("second", Function, 0, Some((CODE, 32))),
                symbol(".text", Section, 0, Some((CODE, 0))),
                symbol(".rodata", Section, 0, Some((TABLES, 0))),
                symbol(".rodata.cst16", Section, 0, Some((CONSTANTS, 0))),
                symbol("named", Object, 10, Some((TABLES, 24))),
                symbol("first", Function, 0, None),
            ],
            functions: Vec::new(),
            exception_tables: Vec::new(),
        }
    }

    fn constant(start: u64, end: u64, filler: u64, symbol: Option<SymbolId>) -> Constant {
        Constant {
            section: TABLES,
            start,
            end,
            filler,
            symbol,
        }
    }

    #[test]
    fn names_of_one_place_are_one_symbol() {
        let object = example();
        let pre = PreIndex::new(&object);
        assert_eq!([0, 1, 7].map(|id| pre.canonical(id)), [1, 1, 1]);
        assert_eq!(pre.canonical(2), 2);
        assert_eq!(pre.functions().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(pre.code(0).map(|code| code.bytes.len()), Some(16));
        assert_eq!(pre.code(2).map(|code| code.bytes.len()), Some(16));
        assert_eq!(pre.code(6).map(|code| code.bytes.len()), None);
    }

    #[test]
    fn references_into_code_are_counted_from_the_function() {
        let object = example();
        let pre = PreIndex::new(&object);
        assert_eq!(pre.target(3, 0), Target::Code(1, 0));
        assert_eq!(pre.target(3, 40), Target::Code(2, 8));
        assert_eq!(pre.target(1, 5), Target::Code(1, 5));
        assert_eq!(pre.target(1, 16), Target::Code(1, 16), "behind its end");
        assert_eq!(pre.target(3, 20), Target::Nothing, "between functions");
        assert_eq!(pre.target(3, -1), Target::Nothing);
        assert_eq!(pre.target(3, 49), Target::Nothing);
    }

    #[test]
    fn constants_end_where_others_begin() {
        let object = example();
        let pre = PreIndex::new(&object);
        let at = |distance| match pre.target(4, distance) {
            Target::Constant { constant, distance } => (constant, distance),
            other => panic!("{other:?}"),
        };
        assert_eq!(at(0), (constant(0, 8, 0, None), 0), "a jump table");
        assert_eq!(at(8), (constant(8, 24, 7, None), 0), "up to a name");
        assert_eq!(at(30), (constant(24, 34, 0, Some(6)), 6), "inside it");
        assert_eq!(at(34), (constant(34, 40, 0, None), 0), "the rest");
        // Indexes need not start at 0.
        assert_eq!(at(-8), (constant(0, 40, 0, None), -8));
        assert_eq!(
            pre.target(6, -4),
            Target::Constant {
                constant: constant(24, 34, 0, Some(6)),
                distance: -4
            }
        );
    }

    #[test]
    fn mergeable_constants_are_of_one_size() {
        let object = example();
        let pre = PreIndex::new(&object);
        let Target::Constant { constant, distance } = pre.target(5, 20) else {
            panic!("no constant");
        };
        assert_eq!((constant.start, constant.end, distance), (16, 32, 4));
        assert_eq!(entry_size(".rodata.f.cst8", ".cst"), Some(8));
        assert_eq!(entry_size(".rodata.str4.4", ".str"), Some(4));
        assert_eq!(entry_size(".rodata.cst0", ".cst"), None);
        assert_eq!(entry_size(".rodata", ".cst"), None);
    }
}
