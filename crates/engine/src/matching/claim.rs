//! What one reference says a symbol is.

use super::program::{Binding, Found};
use super::reason::Reason;

/// What a symbol must be if a match is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) binding: Binding,
    /// Where the reference is.
    pub(super) at: u64,
}

impl Claim {
    /// A function of the object itself.
    pub(super) fn function(address: u64) -> Self {
        Self {
            binding: Binding::direct(Found::Address(address)),
            at: address,
        }
    }

    /// What both say together: one symbol stands for one thing, wherever it is used.
    pub(super) fn agree(&self, other: &Self, name: &str) -> Result<Self, Reason> {
        let Some(found) = unify(self.binding, other.binding) else {
            return Err(Reason::Disagreement {
                name: name.to_owned(),
                one: self.binding.found.to_string(),
                one_at: self.at,
                other: other.binding.found.to_string(),
                other_at: other.at,
            });
        };
        let binding = Binding {
            found,
            by_name: self.binding.by_name,
            canonical: self.binding.canonical.or(other.binding.canonical),
        };
        Ok(Self { binding, ..*self })
    }
}

fn unify(one: Binding, other: Binding) -> Option<Found> {
    let by_name = one.by_name && other.by_name;
    match (one.found, other.found) {
        (one, other) if one == other => Some(one),
        // An ifunc is known by its resolver until its first call.
        (Found::Ifunc(_), known @ Found::Address(_))
        | (known @ Found::Address(_), Found::Ifunc(_))
            if by_name =>
        {
            Some(known)
        }
        _ => None,
    }
}
