//! Functions of a compiler's object file, with their relocations.

use std::collections::HashMap;
use std::path::Path;

use engraft_arch::matching::{Field, FieldKind};
use object::{
    Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionIndex,
    SectionKind, SymbolKind,
};

pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) section: usize,
    pub(crate) start: u64,
    pub(crate) code: Vec<u8>,
    /// As many as there are relocations, in the same order.
    pub(crate) fields: Vec<Field>,
    pub(crate) relocations: Vec<Relocation>,
}

#[derive(Clone)]
pub(crate) struct Relocation {
    pub(crate) offset: u64,
    pub(crate) symbol: Symbol,
    pub(crate) addend: i64,
}

#[derive(Clone, Debug)]
pub(crate) enum Symbol {
    /// Global, here or elsewhere.
    Named(String),
    /// Local: section and offset.
    Place(usize, u64),
}

/// A variable or function.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) section: usize,
    pub(crate) start: u64,
    pub(crate) size: u64,
}

pub(crate) struct Section {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_text: bool,
    pub(crate) is_strings: bool,
    pub(crate) relocations: Vec<Relocation>,
}

pub(crate) struct ObjectFile {
    pub(crate) functions: Vec<Function>,
    pub(crate) definitions: Vec<Definition>,
    pub(crate) sections: HashMap<usize, Section>,
}

impl ObjectFile {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let file = object::File::parse(&*bytes).expect("an object file");
        let symbol = |target| match target {
            RelocationTarget::Symbol(index) => {
                let symbol = file.symbol_by_index(index).expect("a symbol");
                match symbol.section_index() {
                    Some(SectionIndex(section)) if symbol.is_local() => {
                        Symbol::Place(section, symbol.address())
                    }
                    _ => Symbol::Named(symbol.name().expect("a name").to_owned()),
                }
            }
            other => panic!("relocation against {other:?}"),
        };
        let mut raw = HashMap::new();
        let sections = file.sections().map(|section| {
            let list: Vec<(u32, Relocation)> = section
                .relocations()
                .map(|(offset, relocation)| {
                    let RelocationFlags::Elf { r_type } = relocation.flags() else {
                        panic!("not ELF");
                    };
                    let relocation = Relocation {
                        offset,
                        symbol: symbol(relocation.target()),
                        addend: relocation.addend(),
                    };
                    (r_type.0, relocation)
                })
                .collect();
            let index = section.index().0;
            let relocations = list.iter().map(|(_, relocation)| relocation.clone());
            let section = Section {
                bytes: section.data().expect("contents").to_vec(),
                is_text: section.kind() == SectionKind::Text,
                is_strings: section.kind() == SectionKind::ReadOnlyString,
                relocations: relocations.collect(),
            };
            raw.insert(index, list);
            (index, section)
        });
        let sections: HashMap<usize, Section> = sections.collect();
        let definitions: Vec<Definition> = file
            .symbols()
            .filter(|symbol| !symbol.is_undefined() && symbol.size() > 0)
            .filter(|symbol| !symbol.name().expect("a name").starts_with(".L"))
            .filter_map(|symbol| {
                Some(Definition {
                    name: symbol.name().expect("a name").to_owned(),
                    section: symbol.section_index()?.0,
                    start: symbol.address(),
                    size: symbol.size(),
                })
            })
            .collect();
        let functions = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
            .filter(|symbol| symbol.size() > 0)
            .map(|symbol| {
                let section = symbol.section_index().expect("a section").0;
                let (start, end) = (symbol.address(), symbol.address() + symbol.size());
                let inside = raw[&section]
                    .iter()
                    .filter(|(_, relocation)| (start..end).contains(&relocation.offset));
                let field = |(number, relocation): &(u32, Relocation)| Field {
                    offset: (relocation.offset - start) as u32,
                    kind: FieldKind::from_raw(*number)
                        .unwrap_or_else(|| panic!("relocation type {number}")),
                };
                Function {
                    name: symbol.name().expect("a name").to_owned(),
                    section,
                    start,
                    code: sections[&section].bytes[start as usize..end as usize].to_vec(),
                    fields: inside.clone().map(field).collect(),
                    relocations: inside.map(|(_, relocation)| relocation.clone()).collect(),
                }
            })
            .collect();
        Self {
            functions,
            definitions,
            sections,
        }
    }

    /// The variable or function at a place, or else the one that ends there.
    pub(crate) fn definition_at(&self, section: usize, offset: u64) -> Option<&Definition> {
        let mut all = self.definitions.iter().filter(|it| it.section == section);
        let inside = |it: &Definition| (it.start..it.start + it.size).contains(&offset);
        let found = all.clone().find(|it| inside(it));
        found.or_else(|| all.find(|it| it.start + it.size == offset))
    }
}
