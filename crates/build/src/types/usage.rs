//! Who uses a type in the running program.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use gimli::constants as dw;

use super::Version;
use crate::compare::ObjectChange;
use crate::debug::{Kind, ReadUnit, Types, place_of, walk_functions};
use crate::error::BuildError;
use crate::object::{Binding, ObjectFile, SectionKind, Target};
use crate::program::Program;

/// Functions and others that use a type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    /// Functions by name; whether the patch replaces them.
    functions: BTreeMap<String, bool>,
    /// Variables of that type, or that lead to it.
    variables: BTreeSet<String>,
    /// It is used otherwise than as a local variable.
    beyond_stacks: bool,
}

/// How many functions are named.
const NAMED: usize = 5;

impl Users {
    pub(super) fn extend(&mut self, other: Self) {
        for (name, replaced) in other.functions {
            *self.functions.entry(name).or_insert(true) &= replaced;
        }
        self.variables.extend(other.variables);
        self.beyond_stacks |= other.beyond_stacks;
    }

    /// All objects are on the stacks of functions that the patch replaces.
    pub(super) fn are_replaced_stacks(&self) -> bool {
        !self.beyond_stacks
            && self.variables.is_empty()
            && !self.functions.is_empty()
            && self.functions.values().all(|replaced| *replaced)
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |replaced: bool| {
            let functions = self.functions.iter().filter(move |one| *one.1 == replaced);
            functions.map(|(name, _)| &**name)
        };
        let unchanged: Vec<&str> = of(false).take(NAMED).collect();
        let replaced: Vec<&str> = of(true).take(NAMED - unchanged.len()).collect();
        let more = self.functions.len() - unchanged.len() - replaced.len();
        let mut parts = Vec::new();
        if !unchanged.is_empty() {
            parts.push(format!("the unchanged {}", unchanged.join(", ")));
        }
        if !replaced.is_empty() {
            parts.push(format!("the changed {}", replaced.join(", ")));
        }
        if more > 0 {
            parts.push(format!("{more} more functions"));
        }
        let variables: Vec<String> = self
            .variables
            .iter()
            .take(2)
            .map(|v| format!("'{v}'"))
            .collect();
        if !variables.is_empty() {
            parts.push(format!("variable {}", variables.join(", ")));
        }
        match parts.split_last() {
            None => f.write_str("code that does not name it"),
            Some((last, [])) => f.write_str(last),
            Some((last, rest)) => write!(f, "{} and {last}", rest.join(", ")),
        }
    }
}

/// How something has to do with a type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Not,
    /// It leads there.
    Pointer,
    /// It is or has one.
    Value,
}

/// What functions and variables of an object before the change use which types.
pub(super) struct Usage<'a, 'd> {
    types: &'a Types<'d>,
    file: &'a ObjectFile,
    functions: Vec<Function>,
    /// Names of functions that refer to a symbol.
    references: HashMap<usize, BTreeSet<usize>>,
}

struct Function {
    name: String,
    section: usize,
    replaced: bool,
    /// Types of its variables, parameters and result.
    types: HashSet<usize>,
}

impl<'a, 'd> Usage<'a, 'd> {
    pub(super) fn read(
        program: &'a Program,
        change: &ObjectChange,
        version: &'a Version<'d>,
    ) -> Result<Self, BuildError> {
        let file = program.before(change.object)?;
        let mut trees = Trees::default();
        for unit in &version.units {
            trees.read(version, unit)?;
        }
        let comparison = &change.comparison;
        let replaced: HashSet<usize> = comparison
            .changed
            .keys()
            .filter_map(|section| comparison.pairs.section(*section))
            .collect();
        let mut functions = Vec::new();
        for (offset, tree) in &trees.functions {
            let Some(section) = tree.section else {
                continue;
            };
            if !is_linked(program, change.object, section)? {
                continue;
            }
            functions.push(Function {
                name: file.title(section).to_owned(),
                section,
                replaced: replaced.contains(&section),
                types: trees.list_types(*offset, &version.types),
            });
        }
        Ok(Self {
            types: &version.types,
            file,
            functions,
            references: list_references(file),
        })
    }

    /// Who uses a type.
    pub(super) fn of_type(&self, node: usize) -> Users {
        let marks = Marks::new(self.types, node);
        let mut users = Users::default();
        for function in &self.functions {
            let mark = function.types.iter().map(|used| marks.of(*used)).max();
            let mark = mark.unwrap_or(Mark::Not);
            let pointers = function
                .types
                .iter()
                .any(|used| marks.of(*used) == Mark::Pointer);
            if mark != Mark::Not {
                let known = users.functions.entry(function.name.clone()).or_insert(true);
                *known &= function.replaced;
            }
            users.beyond_stacks |= pointers;
        }
        for (index, variable) in self.types.variables.iter().enumerate() {
            if variable
                .target()
                .is_some_and(|target| marks.of(target) != Mark::Not)
            {
                users.extend(self.of_variable(index));
            }
        }
        // A field that leads to it.
        users.beyond_stacks |= self.types.nodes.iter().any(|other| {
            let mut members = other.members.iter();
            let aggregate = matches!(other.kind, Kind::Record | Kind::Union);
            aggregate
                && members.any(|member| {
                    let target = member.target();
                    target.is_some_and(|target| marks.of(target) == Mark::Pointer)
                })
        });
        users
    }

    /// Who uses a variable.
    pub(super) fn of_variable(&self, variable: usize) -> Users {
        let variable = &self.types.variables[variable];
        let symbol = match variable.address.map(place_of) {
            Some((section, offset)) => self
                .file
                .sections
                .get(section)
                .and_then(|_| self.file.symbol_at(section, offset.cast_signed()))
                .map(|found| found.0),
            None => self
                .file
                .symbols
                .iter()
                .position(|symbol| symbol.name == variable.symbol),
        };
        let mut users = Users::default();
        let Some(symbol) = symbol else {
            return users;
        };
        users.variables.insert(variable.name.clone().into_owned());
        for section in self.references.get(&symbol).into_iter().flatten() {
            let function = self.functions.iter().find(|one| one.section == *section);
            if let Some(function) = function {
                users
                    .functions
                    .insert(function.name.clone(), function.replaced);
            }
        }
        users
    }
}

/// Sections of code that refer to each symbol.
fn list_references(file: &ObjectFile) -> HashMap<usize, BTreeSet<usize>> {
    let mut references: HashMap<usize, BTreeSet<usize>> = HashMap::new();
    for (index, section) in file.sections.iter().enumerate() {
        if section.kind != SectionKind::Code {
            continue;
        }
        for relocation in &section.relocations {
            let symbol = match file.target(relocation) {
                Target::Symbol { symbol, .. } => Some(symbol),
                Target::Place { section, offset } => {
                    file.symbol_at(section, offset).map(|found| found.0)
                }
            };
            if let Some(symbol) = symbol {
                references.entry(symbol).or_default().insert(index);
            }
        }
    }
    references
}

/// Of functions that several objects bring along, one is in the program.
fn is_linked(program: &Program, object: usize, section: usize) -> Result<bool, BuildError> {
    let file = program.before(object)?;
    let Some(symbol) = file.first_symbol(section) else {
        return Ok(true);
    };
    let symbol = &file.symbols[symbol];
    let shared = file.sections[section].group.is_some() || symbol.binding == Binding::Weak;
    if !shared || symbol.binding == Binding::Local {
        return Ok(true);
    }
    let chosen = program.names()?.global(&symbol.name);
    Ok(chosen.is_none_or(|definition| definition.object == object))
}

/// How all types have to do with one.
struct Marks(Vec<Mark>);

impl Marks {
    fn new(types: &Types<'_>, node: usize) -> Self {
        let mut marks = Self(vec![Mark::Not; types.nodes.len()]);
        marks.0[node] = Mark::Value;
        // Every round goes one step further, and types are made from those of a few steps.
        loop {
            let mut changed = false;
            for (index, other) in types.nodes.iter().enumerate() {
                let reached = |target: Option<usize>| match target {
                    Some(target) => marks.0[types.complete(target)].max(marks.0[target]),
                    None => Mark::Not,
                };
                let mark = match other.kind {
                    Kind::Pointer if reached(other.target()) != Mark::Not => Mark::Pointer,
                    Kind::Qualified | Kind::Typedef | Kind::Array => reached(other.target()),
                    Kind::Record | Kind::Union => {
                        let mut members = other.members.iter();
                        if members.any(|member| reached(member.target()) == Mark::Value) {
                            Mark::Value
                        } else {
                            Mark::Not
                        }
                    }
                    _ => Mark::Not,
                };
                if mark > marks.0[index] {
                    marks.0[index] = mark;
                    changed = true;
                }
            }
            if !changed {
                return marks;
            }
        }
    }

    fn of(&self, index: usize) -> Mark {
        self.0[index]
    }
}

/// Functions as they are described, by offset.
#[derive(Default)]
struct Trees {
    functions: BTreeMap<usize, Tree>,
}

#[derive(Default)]
struct Tree {
    /// Where its code is, if it has any.
    section: Option<usize>,
    /// Offsets of types.
    types: HashSet<usize>,
    /// Offsets of the functions that it consists of: inlined ones, and what declares it.
    parts: HashSet<usize>,
}

impl Trees {
    fn read<'d>(&mut self, version: &Version<'d>, unit: &ReadUnit<'d>) -> Result<(), BuildError> {
        let wanted = |tag| {
            matches!(
                tag,
                dw::DW_TAG_subprogram
                    | dw::DW_TAG_inlined_subroutine
                    | dw::DW_TAG_variable
                    | dw::DW_TAG_formal_parameter
            )
        };
        walk_functions(&version.dwarf, unit, wanted, |function, tag, attributes| {
            let tree = self.functions.entry(function).or_default();
            match tag {
                dw::DW_TAG_subprogram | dw::DW_TAG_inlined_subroutine => {
                    if tag == dw::DW_TAG_subprogram {
                        let begin = attributes.begin(&version.dwarf, unit)?;
                        tree.section = begin.map(|address| place_of(address).0);
                    }
                    tree.parts.extend(attributes.origin_offset());
                    tree.types.extend(attributes.target_offset());
                }
                // Static variables are not the function's own.
                dw::DW_TAG_variable if attributes.address.is_some() || attributes.declaration => {}
                _ => tree.types.extend(attributes.target_offset()),
            }
            Ok(())
        })
    }

    /// Types that a function uses, with those of what is inlined.
    fn list_types(&self, function: usize, types: &Types<'_>) -> HashSet<usize> {
        let mut seen = HashSet::new();
        let mut queue = vec![function];
        let mut found = HashSet::new();
        while let Some(offset) = queue.pop() {
            let Some(tree) = self.functions.get(&offset).filter(|_| seen.insert(offset)) else {
                continue;
            };
            let used = tree.types.iter().filter_map(|offset| types.at(*offset));
            found.extend(used.map(|used| types.complete(used)));
            queue.extend(&tree.parts);
        }
        found
    }
}
