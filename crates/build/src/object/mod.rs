//! One compiled object, as sections, symbols and relocations.
//!
//! With one section per function and variable a section is the unit of everything that
//! follows: it is compared, taken along or bound as a whole.

mod frames;
mod kind;
mod read;

pub(crate) use frames::{ExceptionTable, FrameRecord, is_exception_pointer};
pub(crate) use kind::SectionKind;
pub(crate) use read::{is_bitcode, kind_of};

/// A relocatable object as a compiler or assembler wrote it.
#[derive(Clone, Debug)]
pub(crate) struct ObjectFile {
    /// Its name in the source tree, such as `src/a.o` or `lib/b.a(c.o)`.
    pub name: String,
    /// By section index; the first is the null section.
    pub sections: Vec<Section>,
    /// By symbol index; the first is the null symbol.
    pub symbols: Vec<Symbol>,
}

/// One section.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: SectionKind,
    /// Its alignment in bytes.
    pub alignment: u64,
    /// Length of an element in a section of mergeable constants.
    pub entry_size: u64,
    /// Length in bytes.
    pub size: u64,
    /// Its bytes; empty for sections of zeros.
    pub bytes: Vec<u8>,
    /// By offset.
    pub relocations: Vec<Relocation>,
    /// Signature of its COMDAT group: of equal groups in several objects, one is linked.
    pub group: Option<String>,
    /// Named symbols in it (functions, variables, labels), by offset.
    pub defines: Vec<usize>,
}

/// One relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    /// Distance of the field from the section's start.
    pub offset: u64,
    /// Number of its type (x86-64 psABI, "Relocation").
    pub kind: u32,
    /// Index of the symbol.
    pub symbol: usize,
    /// Addend.
    pub addend: i64,
    /// Distance of what is meant from the symbol. Differs from the addend where the field is
    /// relative to the end of its instruction.
    pub distance: i64,
}

/// One symbol.
#[derive(Clone, Debug)]
pub(crate) struct Symbol {
    /// Its name; of a section symbol, the section's name.
    pub name: String,
    /// What it stands for.
    pub kind: SymbolKind,
    /// How it binds.
    pub binding: Binding,
    /// Length in bytes.
    pub size: u64,
    /// Section and offset, if it is defined there.
    pub place: Option<(usize, u64)>,
    /// An uninitialised variable that the linker places (SHN_COMMON).
    pub common: bool,
    /// Source file of a local symbol.
    pub file: Option<String>,
}

/// What a symbol stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SymbolKind {
    /// A function.
    Function,
    /// A function whose address a resolver chooses at run time.
    Ifunc,
    /// A variable or constant.
    Object,
    /// A thread-local variable.
    Tls,
    /// The start of a section.
    Section,
    /// A label, or an undefined symbol.
    Label,
    /// A file's name or anything else that has no address.
    Other,
}

/// How a symbol binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// Only within its object.
    Local,
    /// In the whole program.
    Global,
    /// In the whole program, giving way to a global one.
    Weak,
}

/// What a relocation refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A place in a section of the same object.
    Place {
        /// The section.
        section: usize,
        /// Distance from its start.
        offset: i64,
    },
    /// A symbol that is defined elsewhere, and the distance from it.
    Symbol {
        /// The symbol.
        symbol: usize,
        /// Distance from it.
        distance: i64,
    },
}

impl ObjectFile {
    /// An object without contents.
    #[must_use]
    pub(crate) fn empty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            sections: Vec::new(),
            symbols: Vec::new(),
        }
    }

    /// What a relocation refers to.
    #[must_use]
    pub(crate) fn target(&self, relocation: &Relocation) -> Target {
        match self.symbols[relocation.symbol].place {
            Some((section, offset)) => Target::Place {
                section,
                offset: offset.cast_signed().wrapping_add(relocation.distance),
            },
            None => Target::Symbol {
                symbol: relocation.symbol,
                distance: relocation.distance,
            },
        }
    }

    /// The function or variable that a section begins with: the one that it is called after.
    #[must_use]
    pub(crate) fn first_symbol(&self, section: usize) -> Option<usize> {
        self.named_at(section, 0)
    }

    /// The functions in a section, each by one of its names.
    #[must_use]
    pub(crate) fn functions_in(&self, section: usize) -> Vec<usize> {
        let defines = &self.sections[section].defines;
        let mut starts: Vec<u64> = defines
            .iter()
            .filter(|index| self.symbols[**index].kind == SymbolKind::Function)
            .filter_map(|index| self.symbols[*index].place)
            .map(|(_, offset)| offset)
            .collect();
        starts.dedup();
        let named = starts.into_iter();
        named
            .filter_map(|start| self.named_at(section, start))
            .collect()
    }

    fn named_at(&self, section: usize, offset: u64) -> Option<usize> {
        let named = self.sections[section].defines.iter().copied();
        let mut candidates: Vec<usize> = named
            .filter(|index| {
                let symbol = &self.symbols[*index];
                symbol.kind != SymbolKind::Label && symbol.place == Some((section, offset))
            })
            .collect();
        // An exported name rather than a local or weak alias of it.
        candidates.sort_by_key(|index| match self.symbols[*index].binding {
            Binding::Global => 0,
            Binding::Weak => 1,
            Binding::Local => 2,
        });
        candidates.first().copied()
    }

    /// The named symbol that covers a place in a section, and the distance from it.
    #[must_use]
    pub(crate) fn symbol_at(&self, section: usize, offset: i64) -> Option<(usize, i64)> {
        let covering = |index: &usize| {
            let symbol = &self.symbols[*index];
            let (_, start) = symbol.place?;
            let distance = offset - start.cast_signed();
            let inside = (0..symbol.size.max(1).cast_signed()).contains(&distance);
            (inside && symbol.kind != SymbolKind::Label).then_some((*index, distance))
        };
        let found = self.sections[section].defines.iter().filter_map(covering);
        found.min_by_key(|(index, distance)| {
            (*distance, self.symbols[*index].binding == Binding::Local)
        })
    }

    /// Name of a section for people: that of the function or variable in it.
    #[must_use]
    pub(crate) fn title(&self, section: usize) -> &str {
        match self.first_symbol(section) {
            Some(symbol) => &self.symbols[symbol].name,
            None => &self.sections[section].name,
        }
    }

    /// Bytes of the element of a mergeable section from an offset on: a text up to its
    /// terminator, or a constant.
    #[must_use]
    pub(crate) fn element(&self, section: usize, offset: i64) -> Option<&[u8]> {
        let section = &self.sections[section];
        let rest = section.bytes.get(usize::try_from(offset).ok()?..)?;
        match section.kind {
            SectionKind::Strings => {
                let width = usize::try_from(section.entry_size).ok()?.max(1);
                let mut units = rest.chunks(width);
                let length = units.position(|unit| unit.iter().all(|byte| *byte == 0))?;
                rest.get(..length * width)
            }
            // Code may use the second half of a constant only.
            _ => {
                let entry_size = section.entry_size.max(1);
                let length = entry_size - offset.cast_unsigned() % entry_size;
                rest.get(..usize::try_from(length).ok()?)
            }
        }
    }
}
