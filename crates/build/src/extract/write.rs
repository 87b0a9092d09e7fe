//! Writing a relocatable object of selected sections.

use std::collections::HashMap;

use engraft_module::PRE_CODE_SYMBOL;
use object::write::{Object, Relocation as Written, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind as WrittenKind,
    SymbolFlags, SymbolKind as WrittenSymbol, SymbolScope,
};

use super::frames::Frames;
use super::pre_code::PreCodeBuilder;
use super::select::Bound;
use crate::compare::Pairs;
use crate::error::BuildError;
use crate::object::{Binding, ObjectFile, Relocation, SectionKind, SymbolKind};
use crate::program::Program;

/// What a relocation in the written object refers to.
pub(super) enum Reference {
    /// A section that is written, too.
    Section(usize, i64),
    /// An undefined symbol, possibly one that may stay so.
    Undefined {
        name: String,
        addend: i64,
        weak: bool,
    },
}

/// How relocations of a section are bound.
type Bind<'b> = dyn FnMut(usize, &Relocation) -> Result<Reference, BuildError> + 'b;

/// Turns what a relocation is bound to into a symbol of the written object.
pub(super) fn resolve(
    program: &Program,
    pre_code: &mut PreCodeBuilder<'_>,
    object: usize,
    bound: Bound,
) -> Result<Reference, BuildError> {
    let pre_symbol = |index: u32| format!("{PRE_CODE_SYMBOL}0.{index}");
    Ok(match bound {
        Bound::Inside(section, addend) => Reference::Section(section, addend),
        Bound::Running(symbol, addend) => Reference::Undefined {
            name: pre_symbol(pre_code.want(object, symbol)?),
            addend,
            weak: false,
        },
        Bound::Name(symbol, addend) => {
            let symbol = &program.after(object)?.symbols[symbol];
            match program.names()?.global(&symbol.name) {
                Some(definition) => Reference::Undefined {
                    name: pre_symbol(pre_code.want(definition.object, definition.symbol)?),
                    addend,
                    weak: false,
                },
                None => {
                    pre_code.want_by_name(object, &symbol.name);
                    Reference::Undefined {
                        name: symbol.name.clone(),
                        addend,
                        weak: symbol.binding == Binding::Weak,
                    }
                }
            }
        }
    })
}

/// A relocatable object as it grows.
pub(super) struct ObjectWriter<'a> {
    source: &'a ObjectFile,
    pairs: &'a Pairs,
    object: Object<'a>,
    sections: HashMap<usize, object::write::SectionId>,
    undefined: HashMap<String, SymbolId>,
}

impl<'a> ObjectWriter<'a> {
    pub(super) fn new(source: &'a ObjectFile, pairs: &'a Pairs) -> Self {
        Self {
            source,
            pairs,
            object: Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little),
            sections: HashMap::new(),
            undefined: HashMap::new(),
        }
    }

    /// Copies a section with its functions and variables.
    pub(super) fn add_section(&mut self, index: usize) {
        let section = &self.source.sections[index];
        let kind = match section.kind {
            SectionKind::Code => WrittenKind::Text,
            SectionKind::Data => WrittenKind::Data,
            SectionKind::Zero => WrittenKind::UninitializedData,
            SectionKind::RelocatedReadOnly => WrittenKind::ReadOnlyDataWithRel,
            _ => WrittenKind::ReadOnlyData,
        };
        let name = section.name.clone().into_bytes();
        let id = self.object.add_section(Vec::new(), name, kind);
        if section.kind == SectionKind::Zero {
            self.object
                .append_section_bss(id, section.size, section.alignment);
        } else {
            self.object
                .append_section_data(id, &section.bytes, section.alignment);
        }
        self.sections.insert(index, id);
        for &defined in &section.defines {
            let symbol = &self.source.symbols[defined];
            let kind = match symbol.kind {
                SymbolKind::Function | SymbolKind::Ifunc => WrittenSymbol::Text,
                SymbolKind::Object => WrittenSymbol::Data,
                _ => continue,
            };
            // What replaces something of the program must not be taken for it by name.
            let new = self.pairs.symbol(defined).is_none();
            let global = new && symbol.binding != Binding::Local;
            let shared = section.group.is_some() || symbol.binding == Binding::Weak;
            self.object.add_symbol(Symbol {
                name: symbol.name.clone().into_bytes(),
                value: symbol.place.map_or(0, |(_, offset)| offset),
                size: symbol.size,
                kind,
                scope: if global || shared && section.kind != SectionKind::Code {
                    SymbolScope::Dynamic
                } else {
                    SymbolScope::Compilation
                },
                weak: shared,
                section: SymbolSection::Section(id),
                flags: SymbolFlags::None,
            });
        }
    }

    /// Another, global name for a function.
    pub(super) fn add_alias(&mut self, function: usize, name: &str) -> Result<(), BuildError> {
        let symbol = &self.source.symbols[function];
        let (section, value) = symbol.place.unwrap_or_default();
        let section = self.section(section)?;
        self.object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value,
            size: symbol.size,
            kind: WrittenSymbol::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
        Ok(())
    }

    pub(super) fn add_relocations(
        &mut self,
        index: usize,
        bind: &mut Bind<'_>,
    ) -> Result<(), BuildError> {
        let id = self.section(index)?;
        let source = self.source;
        for relocation in &source.sections[index].relocations {
            let reference = bind(index, relocation)?;
            self.add_relocation(id, relocation, reference)?;
        }
        Ok(())
    }

    /// Adds call frame information. What it refers to is always inside the object or named.
    pub(super) fn add_frames(
        &mut self,
        frames: &Frames,
        bind: &mut Bind<'_>,
    ) -> Result<(), BuildError> {
        if frames.bytes.is_empty() {
            return Ok(());
        }
        let name = b".eh_frame".to_vec();
        let id = self
            .object
            .add_section(Vec::new(), name, WrittenKind::ReadOnlyData);
        self.object.append_section_data(id, &frames.bytes, 8);
        for relocation in &frames.relocations {
            let (section, addend) = match self.source.target(relocation) {
                crate::object::Target::Place { section, offset } => (Some(section), offset),
                crate::object::Target::Symbol { .. } => (None, 0),
            };
            let reference = match section.filter(|section| self.sections.contains_key(section)) {
                Some(section) => Reference::Section(section, addend),
                None => bind(0, relocation)?,
            };
            self.add_relocation(id, relocation, reference)?;
        }
        Ok(())
    }

    fn add_relocation(
        &mut self,
        id: object::write::SectionId,
        relocation: &Relocation,
        reference: Reference,
    ) -> Result<(), BuildError> {
        let (symbol, addend) = match reference {
            Reference::Section(section, addend) => {
                let section = self.section(section)?;
                (self.object.section_symbol(section), addend)
            }
            Reference::Undefined { name, addend, weak } => (self.undefined(name, weak), addend),
        };
        self.object
            .add_relocation(
                id,
                Written {
                    offset: relocation.offset,
                    symbol,
                    addend,
                    flags: RelocationFlags::Elf {
                        r_type: object::elf::RelocationType(relocation.kind),
                    },
                },
            )
            .map_err(|error| BuildError::new(error.to_string()))
    }

    fn section(&self, index: usize) -> Result<object::write::SectionId, BuildError> {
        self.sections.get(&index).copied().ok_or_else(|| {
            let title = self.source.title(index);
            BuildError::new(format!("'{title}' is referred to but was not taken along"))
        })
    }

    fn undefined(&mut self, name: String, weak: bool) -> SymbolId {
        let object = &mut self.object;
        let add = |name: &String| {
            object.add_symbol(Symbol {
                name: name.clone().into_bytes(),
                value: 0,
                size: 0,
                kind: WrittenSymbol::Unknown,
                scope: SymbolScope::Unknown,
                weak,
                section: SymbolSection::Undefined,
                flags: SymbolFlags::None,
            })
        };
        *self.undefined.entry(name).or_insert_with_key(add)
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, BuildError> {
        self.object
            .write()
            .map_err(|error| BuildError::new(error.to_string()))
    }
}
