//! Which functions a patch changes: the test for "the same function".

use std::collections::{HashMap, HashSet};

use crate::patch::{Func, Patch};

/// The functions of a patch.
///
/// Two funcs mean the same function if they name the same symbol of the same object, or if
/// both are known to begin at the same address: two names of one function are one function.
#[derive(Default)]
pub(crate) struct Coverage {
    symbols: HashMap<Option<String>, HashMap<String, HashSet<u64>>>,
    entries: HashSet<u64>,
}

impl Coverage {
    /// The functions of `patch`.
    pub(crate) fn of(patch: &Patch) -> Self {
        let mut coverage = Self::default();
        for object in &patch.objects {
            for func in &object.funcs {
                coverage.add(object.name.as_deref(), func);
            }
        }
        coverage
    }

    /// Whether the function is among them.
    pub(crate) fn has(&self, object: Option<&str>, func: &Func) -> bool {
        let (name, sympos) = func.symbol();
        let by_entry = func.entry().is_some_and(|e| self.entries.contains(&e));
        let names = self.symbols.get(&object.map(str::to_owned));
        let positions = names.and_then(|names| names.get(name));
        by_entry || positions.is_some_and(|positions| positions.contains(&sympos))
    }

    /// Adds a function; `false` when it was there already.
    pub(crate) fn add(&mut self, object: Option<&str>, func: &Func) -> bool {
        let is_new = !self.has(object, func);
        let (name, sympos) = func.symbol();
        let names = self.symbols.entry(object.map(str::to_owned)).or_default();
        names.entry(name.to_owned()).or_default().insert(sympos);
        self.entries.extend(func.entry());
        is_new
    }

    /// The first function that `patch` changes and that is among them. Its nops, while it
    /// replaces others, change nothing.
    pub(crate) fn first_shared<'a>(&self, patch: &'a Patch) -> Option<&'a str> {
        let objects = patch.objects.iter();
        let funcs = objects.flat_map(|o| o.funcs.iter().map(|f| (o.name.as_deref(), f)));
        let mut changed = funcs.filter(|(_, func)| !func.is_nop());
        let shared = changed.find(|(object, func)| self.has(*object, func));
        shared.map(|(_, func)| func.old_name.as_str())
    }
}
