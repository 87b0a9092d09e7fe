//! Why a module does not fit the running program, for people.

use nix::errno::Errno;

use super::pre::{PreIndex, SymbolId};
use super::program::Program;
use super::reason::Reason;
use crate::error::Error;

const WAY_OUT: &str = "build the patch from the source that this program was built from, with \
                       the same compiler and flags";

/// Candidates that a message lists.
const SHOWN: usize = 8;

/// Why matching failed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// What is at a function's place is not what the patch was built from.
    Differs(SymbolId, u64, Reason),
    /// No function of the program is the one that the patch was built from; the nearest one.
    Missing(SymbolId, Option<u64>, Reason),
    /// Several places match a function alike.
    Ambiguous(SymbolId, Vec<u64>),
    /// Two functions that are replaced are one.
    Folded(SymbolId, SymbolId, u64),
}

impl Refusal {
    pub(super) fn explain(&self, pre: &PreIndex<'_>, program: &Program<'_>) -> Error {
        let object = &program.object.name;
        let name = |id: SymbolId| {
            let symbol = pre.symbol(id);
            match symbol.file.as_deref().filter(|file| !file.is_empty()) {
                Some(file) => format!("'{}' ({file})", symbol.name),
                None => format!("'{}'", symbol.name),
            }
        };
        let describe = |address: u64| match program.objects.describe(address) {
            Some(text) => format!("{address:#x}, {text}"),
            None => format!("{address:#x}"),
        };
        let context = |id: SymbolId| format!("function {} of {object}", name(id));
        match self {
            Self::Differs(id, place, reason) => {
                let message = format!(
                    "what the program has at {} differs from the source that the patch was built \
                     from: {reason}",
                    describe(*place)
                );
                Error::other(context(*id), Errno::ENOEXEC, message).with_help(WAY_OUT)
            }
            Self::Missing(id, nearest, reason) => {
                let nearest = nearest.map_or_else(String::new, |place| {
                    format!(", the nearest one being at {}", describe(place))
                });
                let message = format!(
                    "the program has no function that is equal to the source that the patch was \
                     built from{nearest}: {reason}"
                );
                Error::other(context(*id), Errno::ENOEXEC, message).with_help(WAY_OUT)
            }
            Self::Ambiguous(id, places) => {
                let mut list: Vec<String> = places
                    .iter()
                    .take(SHOWN)
                    .map(|place| describe(*place))
                    .collect();
                if places.len() > SHOWN {
                    list.push(format!("{} more", places.len() - SHOWN));
                }
                let message = format!(
                    "{} places in the program are equal to it, and nothing tells which one it is: {}",
                    places.len(),
                    list.join("; ")
                );
                Error::other(context(*id), Errno::EINVAL, message)
                    .with_help("install the object's debug symbols, which name them")
            }
            Self::Folded(one, other, address) => {
                let message = format!(
                    "the linker has made it one with {} at {address:#x}, so that they cannot be \
                     replaced separately",
                    name(*other)
                );
                Error::other(context(*one), Errno::EINVAL, message)
                    .with_help("replace their callers instead")
            }
        }
    }
}
