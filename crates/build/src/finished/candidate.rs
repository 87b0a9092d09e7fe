//! An object that may have been linked into a target.

use std::collections::BTreeSet;
use std::ops::Range;

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, SectionIndex, SymbolKind,
    elf,
};

use super::content::identify;
use super::image::Image;

/// An object with symbols that are in the target as they are in the object.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
    /// What it is known by.
    pub(super) kind: SymbolsKind,
    /// Numbers of the target's symbols of that kind.
    pub(super) symbols: BTreeSet<usize>,
    /// Equal for objects whose code and data are equal.
    pub(super) identity: u64,
    /// The lowest address of its code in the target, which tells the order of linking.
    pub(super) address: u64,
}

/// The symbols that tell most about an object's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SymbolsKind {
    /// Each of them is defined by one object only.
    Global,
    /// There are no global ones.
    Local,
    /// Any object may have them, the first one's are taken.
    Weak,
}

impl Candidate {
    /// Compares an object with the target. Nothing if what it defines is not there, or is there
    /// otherwise.
    pub(super) fn examine(name: String, content: Vec<u8>, image: &Image) -> Option<Self> {
        let file = object::File::parse(&*content).ok()?;
        let mut examined = Examined {
            image,
            file: &file,
            source: None,
            defines_globals: false,
            globals: BTreeSet::new(),
            locals: BTreeSet::new(),
            weak: BTreeSet::new(),
            address: u64::MAX,
        };
        for symbol in file.symbols() {
            examined.compare(&symbol)?;
        }
        let address = examined.address;
        let (kind, symbols) = examined.conclude()?;
        let identity = identify(&file);
        Some(Self {
            name,
            content,
            kind,
            symbols,
            identity,
            address,
        })
    }

    /// Small objects first; of equal ones the one with the plainest name.
    pub(super) fn rank(&self) -> (SymbolsKind, usize, bool, usize, &str) {
        let is_member = self.name.ends_with(')');
        (
            self.kind,
            self.symbols.len(),
            is_member,
            self.name.len(),
            &self.name,
        )
    }
}

/// A comparison under way.
struct Examined<'a> {
    image: &'a Image,
    file: &'a object::File<'a>,
    /// The source of the local symbols that follow.
    source: Option<Vec<u8>>,
    /// Whether the object has a symbol that no other one can define.
    defines_globals: bool,
    globals: BTreeSet<usize>,
    locals: BTreeSet<usize>,
    weak: BTreeSet<usize>,
    address: u64,
}

impl Examined<'_> {
    /// Nothing if the target has another definition of what only this object could define.
    fn compare(&mut self, symbol: &object::Symbol<'_, '_>) -> Option<()> {
        let name = symbol.name_bytes().ok()?;
        if symbol.kind() == SymbolKind::File {
            self.source = Some(name.to_vec());
        }
        let Some(section) = symbol.section_index() else {
            return Some(());
        };
        if !matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data) || symbol.size() == 0 {
            return Some(());
        }
        let is_strong = symbol.is_global() && !symbol.is_weak();
        self.defines_globals |= is_strong;
        let mut is_other_there = false;
        for (number, found) in self.image.named(name) {
            let is_possible = if symbol.is_local() {
                found.file == self.source
            } else {
                // What is hidden in an object is local in the target.
                true
            };
            if !is_possible {
                continue;
            }
            let is_same = found.size == symbol.size()
                && self.is_same(section, symbol, self.image.content(found));
            if !is_same {
                is_other_there |= found.is_global;
                continue;
            }
            let symbols = match (is_strong, symbol.is_local()) {
                (true, _) => &mut self.globals,
                (_, true) => &mut self.locals,
                _ => &mut self.weak,
            };
            symbols.insert(number);
            if symbol.kind() == SymbolKind::Text && self.is_in_order(section) {
                self.address = self.address.min(found.address);
            }
        }
        let is_contradicted = is_strong && is_other_there && !self.is_found(name);
        (!is_contradicted).then_some(())
    }

    fn conclude(self) -> Option<(SymbolsKind, BTreeSet<usize>)> {
        let (kind, symbols) = if self.defines_globals {
            (SymbolsKind::Global, self.globals)
        } else if self.locals.is_empty() {
            (SymbolsKind::Weak, self.weak)
        } else {
            (SymbolsKind::Local, self.locals)
        };
        (!symbols.is_empty()).then_some((kind, symbols))
    }

    fn is_found(&self, name: &[u8]) -> bool {
        self.image
            .named(name)
            .any(|(number, _)| self.globals.contains(&number))
    }

    /// Whether the linker leaves the section in the order of objects: it moves hot, cold and
    /// startup code to one place.
    fn is_in_order(&self, section: SectionIndex) -> bool {
        const MOVED: [&[u8]; 4] = [
            b".text.unlikely",
            b".text.startup",
            b".text.hot",
            b".text.exit",
        ];
        self.file.section_by_index(section).is_ok_and(|section| {
            section
                .name_bytes()
                .is_ok_and(|name| !MOVED.iter().any(|moved| name.starts_with(moved)))
        })
    }

    /// Compares content outside of what the linker fills in.
    fn is_same(
        &self,
        section: SectionIndex,
        symbol: &object::Symbol<'_, '_>,
        linked: Option<&[u8]>,
    ) -> bool {
        let Ok(section) = self.file.section_by_index(section) else {
            return false;
        };
        let data = section.data().unwrap_or_default();
        let Some(linked) = linked else {
            return data.is_empty();
        };
        let start = symbol.address();
        let range = start as usize..(start + symbol.size()) as usize;
        let Some(own) = data.get(range) else {
            return false;
        };
        let mut own = own.to_vec();
        let mut linked = linked.to_vec();
        for (offset, relocation) in section.relocations() {
            let RelocationFlags::Elf { r_type } = relocation.flags() else {
                continue;
            };
            for at in filled_in(r_type, offset) {
                let place = at
                    .checked_sub(start)
                    .and_then(|at| usize::try_from(at).ok());
                if let Some(place) = place.filter(|&place| place < own.len()) {
                    own[place] = 0;
                    linked[place] = 0;
                }
            }
        }
        own == linked
    }
}

/// Bytes that the linker may write for a relocation: the field, and the instruction around it
/// where linkers choose a better one.
fn filled_in(r_type: elf::RelocationType, offset: u64) -> Range<u64> {
    match r_type {
        elf::R_X86_64_64 | elf::R_X86_64_PC64 | elf::R_X86_64_GOTOFF64 | elf::R_X86_64_SIZE64 => {
            offset..offset + 8
        }
        elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => {
            offset.saturating_sub(3)..offset + 4
        }
        elf::R_X86_64_TLSGD
        | elf::R_X86_64_TLSLD
        | elf::R_X86_64_DTPOFF32
        | elf::R_X86_64_GOTTPOFF
        | elf::R_X86_64_TPOFF32
        | elf::R_X86_64_GOTPC32_TLSDESC
        | elf::R_X86_64_TLSDESC_CALL => offset.saturating_sub(4)..offset + 12,
        _ => offset..offset + 4,
    }
}
