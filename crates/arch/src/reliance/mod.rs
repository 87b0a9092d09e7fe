//! What callers of a function rely on beyond the psABI.
//!
//! With -fipa-ra (on at -O2) gcc lets a caller keep values in caller-saved registers over
//! a direct call if the callee, as compiled, does not change them. A replacement that
//! changes more registers would break such a caller. The same knowledge makes gcc leave the
//! stack unaligned at calls of local functions that do not need it.
//!
//! All answers come from machine code. Where it is ambiguous they err towards more
//! reliance: the price is a preserve thunk, never a lost value. The common case is a
//! register that carries both arguments and results (rdx, xmm0, xmm1): code that returns
//! its argument in place looks like code that no longer needs it.

mod clobbers;
mod index;
mod liveness;
mod stack_arguments;

use std::collections::{BTreeMap, BTreeSet};

pub use index::{CallIndex, CallSite, Function, SiteKind};
pub use stack_arguments::uses_stack_arguments;

use crate::jump_table::Reader;
use crate::registers::RegisterSet;
use clobbers::{Bound, Clobbers};
use liveness::live_after_calls;

/// What a redirect of one function must keep for its callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reliance {
    /// Caller-saved registers that some caller may need unchanged.
    pub registers: RegisterSet,
    /// Those of them that a caller reads wider than 128 bits; no thunk preserves these.
    pub wide: RegisterSet,
    /// The replacement needs a stack aligned to 16 bytes, and some caller may not provide
    /// it. The preserve thunk does, also for an empty set of registers.
    pub unaligned_stack: bool,
    /// Call sites whose callers hold such values, for messages.
    pub sites: Vec<u64>,
}

impl Reliance {
    /// Whether callers rely on nothing beyond the psABI: no thunk is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty() && self.wide.is_empty() && !self.unaligned_stack
    }
}

/// The two pieces of code to be compared.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// All functions of the object, PLT sections among them as pseudo functions: a direct
    /// call out of the index is taken for one whose callee gcc knew.
    pub object: &'a CallIndex<'a>,
    /// Address of the old function in `object`.
    pub old: u64,
    /// All functions of the replacing code, relocated to their addresses. A call out of this
    /// index changes every caller-saved register.
    pub replacing: &'a CallIndex<'a>,
    /// Address of the replacement in `replacing`.
    pub new: u64,
    /// Addresses of functions that are replaced together with this one: their old code
    /// never calls the replacement.
    pub replaced_together: &'a [u64],
}

/// Computes what callers of the old function rely on and the replacement does not keep.
/// `read` reads jump tables of the object.
#[must_use]
pub fn find_reliance(change: &Change<'_>, read: &Reader<'_>) -> Reliance {
    let mut most = Clobbers::new(change.replacing, Bound::Most, read);
    let mut least = Clobbers::new(change.object, Bound::Least, read);
    let extra = most.of_function(change.new) - least.of_function(change.old);
    let mut reliance = Reliance {
        unaligned_stack: may_be_unaligned(change, &mut most, &mut least),
        ..Reliance::default()
    };
    let mut sites = BTreeSet::new();
    let mut passed: BTreeMap<u64, RegisterSet> = BTreeMap::new();
    let mut pending = vec![(change.old, extra)];
    while let Some((callee, extra)) = pending.pop() {
        let known = passed.entry(callee).or_default();
        let fresh = extra - *known;
        *known |= fresh;
        if fresh.is_empty() {
            continue;
        }
        for (caller, calls) in callers_of(change, callee) {
            for live in live_after_calls(&mut least, caller, &calls) {
                let relied = live.registers() & fresh;
                reliance.registers |= relied;
                reliance.wide |= live.wide & fresh;
                if !relied.is_empty() {
                    sites.insert(live.site);
                }
            }
            pending.push((caller.address, fresh - least.of_function(caller.address)));
        }
    }
    reliance.sites = sites.into_iter().collect();
    reliance
}

/// Callers by direct calls and jumps that may meet the replacement, each with the sites of
/// its calls (none if it only jumps).
fn callers_of<'a>(change: &Change<'a>, callee: u64) -> Vec<(Function<'a>, Vec<CallSite>)> {
    let mut callers: BTreeMap<u64, (Function<'a>, Vec<CallSite>)> = BTreeMap::new();
    for site in change.object.sites_of(callee) {
        let Some(caller) = change.object.function_at(site.address) else {
            continue;
        };
        let replaced = change.replaced_together.contains(&caller.address);
        if replaced || caller.address == change.old {
            continue;
        }
        let (_, calls) = callers
            .entry(caller.address)
            .or_insert((caller, Vec::new()));
        if site.kind == SiteKind::Call {
            calls.push(*site);
        }
    }
    callers.into_values().collect()
}

/// Whether the replacement needs an aligned stack that callers do not surely provide.
///
/// A function that surely makes an ordinary call gets an aligned stack from its callers,
/// since its callee's needs become its own. So does one that has no direct callers. A caller
/// that surely makes an ordinary call itself aligns its stack for all its calls.
fn may_be_unaligned(
    change: &Change<'_>,
    most: &mut Clobbers<'_, '_>,
    least: &mut Clobbers<'_, '_>,
) -> bool {
    if !most.needs_alignment(change.new) || least.is_everything(change.old) {
        return false;
    }
    let callers = callers_of(change, change.old);
    callers
        .iter()
        .any(|(caller, _)| !least.calls_outside(caller.address))
}
