//! Types whose layout differs: the running program has objects of the old one.

mod layout;
mod usage;

use std::collections::{BTreeMap, HashMap, HashSet};

use gimli::Dwarf;

use crate::compare::ObjectChange;
use crate::debug::{DebugInfo, Kind, ReadUnit, Slice, Types, place_of, read_units};
use crate::error::BuildError;
use crate::object::ObjectFile;
use crate::program::Program;
use layout::{Difference, Digests, Layouts, Verdict};
use usage::Usage;
pub(crate) use usage::Users;

/// A type, or a variable of a type without a name, whose layout differs.
#[derive(Clone, Debug)]
pub(crate) struct LayoutChange {
    /// An object where it differs, if possible one in which code does.
    pub object: usize,
    /// The type as it is written, such as `struct foo`, or the variable.
    pub name: String,
    /// What differs: fields, each followed by what is different about it.
    differences: Vec<String>,
    /// Who uses it in the running program.
    pub users: Users,
}

impl LayoutChange {
    /// The first few differences.
    #[must_use]
    pub(crate) fn describe_differences(&self) -> String {
        const NAMED: usize = 3;
        let named = self.differences.iter().take(NAMED);
        let mut text = named.cloned().collect::<Vec<String>>().join(", ");
        if let Some(more @ 1..) = self.differences.len().checked_sub(NAMED) {
            text += &format!(" and {more} more");
        }
        text
    }
}

/// Objects in which layouts cannot be compared, and why.
pub(crate) type Unknown = (usize, BuildError);

/// Compares the layouts of all types in the objects that differ. Types that live only on the
/// stacks of functions that the patch replaces do not count: those functions are on no stack
/// when their replacements take over.
pub(crate) fn find_layout_changes(
    program: &Program,
    changes: &[ObjectChange],
) -> (Vec<LayoutChange>, Vec<Unknown>) {
    let mut found = Found::default();
    let mut unknown = Vec::new();
    for change in changes {
        let compared = (|| {
            let before = program.debug_before(change.object)?;
            let after = program.debug_after(change.object)?;
            match (before, after) {
                (Some(before), Some(after)) => {
                    compare_object(program, change, &before, &after, &mut found)
                }
                _ if is_compiled(program.before(change.object)?) => {
                    let error = BuildError::new("it has no debugging information");
                    Err(error.with_help("compile with -g"))
                }
                _ => Ok(()),
            }
        })();
        match compared {
            Err(error) if !change.comparison.changed.is_empty() => {
                unknown.push((change.object, error));
            }
            _ => {}
        }
    }
    let mut layouts = found.changes;
    layouts.retain(|change| !change.users.are_replaced_stacks());
    (layouts, unknown)
}

/// A compiler wrote it, rather than an assembler alone.
fn is_compiled(object: &ObjectFile) -> bool {
    let mut sections = object.sections.iter();
    sections.any(|section| section.name == ".comment")
}

#[derive(Default)]
struct Found {
    changes: Vec<LayoutChange>,
    /// Positions in `changes` by name and digests before and after: the same type in several
    /// objects.
    known: HashMap<(String, u64, u64), usize>,
    /// Those that were found in an object whose code differs.
    in_code: HashSet<usize>,
}

impl Found {
    fn add(
        &mut self,
        change: &ObjectChange,
        key: (String, u64, u64),
        differences: Vec<Difference>,
        users: Users,
    ) {
        let next = self.changes.len();
        let index = *self.known.entry(key.clone()).or_insert(next);
        if index == next {
            self.changes.push(LayoutChange {
                object: change.object,
                name: key.0,
                differences: differences.iter().map(ToString::to_string).collect(),
                users: Users::default(),
            });
        }
        let known = &mut self.changes[index];
        known.users.extend(users);
        if !self.in_code.contains(&index) && !change.comparison.changed.is_empty() {
            self.in_code.insert(index);
            known.object = change.object;
        }
    }
}

/// One version of an object.
struct Version<'d> {
    dwarf: Dwarf<Slice<'d>>,
    units: Vec<ReadUnit<'d>>,
    types: Types<'d>,
}

impl<'d> Version<'d> {
    fn read(info: &'d DebugInfo) -> Result<Self, BuildError> {
        let dwarf = info.dwarf();
        let units = read_units(&dwarf)?;
        let types = Types::read(&dwarf, &units)?;
        Ok(Self {
            dwarf,
            units,
            types,
        })
    }

    /// File in which a type is declared, without its directory.
    fn file(&self, node: usize) -> Option<String> {
        let (start, index) = self.types.nodes[node].file;
        let unit = &self.units.iter().find(|unit| unit.start == start)?.unit;
        let file = unit.line_program.as_ref()?.header().file(index)?;
        let path = self.dwarf.attr_string(unit, file.path_name()).ok()?;
        let path = path.to_string_lossy();
        path.rsplit('/').next().map(str::to_owned)
    }
}

fn compare_object(
    program: &Program,
    change: &ObjectChange,
    before: &DebugInfo,
    after: &DebugInfo,
    found: &mut Found,
) -> Result<(), BuildError> {
    let (before, after) = (Version::read(before)?, Version::read(after)?);
    let mut layouts = Layouts::new(&before.types, &after.types);
    let mut usage = None;
    for ((old, new), digests) in pair_types(&before, &after) {
        let Verdict::Own(differences) = layouts.named(old, new) else {
            continue;
        };
        let usage = match &mut usage {
            Some(usage) => usage,
            None => usage.insert(Usage::read(program, change, &before)?),
        };
        let name = describe(&before.types, old);
        let key = (name, digests.0, digests.1);
        found.add(change, key, differences, usage.of_type(old));
    }
    let after_file = program.after(change.object)?;
    for (old, new) in pair_variables(&before.types, &after.types) {
        let old_variable = &before.types.variables[old];
        let new_variable = &after.types.variables[new];
        let (Some(old_type), Some(new_type)) = (old_variable.target(), new_variable.target())
        else {
            continue;
        };
        let Verdict::Own(differences) = layouts.types(old_type, new_type) else {
            continue;
        };
        let section = new_variable.address.map(|address| place_of(address).0);
        let constant = section
            .and_then(|section| after_file.sections.get(section))
            .is_none_or(|section| section.kind.is_constant());
        let title = section.map(|section| after_file.title(section));
        let mut others = change.comparison.variables.iter();
        // A constant goes together with the code that uses it.
        if constant || others.any(|other| Some(&*other.name) == title) {
            continue;
        }
        let usage = match &mut usage {
            Some(usage) => usage,
            None => usage.insert(Usage::read(program, change, &before)?),
        };
        let key = (
            old_variable.name.clone().into_owned(),
            0,
            change.object as u64,
        );
        found.add(change, key, differences, usage.of_variable(old));
    }
    Ok(())
}

/// Positions and digests of a type before and after.
type TypePair = ((usize, usize), (u64, u64));

/// Types of equal names whose digests differ.
fn pair_types(before: &Version<'_>, after: &Version<'_>) -> Vec<TypePair> {
    let mut digests = (Digests::new(&before.types), Digests::new(&after.types));
    let mut pairs = Vec::new();
    for (name, new) in &after.types.names {
        let Some(old) = before.types.names.get(name) else {
            continue;
        };
        let mut old: Vec<(usize, u64)> = old
            .iter()
            .map(|index| (*index, digests.0.of(*index)))
            .collect();
        let mut new: Vec<(usize, u64)> = new
            .iter()
            .map(|index| (*index, digests.1.of(*index)))
            .collect();
        let (all_old, all_new) = (old.clone(), new.clone());
        old.retain(|one| all_new.iter().all(|other| other.1 != one.1));
        new.retain(|one| all_old.iter().all(|other| other.1 != one.1));
        // Of several types with one name, those of one file belong together.
        if old.len() > 1 || new.len() > 1 {
            old.sort_by_cached_key(|one| before.file(one.0));
            new.retain(|one| {
                let file = after.file(one.0);
                let found = old.iter().position(|other| before.file(other.0) == file);
                if let Some(position) = found {
                    let other = old.remove(position);
                    pairs.push(((other.0, one.0), (other.1, one.1)));
                }
                found.is_none()
            });
        }
        for (old, new) in old.iter().zip(&new) {
            pairs.push(((old.0, new.0), (old.1, new.1)));
        }
    }
    pairs.sort_unstable();
    pairs
}

/// Defined variables of equal names.
fn pair_variables(before: &Types<'_>, after: &Types<'_>) -> Vec<(usize, usize)> {
    let defined = |types: &Types<'_>| {
        let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, variable) in types.variables.iter().enumerate() {
            if variable.address.is_some() {
                let name = variable.name.clone().into_owned();
                names.entry(name).or_default().push(index);
            }
        }
        names
    };
    let old = defined(before);
    let mut pairs = Vec::new();
    for (name, new) in defined(after) {
        if let (Some([old]), [new]) = (old.get(&name).map(Vec::as_slice), &new[..]) {
            pairs.push((*old, *new));
        }
    }
    pairs
}

/// A type as it is written.
fn describe(types: &Types<'_>, index: usize) -> String {
    let node = &types.nodes[index];
    let name = node.name.as_deref().unwrap_or("(unnamed)");
    match node.kind {
        Kind::Record => format!("struct {name}"),
        Kind::Union => format!("union {name}"),
        Kind::Enumeration => format!("enum {name}"),
        _ => name.to_owned(),
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            write!(f, "it {}", self.what)
        } else {
            write!(f, "field '{}' {}", self.field, self.what)
        }
    }
}
