//! What differs between two versions of one object.

mod blocks;
mod following;
mod lines;
mod numbered;
mod pairs;
mod program;
mod sameness;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use lines::Compilation;
pub use lines::Trace;
pub(crate) use pairs::Pairs;
pub(crate) use program::{ObjectChange, compare_program};

use crate::object::{ObjectFile, SectionKind, SymbolKind};
use sameness::Sameness;

/// Why a function is in the patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "name")]
pub enum Reason {
    /// Its code differs.
    Changed,
    /// The part that the compiler split off differs.
    ColdPart,
    /// What it does when an exception passes through differs.
    ExceptionTable,
    /// It refers to a constant of that name, which differs.
    Constant(String),
    /// The source of a function of that name was edited, which is or was inlined into it; its own
    /// was not.
    Inlined(String),
    /// The source of a function of that name was edited, which it calls: it is compiled to fit a
    /// clone of that one, or what is known of it.
    Callee(String),
    /// No function is known to have been edited that it is compiled from: a macro, a type or a
    /// flag of the compiler was, or a function of whose inlining the compiler tells nothing.
    Surroundings,
    /// It is new, and changed code refers to it.
    Added,
}

/// What differs in one object. Sections are those of the object after the change.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    /// Which symbol and section is which.
    pub pairs: Pairs,
    /// Functions that differ, with the reason.
    pub changed: BTreeMap<usize, Reason>,
    /// Functions that are new.
    pub added: Vec<usize>,
    /// Functions that are gone, by name.
    pub gone: Vec<String>,
    /// Variables whose size or initial value differs, and new thread-local ones.
    pub variables: Vec<VariableChange>,
    /// Named constants that differ, and tables of labels in functions that differ.
    pub constants: Vec<usize>,
    /// Names that stand for another function than before.
    pub moved: Vec<String>,
    /// Sections that are part of the program in a way that cannot be patched, and differ or
    /// are gone.
    pub others: Vec<(String, SectionKind)>,
    /// What differs without consequence, in sections that count as the same.
    pub ignored: BTreeMap<usize, BTreeSet<Trace>>,
}

/// A change of a variable that a running program cannot follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct VariableChange {
    /// The variable.
    pub name: String,
    /// What differs.
    pub what: VariableDifference,
}

/// What differs about a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum VariableDifference {
    /// Its size, before and after.
    Size(u64, u64),
    /// Its initial value.
    InitialValue,
    /// Not itself, but code that it holds an address in the middle of.
    Label,
    /// It is thread-local and new.
    NewThreadLocal,
}

/// Compares two versions of an object.
#[must_use]
fn compare(before: &ObjectFile, after: &ObjectFile, compilation: Compilation<'_>) -> Comparison {
    let pairs = Pairs::of(before, after, &compilation);
    let mut comparison = Comparison {
        pairs: pairs.clone(),
        changed: BTreeMap::new(),
        added: Vec::new(),
        gone: Vec::new(),
        variables: Vec::new(),
        constants: Vec::new(),
        moved: list_moved(before, after, &pairs),
        others: list_gone_others(before, &pairs),
        ignored: BTreeMap::new(),
    };
    let mut sameness = Sameness::new(before, after, &pairs, compilation);
    for (index, section) in after.sections.iter().enumerate() {
        let old = pairs.section(index);
        let same = old.is_some_and(|old| sameness.sections(old, index));
        if same || (section.size == 0 && old.is_none()) {
            continue;
        }
        match section.kind {
            SectionKind::Code if old.is_some() => {
                comparison.changed.insert(index, Reason::Changed);
            }
            SectionKind::Code => comparison.added.push(index),
            SectionKind::Data | SectionKind::Zero | SectionKind::Tls => {
                comparison
                    .variables
                    .extend(describe_variable(before, after, old, index));
            }
            SectionKind::ReadOnly | SectionKind::RelocatedReadOnly
                if old.is_some() && after.first_symbol(index).is_some() =>
            {
                comparison.constants.push(index);
            }
            SectionKind::Startup | SectionKind::Other | SectionKind::LinkTimeCode => {
                comparison.others.push((section.name.clone(), section.kind));
            }
            _ => {}
        }
    }
    let old_exceptions = before.exception_sections();
    for (function, exceptions) in after.exception_sections() {
        let Some(old) = pairs.section(function) else {
            continue;
        };
        let old = old_exceptions.get(&old).map_or(&[][..], Vec::as_slice);
        let same = old.len() == exceptions.len()
            && old
                .iter()
                .zip(&exceptions)
                .all(|(old, new)| sameness.sections(*old, *new));
        if !same {
            let reason = Reason::ExceptionTable;
            comparison.changed.entry(function).or_insert(reason);
        }
    }
    comparison.ignored = sameness.into_traces();
    comparison.gone = list_gone(before, &pairs);
    comparison.follow_changes(after);
    comparison
}

impl Comparison {
    /// Whether nothing of consequence differs.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty()
            && self.variables.is_empty()
            && self.constants.is_empty()
            && self.moved.is_empty()
            && self.others.is_empty()
    }
}

/// A function's name without what compilers append for clones and parts of it.
fn function_stem(name: &str) -> &str {
    const CLONES: [&str; 5] = [".isra.", ".constprop.", ".part.", ".cold", ".llvm."];
    let ends = CLONES.iter().filter_map(|clone| name.find(clone));
    &name[..ends.min().unwrap_or(name.len())]
}

/// The section of the function that `section` is a cold part of.
#[must_use]
pub(crate) fn hot_part(object: &ObjectFile, section: usize) -> Option<usize> {
    let name = &object.symbols[object.first_symbol(section)?].name;
    let (stem, rest) = name.rsplit_once(".cold")?;
    if !(rest.is_empty() || rest.starts_with('.')) {
        return None;
    }
    let hot = object.symbols.iter().find(|symbol| {
        symbol.name == stem && symbol.kind == SymbolKind::Function && symbol.place.is_some()
    })?;
    hot.place.map(|(section, _)| section)
}

fn describe_variable(
    before: &ObjectFile,
    after: &ObjectFile,
    old: Option<usize>,
    new: usize,
) -> Option<VariableChange> {
    let section = &after.sections[new];
    let what = match old {
        Some(old) if before.sections[old].size != section.size => {
            VariableDifference::Size(before.sections[old].size, section.size)
        }
        Some(_) => VariableDifference::InitialValue,
        None if section.kind == SectionKind::Tls => VariableDifference::NewThreadLocal,
        // A new variable comes along with the code that uses it.
        None => return None,
    };
    Some(VariableChange {
        name: after.title(new).to_owned(),
        what,
    })
}

/// Other names of functions that stand for other functions now.
fn list_moved(before: &ObjectFile, after: &ObjectFile, pairs: &Pairs) -> Vec<String> {
    let mut moved = Vec::new();
    for (index, symbol) in after.symbols.iter().enumerate() {
        let is_function = matches!(symbol.kind, SymbolKind::Function | SymbolKind::Ifunc);
        let old = pairs
            .symbol(index)
            .and_then(|old| before.symbols[old].place);
        if let (Some((section, _)), Some((old_section, _)), true) = (symbol.place, old, is_function)
            && pairs.section(section) != Some(old_section)
        {
            moved.push(symbol.name.clone());
        }
    }
    moved
}

fn list_gone_others(before: &ObjectFile, pairs: &Pairs) -> Vec<(String, SectionKind)> {
    let kept: Vec<usize> = (0..pairs.len())
        .filter_map(|index| pairs.section(index))
        .collect();
    let sections = before.sections.iter().enumerate();
    let gone = sections.filter(|(index, section)| {
        matches!(section.kind, SectionKind::Startup | SectionKind::Other) && !kept.contains(index)
    });
    gone.map(|(_, section)| (section.name.clone(), section.kind))
        .collect()
}

fn list_gone(before: &ObjectFile, pairs: &Pairs) -> Vec<String> {
    let kept: Vec<usize> = (0..pairs.len())
        .filter_map(|index| pairs.section(index))
        .collect();
    let sections = before.sections.iter().enumerate();
    let gone = sections.filter(|(index, section)| {
        section.kind == SectionKind::Code && section.size > 0 && !kept.contains(index)
    });
    gone.map(|(index, _)| before.title(index).to_owned())
        .collect()
}
