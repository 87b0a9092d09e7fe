//! Which implementation of each patched function runs for whom.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::patch::{Code, Func, PatchId, Replacement};
use crate::state::State;

/// One implementation of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Impl {
    /// The original code.
    Original,
    /// A patch's.
    New {
        /// The patch.
        patch: PatchId,
        /// Where its code lies.
        code: Code,
    },
}

/// Who runs what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteKind {
    /// Every thread the same.
    Direct(Impl),
    /// Depending on whether the thread carries the transition's token.
    Select {
        /// For a thread that does not carry it.
        unswitched: Impl,
        /// For one that does.
        switched: Impl,
    },
}

/// One redirected function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Object of the function; `None` is the main executable.
    pub object: Option<String>,
    /// Its name (the newest patch's, when the function has several).
    pub old_name: String,
    /// Which of several equal names.
    pub old_sympos: u64,
    /// The original code, whose entry is redirected.
    pub old: Code,
    /// Who runs what.
    pub kind: RouteKind,
}

/// A pushed func: an entry of a function stack (`klp_ops.func_stack`).
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) patch: PatchId,
    pub(crate) object: Option<&'a str>,
    pub(crate) func: &'a Func,
    pub(crate) old: &'a Code,
}

impl Entry<'_> {
    pub(crate) fn implementation(&self) -> Impl {
        match &self.func.replacement {
            Replacement::Nop => Impl::Original,
            Replacement::New(code) => Impl::New {
                patch: self.patch,
                code: code.clone(),
            },
        }
    }
}

/// The function stacks, oldest entry first, by the address of the original entry.
///
/// Nops count only on top of another entry. With none below, no thread is sent anywhere
/// else by it, so it needs neither a redirection nor a check: otherwise an older patch that
/// was never enabled could hold up a replacing one for ever. With one above, nobody gets to
/// it.
pub(crate) fn function_stacks(state: &State) -> BTreeMap<u64, Vec<Entry<'_>>> {
    let mut stacks: BTreeMap<u64, Vec<Entry<'_>>> = BTreeMap::new();
    for patch in &state.stack {
        for object in patch.objects.iter().filter(|object| object.patched) {
            for func in &object.funcs {
                let Some(old) = &func.old else { continue };
                stacks.entry(old.entry()).or_default().push(Entry {
                    patch: patch.id,
                    object: object.name.as_deref(),
                    func,
                    old,
                });
            }
        }
    }
    for stack in stacks.values_mut() {
        let top = stack.len().saturating_sub(1);
        let mut index = 0;
        stack.retain(|entry| {
            let is_live = !entry.func.is_nop() || (index == top && top > 0);
            index += 1;
            is_live
        });
    }
    stacks.retain(|_, stack| !stack.is_empty());
    stacks
}

/// The redirections that the target's code must have, by address of the original entry. A
/// function that is not among them runs its original bytes.
#[must_use]
pub fn routes(state: &State) -> Vec<Route> {
    let selecting = state.transition.as_ref().filter(|t| t.is_selecting());
    let stacks = function_stacks(state);
    let route = |stack: &Vec<Entry<'_>>| {
        let (top, below) = stack.split_last()?;
        let kind = match selecting.filter(|t| t.patch == top.patch) {
            None => RouteKind::Direct(top.implementation()),
            Some(transition) => {
                let patched = top.implementation();
                let unpatched = below.last().map_or(Impl::Original, Entry::implementation);
                let (unswitched, switched) = match transition.initial_target {
                    crate::Universe::Patched => (unpatched, patched),
                    crate::Universe::Unpatched => (patched, unpatched),
                };
                RouteKind::Select {
                    unswitched,
                    switched,
                }
            }
        };
        Some(Route {
            object: top.object.map(str::to_owned),
            old_name: top.func.old_name.clone(),
            old_sympos: top.func.old_sympos,
            old: top.old.clone(),
            kind,
        })
    };
    stacks.values().filter_map(route).collect()
}
