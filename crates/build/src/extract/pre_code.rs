//! Collecting the pre-patch code by which the running program is recognised and its
//! functions and variables are found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use engraft_module::{
    PreExceptionTable, PreFunction, PreKind, PreObject, PreRelocation, PreSection, PreSymbol,
    PreSymbolKind,
};

use crate::error::BuildError;
use crate::object::{
    Binding, ExceptionTable, ObjectFile, Relocation, SectionKind, SymbolKind, Target,
};
use crate::program::Program;

/// A symbol before the change: object, and symbol or place in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Identity {
    /// A function or variable, or an undefined name that no object of the target defines.
    Symbol(usize, usize),
    /// A name that is bound outside the target.
    Outside(String),
    /// A section without a name of its own.
    Section(usize, usize),
    /// An element of a mergeable section.
    Element(usize, usize, i64),
}

/// By section and offset of the code.
type ExceptionTables = BTreeMap<(usize, i64), ExceptionTable>;

/// Pre-patch code of one object of the target (executable or library), as it grows.
pub(super) struct PreCodeBuilder<'a> {
    program: &'a Program,
    code: PreObject,
    symbols: HashMap<Identity, u32>,
    sections: HashMap<(usize, usize), u32>,
    /// By object.
    exception_tables: HashMap<usize, Rc<ExceptionTables>>,
    /// Objects that use what is wanted by its name.
    users_of: BTreeMap<u32, usize>,
}

impl<'a> PreCodeBuilder<'a> {
    pub(super) fn new(program: &'a Program, name: Option<String>) -> Self {
        Self {
            program,
            code: PreObject {
                name,
                ..PreObject::default()
            },
            symbols: HashMap::new(),
            sections: HashMap::new(),
            exception_tables: HashMap::new(),
            users_of: BTreeMap::new(),
        }
    }

    /// Asks for the address of a function or variable; returns its position.
    pub(super) fn want(&mut self, object: usize, symbol: usize) -> Result<u32, BuildError> {
        let index = self.symbol(object, symbol)?;
        self.code.symbols[index as usize].wanted = true;
        if self.code.symbols[index as usize].kind == PreSymbolKind::Function {
            self.carry(index, object, symbol)?;
        }
        Ok(index)
    }

    /// Asks for the address of what is defined outside the target's objects, for programs that
    /// have no name for it: what was linked statically.
    pub(super) fn want_by_name(&mut self, object: usize, name: &str) {
        let index = self.enter(
            Identity::Outside(name.to_owned()),
            PreSymbol {
                name: name.to_owned(),
                file: None,
                kind: PreSymbolKind::Object,
                size: 0,
                place: None,
                wanted: true,
            },
        );
        self.code.symbols[index as usize].wanted = true;
        self.users_of.insert(index, object);
    }

    /// Notes that a function is replaced.
    pub(super) fn replace(
        &mut self,
        object: usize,
        symbol: usize,
        cold: &[usize],
    ) -> Result<PreFunction, BuildError> {
        let file = self.program.before(object)?;
        let name = &file.symbols[symbol].name;
        let position = self.program.names()?.position(name, object, symbol);
        let old_sympos = position.ok_or_else(|| {
            BuildError::new(format!("function '{name}' of {} is not linked", file.name))
        })?;
        let function = PreFunction {
            old_name: name.clone(),
            old_sympos,
            symbol: self.want(object, symbol)?,
            cold: cold
                .iter()
                .map(|part| self.want(object, *part))
                .collect::<Result<_, _>>()?,
        };
        self.code.functions.push(function.clone());
        Ok(function)
    }

    /// Adds code that refers to what is wanted and nothing refers to yet: to variables, and to
    /// functions that the program may well have others like.
    pub(super) fn finish(mut self) -> Result<PreObject, BuildError> {
        let referred: BTreeSet<u32> = self.list_referred();
        let missing: BTreeSet<(usize, usize)> = self
            .symbols
            .iter()
            .filter(|(_, index)| {
                self.code.symbols[**index as usize].wanted && !referred.contains(index)
            })
            .filter_map(|(identity, _)| match identity {
                Identity::Symbol(object, symbol) => Some((*object, *symbol)),
                _ => None,
            })
            .collect();
        for (object, symbol) in missing {
            self.carry_user_of(object, symbol)?;
        }
        for (index, object) in std::mem::take(&mut self.users_of) {
            if !referred.contains(&index) {
                let name = self.code.symbols[index as usize].name.clone();
                self.carry_user_among(&[object], None, &name)?;
            }
        }
        Ok(self.code)
    }

    fn list_referred(&self) -> BTreeSet<u32> {
        let relocations = self.code.sections.iter().flat_map(|s| &s.relocations);
        relocations.map(|relocation| relocation.symbol).collect()
    }

    /// The smallest function that refers to a symbol; objects that are in use first.
    fn carry_user_of(&mut self, object: usize, symbol: usize) -> Result<(), BuildError> {
        let named = &self.program.before(object)?.symbols[symbol];
        let name = named.name.clone();
        let mut order: Vec<usize> = vec![object];
        if named.binding != Binding::Local {
            let users = self.program.names()?.users(&name);
            let carried: BTreeSet<usize> =
                self.sections.keys().map(|(object, _)| *object).collect();
            let in_use = |user: &&usize| carried.contains(user);
            order.extend(users.iter().filter(in_use));
            order.extend(users);
        }
        let mut seen = BTreeSet::new();
        order.retain(|object| seen.insert(*object));
        // Where only data refers to it, the running program's symbol table must tell.
        self.carry_user_among(&order, Some((object, symbol)), &named.name)
    }

    /// Takes along the smallest function that refers to a symbol, of the first object that has
    /// one: to `own`, or to what has the name.
    fn carry_user_among(
        &mut self,
        objects: &[usize],
        own: Option<(usize, usize)>,
        name: &str,
    ) -> Result<(), BuildError> {
        for candidate in objects.iter().copied() {
            let file = self.program.before(candidate)?;
            let tables = self.exception_tables_of(candidate)?;
            let own = own.filter(|(object, _)| *object == candidate);
            let own = own.map(|(_, symbol)| symbol);
            if let Some(section) = find_user(file, &tables, own, name)
                && let Some(function) = file.first_symbol(section)
            {
                let index = self.symbol(candidate, function)?;
                return self.carry(index, candidate, function);
            }
        }
        Ok(())
    }

    /// The position of a symbol of an object, bound as the linker binds it.
    fn symbol(&mut self, object: usize, symbol: usize) -> Result<u32, BuildError> {
        let file = self.program.before(object)?;
        let named = &file.symbols[symbol];
        if named.binding != Binding::Local
            && let Some(definition) = self.program.names()?.global(&named.name)
        {
            let identity = Identity::Symbol(definition.object, definition.symbol);
            let described = describe(&named.name, None, definition.kind, definition.size);
            return Ok(self.enter(identity, described));
        }
        let described = describe(&named.name, named.file.clone(), named.kind, named.size);
        let identity = if named.place.is_some() || named.common {
            Identity::Symbol(object, symbol)
        } else {
            Identity::Outside(named.name.clone())
        };
        Ok(self.enter(identity, described))
    }

    fn enter(&mut self, identity: Identity, symbol: PreSymbol) -> u32 {
        let next = self.code.symbols.len() as u32;
        let index = *self.symbols.entry(identity).or_insert(next);
        if index == next {
            self.code.symbols.push(symbol);
        }
        index
    }

    /// Takes the section along in which a symbol lies.
    fn carry(&mut self, index: u32, object: usize, symbol: usize) -> Result<(), BuildError> {
        // The symbol may be bound to another object's definition.
        let (object, symbol) = self.origin(object, symbol)?;
        let file = self.program.before(object)?;
        let Some((section, offset)) = file.symbols[symbol].place else {
            return Ok(());
        };
        let carried = self.section(object, section)?;
        self.code.symbols[index as usize].place = carried.map(|section| (section, offset));
        Ok(())
    }

    fn origin(&self, object: usize, symbol: usize) -> Result<(usize, usize), BuildError> {
        let named = &self.program.before(object)?.symbols[symbol];
        let definition = match named.binding {
            Binding::Local => None,
            _ => self.program.names()?.global(&named.name),
        };
        Ok(definition.map_or((object, symbol), |d| (d.object, d.symbol)))
    }

    /// The position of a section that is carried along; `None` for those that cannot be
    /// compared with a running program.
    fn section(&mut self, object: usize, section: usize) -> Result<Option<u32>, BuildError> {
        if let Some(index) = self.sections.get(&(object, section)) {
            return Ok(Some(*index));
        }
        let file = self.program.before(object)?;
        let source = &file.sections[section];
        let kind = match source.kind {
            SectionKind::Code => PreKind::Code,
            SectionKind::ReadOnly => PreKind::ReadOnly,
            SectionKind::ExceptionTable => PreKind::ExceptionTable,
            SectionKind::RelocatedReadOnly if is_type_description(file, section) => {
                PreKind::ReadOnly
            }
            _ => return Ok(None),
        };
        let index = self.code.sections.len() as u32;
        self.sections.insert((object, section), index);
        self.code.sections.push(PreSection {
            name: source.name.clone(),
            kind,
            bytes: source.bytes.clone(),
            relocations: Vec::new(),
        });
        let mut relocations = Vec::new();
        for relocation in &source.relocations {
            let (symbol, addend) =
                self.target(object, relocation, kind == PreKind::ExceptionTable)?;
            relocations.push(PreRelocation {
                offset: relocation.offset as u32,
                kind: relocation.kind,
                symbol,
                addend,
            });
        }
        self.code.sections[index as usize].relocations = relocations;
        if kind == PreKind::ReadOnly {
            self.mark_starts(object, section, index)?;
        }
        if kind == PreKind::Code {
            self.place_functions(object, section, index)?;
            self.carry_exception_tables(object, section)?;
        }
        Ok(Some(index))
    }

    /// Marks where constants without a name begin, those too that only code refers to which
    /// is not carried along: what is compared ends there.
    fn mark_starts(
        &mut self,
        object: usize,
        section: usize,
        carried: u32,
    ) -> Result<(), BuildError> {
        let file = self.program.before(object)?;
        let relocations = file.sections.iter().flat_map(|other| &other.relocations);
        let starts: BTreeSet<i64> = relocations
            .filter_map(|relocation| match file.target(relocation) {
                Target::Place {
                    section: place,
                    offset,
                } if place == section => Some(offset),
                _ => None,
            })
            .filter(|offset| file.symbol_at(section, *offset).is_none())
            .collect();
        let length = file.sections[section].size;
        let inside = starts
            .into_iter()
            .filter_map(|start| u64::try_from(start).ok());
        for start in inside.filter(|start| *start < length) {
            let mut mark = describe_section(file, section);
            mark.place = Some((carried, start));
            self.code.symbols.push(mark);
        }
        Ok(())
    }

    /// Says where the functions of a section are: they refer to each other by distance.
    fn place_functions(
        &mut self,
        object: usize,
        section: usize,
        carried: u32,
    ) -> Result<(), BuildError> {
        let file = self.program.before(object)?;
        for function in file.functions_in(section) {
            if self.origin(object, function)? == (object, function) {
                let index = self.symbol(object, function)? as usize;
                let offset = file.symbols[function].place.map_or(0, |(_, offset)| offset);
                self.code.symbols[index].place = Some((carried, offset));
            }
        }
        Ok(())
    }

    /// Takes along what exceptions do in the functions of a section.
    fn carry_exception_tables(&mut self, object: usize, section: usize) -> Result<(), BuildError> {
        let file = self.program.before(object)?;
        let tables = self.exception_tables_of(object)?;
        for (code, table) in tables.range((section, i64::MIN)..=(section, i64::MAX)) {
            let Some((symbol, 0)) = file.symbol_at(section, code.1) else {
                let message = format!(
                    "{}: '{}' has an exception table for a part without a name",
                    file.name,
                    file.title(section)
                );
                return Err(BuildError::new(message)
                    .with_help("give the part a symbol: code from a compiler has one"));
            };
            let function = self.symbol(object, symbol)?;
            let placed = self.code.symbols[function as usize].place.is_some();
            let (personality, _) = self.target(object, &table.personality, false)?;
            if let (true, Some(section)) = (placed, self.section(object, table.place.0)?) {
                self.code.exception_tables.push(PreExceptionTable {
                    function,
                    section,
                    offset: table.place.1.cast_unsigned(),
                    personality,
                });
            }
        }
        Ok(())
    }

    fn exception_tables_of(&mut self, object: usize) -> Result<Rc<ExceptionTables>, BuildError> {
        if let Some(tables) = self.exception_tables.get(&object) {
            return Ok(Rc::clone(tables));
        }
        let tables = Rc::new(self.program.before(object)?.exception_tables());
        self.exception_tables.insert(object, Rc::clone(&tables));
        Ok(tables)
    }

    /// Symbol and addend of a relocation, with what was counted from a section counted from
    /// the function or variable in it.
    fn target(
        &mut self,
        object: usize,
        relocation: &Relocation,
        of_exceptions: bool,
    ) -> Result<(u32, i64), BuildError> {
        let file = self.program.before(object)?;
        let relocation = if of_exceptions {
            file.past_pointer(relocation)
        } else {
            relocation
        };
        let (section, offset) = match file.target(relocation) {
            Target::Symbol { symbol, .. } => {
                return Ok((self.symbol(object, symbol)?, relocation.addend));
            }
            Target::Place { section, offset } => (section, offset),
        };
        let kind = file.sections[section].kind;
        // What the addend counts beyond the distance: bytes to the end of the instruction.
        let rest = relocation.addend - relocation.distance;
        if matches!(kind, SectionKind::Strings | SectionKind::Constants)
            && let Some(symbol) = self.element(object, section, offset)?
        {
            return Ok((symbol, rest));
        }
        if let Some((symbol, distance)) = file.symbol_at(section, offset) {
            let index = self.symbol(object, symbol)?;
            if kind == SectionKind::ReadOnly || is_type_description(file, section) {
                self.carry(index, object, symbol)?;
            }
            return Ok((index, distance + rest));
        }
        let index = self.enter(
            Identity::Section(object, section),
            describe_section(file, section),
        );
        if kind == SectionKind::ReadOnly {
            let carried = self.section(object, section)?;
            self.code.symbols[index as usize].place = carried.map(|section| (section, 0));
        }
        Ok((index, offset + rest))
    }

    /// A text or constant of a mergeable section, as a section of its own.
    fn element(
        &mut self,
        object: usize,
        section: usize,
        offset: i64,
    ) -> Result<Option<u32>, BuildError> {
        let file = self.program.before(object)?;
        let Some(element) = file.element(section, offset) else {
            return Ok(None);
        };
        let strings = file.sections[section].kind == SectionKind::Strings;
        let mut bytes = element.to_vec();
        if strings {
            let width = file.sections[section].entry_size.max(1) as usize;
            bytes.extend(vec![0; width]);
        }
        let described = describe_section(file, section);
        let known = self.code.symbols.len();
        let index = self.enter(Identity::Element(object, section, offset), described);
        if index as usize == known {
            self.code.symbols[known].place = Some((self.code.sections.len() as u32, 0));
            self.code.sections.push(PreSection {
                name: file.sections[section].name.clone(),
                kind: if strings {
                    PreKind::Strings
                } else {
                    PreKind::ReadOnly
                },
                bytes,
                relocations: Vec::new(),
            });
        }
        Ok(Some(index))
    }
}

fn describe(name: &str, file: Option<String>, kind: SymbolKind, size: u64) -> PreSymbol {
    PreSymbol {
        name: name.to_owned(),
        file,
        kind: match kind {
            SymbolKind::Function | SymbolKind::Ifunc => PreSymbolKind::Function,
            SymbolKind::Tls => PreSymbolKind::Tls,
            _ => PreSymbolKind::Object,
        },
        size,
        place: None,
        wanted: false,
    }
}

fn describe_section(file: &ObjectFile, section: usize) -> PreSymbol {
    PreSymbol {
        name: file.sections[section].name.clone(),
        file: file
            .symbols
            .iter()
            .find(|symbol| symbol.kind == SymbolKind::Other)
            .map(|symbol| symbol.name.clone()),
        kind: PreSymbolKind::Section,
        size: file.sections[section].size,
        place: None,
        wanted: false,
    }
}

/// What a type's description in C++ holds is the type's name, by which exceptions are caught:
/// it tells types apart that nothing else does in a stripped program.
fn is_type_description(file: &ObjectFile, section: usize) -> bool {
    file.sections[section].kind == SectionKind::RelocatedReadOnly
        && file.title(section).starts_with("_ZTI")
}

/// The smallest function that refers to a symbol, or whose exception table does: to the very
/// one in its own object, to one of its name elsewhere.
fn find_user(
    file: &ObjectFile,
    tables: &ExceptionTables,
    own: Option<usize>,
    name: &str,
) -> Option<usize> {
    let refers = |relocation: &Relocation| match file.target(relocation) {
        Target::Place { section, offset } => {
            own.is_some() && file.symbol_at(section, offset).map(|found| found.0) == own
        }
        Target::Symbol { symbol, .. } => file.symbols[symbol].name == name,
    };
    let is_caught_in = |code: usize| {
        let mut own = tables.range((code, i64::MIN)..=(code, i64::MAX));
        own.any(|(_, table)| {
            let mut types = file.sections[table.place.0].relocations.iter();
            types.any(|relocation| refers(file.past_pointer(relocation)))
        })
    };
    let sections = file.sections.iter().enumerate();
    let itself = own.and_then(|symbol| file.symbols[symbol].place);
    let users = sections.filter(|(index, section)| {
        section.kind == SectionKind::Code
            && itself.is_none_or(|(section, _)| section != *index)
            && file.first_symbol(*index).is_some()
            && (section.relocations.iter().any(refers) || is_caught_in(*index))
    });
    users
        .min_by_key(|(_, section)| section.size)
        .map(|(index, _)| index)
}
