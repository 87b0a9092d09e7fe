//! Which code a thread must not be in, or return into, when it is switched.

use serde::{Deserialize, Serialize};

use crate::patch::{Code, Replacement};
use crate::route::{Entry, function_stacks};
use crate::state::State;
use crate::target::Verdict;
use crate::transition::Universe;

/// Code that the transition leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForbiddenRange {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Old name of the function, for reports.
    pub old_name: String,
    /// Entry of the original function.
    pub old_entry: u64,
    /// The range belongs to the original function: a copy of its first instructions that
    /// was displaced by the redirection belongs to it, too.
    pub original: bool,
}

/// An address found on a thread's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The instruction that the thread executes next, also below a signal frame.
    Exact(u64),
    /// A return address: the call lies before it, and may be the last instruction of its
    /// function.
    Return(u64),
    /// A word that may be either.
    Either(u64),
}

impl Address {
    fn lies_in(self, range: &ForbiddenRange) -> bool {
        let contains = |a: u64| a.checked_sub(range.start).is_some_and(|o| o < range.len);
        match self {
            Self::Exact(a) => contains(a),
            Self::Return(a) => a.checked_sub(1).is_some_and(contains),
            Self::Either(a) => contains(a) || a.checked_sub(1).is_some_and(contains),
        }
    }
}

/// Verdict about a stack that was read with certainty.
#[must_use]
pub fn check_stack(
    forbidden: &[ForbiddenRange],
    stack: impl IntoIterator<Item = Address>,
) -> Verdict {
    for address in stack {
        if let Some(hit) = forbidden.iter().find(|range| address.lies_in(range)) {
            return Verdict::OnStack(hit.old_name.clone());
        }
    }
    Verdict::Switched
}

/// The ranges for the current direction; empty when no thread is to be switched.
///
/// Towards the unpatched universe: the patch's own code, which for a nop is the original
/// function. Towards the patched one: what was active before, that is the entry below, or
/// the original function when there is none. An entry that is not on top changes nothing
/// for anybody towards the patched universe.
#[must_use]
pub fn forbidden(state: &State) -> Vec<ForbiddenRange> {
    let Some(transition) = state.transition.as_ref().filter(|t| t.is_selecting()) else {
        return Vec::new();
    };
    let mut ranges = Vec::new();
    for stack in function_stacks(state).values() {
        let Some(index) = stack.iter().position(|e| e.patch == transition.patch) else {
            continue;
        };
        match transition.target {
            Universe::Unpatched => push_code(&mut ranges, &stack[index], &stack[index]),
            Universe::Patched if index + 1 < stack.len() => {}
            Universe::Patched => {
                let entry = &stack[index];
                match index.checked_sub(1) {
                    Some(below) => push_code(&mut ranges, entry, &stack[below]),
                    None => push_parts(&mut ranges, entry, entry.old, true),
                }
            }
        }
    }
    ranges
}

fn push_code(ranges: &mut Vec<ForbiddenRange>, entry: &Entry<'_>, active: &Entry<'_>) {
    match &active.func.replacement {
        Replacement::Nop => push_parts(ranges, entry, active.old, true),
        Replacement::New(code) => push_parts(ranges, entry, code, false),
    }
}

fn push_parts(ranges: &mut Vec<ForbiddenRange>, entry: &Entry<'_>, code: &Code, original: bool) {
    ranges.extend(code.parts().map(|part| ForbiddenRange {
        start: part.start,
        len: part.len,
        old_name: entry.func.old_name.clone(),
        old_entry: entry.old.entry(),
        original,
    }));
}
