//! The symbol table.

use std::collections::HashSet;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, Sym64};
use object::read::elf::SymbolTable;
use object::{SectionIndex, SymbolIndex};

use super::{File, malformed};
use crate::reference::{SYMBOL_PREFIX, parse_pre_code_name, parse_symbol_name};
use crate::{Definition, ModuleErrorKind, PreCode, Reference, Scope, Section, Symbol, SymbolKind};

use ModuleErrorKind::Malformed;

/// Section index of livepatch symbols (Documentation/livepatch/module-elf-format.rst).
const SHN_LIVEPATCH: u16 = 0xff20;
const MAX_SYMBOLS: usize = 1 << 20;

pub(super) struct Symbols {
    pub(super) list: Vec<Symbol>,
    /// Section of the file and offset in it, of defined symbols.
    places: Vec<Option<(usize, u64)>>,
    /// Section of the file that holds the table.
    pub(super) section: usize,
}

impl Symbols {
    /// The first named symbol in section `index` of the file.
    pub(super) fn first_in(&self, index: usize) -> Option<&str> {
        let mut symbols = self.list.iter().zip(&self.places);
        let found = symbols.find(|(symbol, place)| {
            place.is_some_and(|(section, _)| section == index)
                && symbol.kind != SymbolKind::Section
                && !symbol.name.is_empty()
        });
        found.map(|(symbol, _)| &*symbol.name)
    }

    /// The name of symbol `index`; if it stands for a section, of the function at `addend`.
    pub(super) fn name_at(&self, index: usize, addend: i64) -> Option<&str> {
        let symbol = self.list.get(index)?;
        if symbol.kind != SymbolKind::Section {
            return Some(&symbol.name);
        }
        let (section, offset) = self.places[index]?;
        let place = Some((section, offset.wrapping_add_signed(addend)));
        let mut symbols = self.list.iter().zip(&self.places);
        let found =
            symbols.find(|(symbol, other)| symbol.kind == SymbolKind::Function && **other == place);
        found.map(|(symbol, _)| &*symbol.name)
    }
}

pub(super) fn collect(
    file: &File<'_>,
    kept: &[Option<usize>],
    sections: &[Section],
    pre_code: Option<&PreCode>,
) -> Result<Symbols, ModuleErrorKind> {
    let table = file
        .sections
        .symbols(LE, file.bytes, elf::SHT_SYMTAB)
        .map_err(malformed)?;
    if table.len() > MAX_SYMBOLS {
        return Err(Malformed(format!("{} symbols", table.len())));
    }
    // Hostile symbols can all share one long name, so the names are bounded together.
    let mut budget = 2 * file.bytes.len() + 32 * table.len();
    let mut symbols = Symbols {
        list: Vec::with_capacity(table.len()),
        places: Vec::with_capacity(table.len()),
        section: table.section().0,
    };
    let mut globals = HashSet::new();
    for (index, raw) in table.symbols().iter().enumerate() {
        let (mut symbol, place) = if index == 0 {
            (null_symbol(), None)
        } else {
            read_symbol(file, &table, SymbolIndex(index), raw, kept, sections)?
        };
        if let Definition::Undefined(reference) = &mut symbol.definition {
            lead_to_pre_code(reference, pre_code)?;
        }
        budget = budget
            .checked_sub(names_length(&symbol))
            .ok_or_else(|| Malformed("the names of symbols are too long".into()))?;
        let defined = !matches!(symbol.definition, Definition::Undefined(_));
        if symbol.global && defined && !globals.insert(symbol.name.clone()) {
            return Err(ModuleErrorKind::Redefined(symbol.name));
        }
        symbols.list.push(symbol);
        symbols.places.push(place);
    }
    Ok(symbols)
}

/// Bytes of the names that a symbol holds, livepatch symbols' own being part of theirs.
fn names_length(symbol: &Symbol) -> usize {
    let found = match &symbol.definition {
        Definition::Undefined(Reference {
            scope: Scope::PreCode { .. },
            name,
            ..
        }) => name.len(),
        _ => 0,
    };
    symbol.name.len() + found
}

fn null_symbol() -> Symbol {
    Symbol {
        name: String::new(),
        kind: SymbolKind::Other,
        global: false,
        size: 0,
        definition: Definition::Absolute(0),
    }
}

type Table<'a> = SymbolTable<'a, FileHeader64<LE>>;

fn read_symbol(
    file: &File<'_>,
    table: &Table<'_>,
    index: SymbolIndex,
    raw: &Sym64<LE>,
    kept: &[Option<usize>],
    sections: &[Section],
) -> Result<(Symbol, Option<(usize, u64)>), ModuleErrorKind> {
    let name = table.symbol_name(LE, raw).map_err(malformed)?;
    let name =
        std::str::from_utf8(name).map_err(|_| Malformed("a symbol's name is not UTF-8".into()))?;
    let kind = match raw.st_type() {
        elf::STT_FUNC => SymbolKind::Function,
        elf::STT_OBJECT => SymbolKind::Object,
        elf::STT_GNU_IFUNC => SymbolKind::Ifunc,
        elf::STT_SECTION => SymbolKind::Section,
        _ => SymbolKind::Other,
    };
    let mut symbol = Symbol {
        name: name.to_owned(),
        kind,
        global: raw.st_bind() != elf::STB_LOCAL,
        size: raw.st_size.get(LE),
        definition: Definition::Dropped,
    };
    let mut place = None;
    match raw.st_shndx.get(LE) {
        elf::SHN_UNDEF => symbol.definition = Definition::Undefined(read_reference(name, raw)?),
        elf::SHN_ABS => symbol.definition = Definition::Absolute(raw.st_value.get(LE)),
        elf::SHN_COMMON => return Err(ModuleErrorKind::Common(symbol.name)),
        elf::SymbolSection(SHN_LIVEPATCH) => {
            if !name.starts_with(SYMBOL_PREFIX) {
                return Err(ModuleErrorKind::NotALivepatchSymbol(symbol.name));
            }
            symbol.definition = Definition::Undefined(read_reference(name, raw)?);
        }
        _ => {
            let section = table
                .symbol_section(LE, raw, index)
                .map_err(malformed)?
                .ok_or_else(|| Malformed(format!("section of symbol '{name}'")))?;
            place = Some((section.0, raw.st_value.get(LE)));
            define(file, &mut symbol, section, raw, kept, sections)?;
        }
    }
    Ok((symbol, place))
}

fn read_reference(name: &str, raw: &Sym64<LE>) -> Result<Reference, ModuleErrorKind> {
    let (scope, base, sympos) =
        parse_symbol_name(name)?.unwrap_or_else(|| (Scope::Any, name.to_owned(), 0));
    Ok(Reference {
        scope,
        name: base,
        sympos,
        weak: raw.st_bind() == elf::STB_WEAK,
        thread_local: raw.st_type() == elf::STT_TLS,
    })
}

/// Gives a reference to the pre-patch code its scope, and the name that people know.
fn lead_to_pre_code(
    reference: &mut Reference,
    pre_code: Option<&PreCode>,
) -> Result<(), ModuleErrorKind> {
    if reference.scope != Scope::Any {
        return Ok(());
    }
    let Some((object, symbol)) = parse_pre_code_name(&reference.name)? else {
        return Ok(());
    };
    let found = pre_code
        .and_then(|code| code.objects.get(object))
        .and_then(|object| object.symbols.get(symbol))
        .ok_or_else(|| ModuleErrorKind::PreCodeSymbolName(reference.name.clone()))?;
    reference.scope = Scope::PreCode { object, symbol };
    reference.name.clone_from(&found.name);
    // Matching finds address 0 where the program has none; not to find it is an error.
    reference.weak = false;
    Ok(())
}

fn define(
    file: &File<'_>,
    symbol: &mut Symbol,
    section: SectionIndex,
    raw: &Sym64<LE>,
    kept: &[Option<usize>],
    sections: &[Section],
) -> Result<(), ModuleErrorKind> {
    let outside = || Malformed(format!("place of symbol '{}'", symbol.name));
    let position = *kept.get(section.0).ok_or_else(outside)?;
    if let Some(position) = position {
        let offset = raw.st_value.get(LE);
        let end = offset.checked_add(symbol.size);
        if end.is_none_or(|end| end > sections[position].size()) {
            return Err(outside());
        }
        symbol.definition = Definition::Section {
            section: position,
            offset,
        };
    }
    if symbol.kind == SymbolKind::Section && symbol.name.is_empty() {
        let header = file.sections.section(section).map_err(malformed)?;
        symbol.name = file.section_name(header)?.to_owned();
    }
    Ok(())
}
