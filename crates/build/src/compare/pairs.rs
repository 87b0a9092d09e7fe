//! Which symbol and section of the object before the change is which one after it.

use std::collections::{BTreeSet, HashMap};

use super::lines::Compilation;
use super::numbered::{self, is_numbered, list_bases};
use crate::object::{Binding, ObjectFile, SymbolKind};

/// Pairs of symbols and sections; indexes are those of the object after the change.
#[derive(Clone, Debug)]
pub(crate) struct Pairs {
    symbols: Vec<Option<usize>>,
    sections: Vec<Option<usize>>,
    /// Variables of which it is not known which one they were: indexes after the change.
    pub uncertain: Vec<usize>,
}

impl Pairs {
    /// Pairs two versions of an object.
    ///
    /// Functions go by their names, clones by their compilers' made-up names: whatever a pair
    /// of functions means, code that is the same but for calls to pairs does in the new program
    /// what the redirected old one does. Variables hold state, so a name with a number that the
    /// compiler has appended (`count.3`) counts only together with the functions that use it.
    #[must_use]
    pub(super) fn of(
        before: &ObjectFile,
        after: &ObjectFile,
        compilation: &Compilation<'_>,
    ) -> Self {
        let mut pairs = Self {
            symbols: vec![None; after.symbols.len()],
            sections: vec![None; after.sections.len()],
            uncertain: Vec::new(),
        };
        let bases = list_bases(before, after);
        pairs.pair_names(before, after, &bases);
        let numbered = numbered::pair(before, after, &bases, compilation);
        for (new, old) in numbered.pairs {
            pairs.symbols[new] = Some(old);
        }
        pairs.uncertain = numbered.uncertain;
        pairs.pair_sections(before, after);
        pairs
    }

    /// The symbol before the change.
    #[must_use]
    pub(crate) fn symbol(&self, after: usize) -> Option<usize> {
        self.symbols[after]
    }

    /// The section before the change.
    #[must_use]
    pub(crate) fn section(&self, after: usize) -> Option<usize> {
        self.sections[after]
    }

    /// Number of sections after the change.
    pub(super) fn len(&self) -> usize {
        self.sections.len()
    }

    fn pair_names(&mut self, before: &ObjectFile, after: &ObjectFile, bases: &BTreeSet<&str>) {
        let mut names: HashMap<(bool, &str), Vec<usize>> = HashMap::new();
        for (index, symbol) in before.symbols.iter().enumerate() {
            if is_nameable(before, index, bases) {
                let key = (symbol.binding == Binding::Local, &*symbol.name);
                names.entry(key).or_default().push(index);
            }
        }
        // Equal names of local functions (in C++) follow each other in the same order.
        let mut used: HashMap<(bool, &str), usize> = HashMap::new();
        for (index, symbol) in after.symbols.iter().enumerate() {
            if !is_nameable(after, index, bases) {
                continue;
            }
            let local = symbol.binding == Binding::Local;
            // `static` may come or go without making it another function.
            let key = [(local, &*symbol.name), (!local, &*symbol.name)]
                .into_iter()
                .find(|key| names.contains_key(key));
            if let Some(key) = key {
                let position = used.entry(key).or_default();
                self.symbols[index] = names[&key].get(*position).copied();
                *position += 1;
            }
        }
    }

    fn pair_sections(&mut self, before: &ObjectFile, after: &ObjectFile) {
        let old = unnamed_sections(before);
        let new = unnamed_sections(after);
        for index in 0..after.sections.len() {
            self.sections[index] = match after.first_symbol(index) {
                // Where the first function is new, another one tells which section it is.
                Some(first) => [first]
                    .iter()
                    .chain(&after.sections[index].defines)
                    .find_map(|symbol| before.symbols[self.symbols[*symbol]?].place)
                    .map(|(section, _)| section),
                None => {
                    let name = &*after.sections[index].name;
                    match (old.get(name), new.get(name)) {
                        (Some(old), Some(new)) => new
                            .iter()
                            .position(|other| *other == index)
                            .filter(|_| old.len() == new.len())
                            .map(|position| old[position]),
                        _ => None,
                    }
                }
            };
        }
    }
}

fn is_nameable(object: &ObjectFile, index: usize, bases: &BTreeSet<&str>) -> bool {
    let symbol = &object.symbols[index];
    let typed = matches!(
        symbol.kind,
        SymbolKind::Function | SymbolKind::Ifunc | SymbolKind::Object | SymbolKind::Tls
    );
    let labelled = symbol.kind == SymbolKind::Label && symbol.binding != Binding::Local;
    symbol.place.is_some() && (typed || labelled) && !is_numbered(object, index, bases)
}

fn unnamed_sections(object: &ObjectFile) -> HashMap<&str, Vec<usize>> {
    let mut names: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, section) in object.sections.iter().enumerate() {
        if object.first_symbol(index).is_none() {
            names.entry(&section.name).or_default().push(index);
        }
    }
    names
}
