//! Why a function differs whose own source does not: what was inlined into it, what it calls, or
//! what else it is compiled from.
//!
//! Debugging information says where each function's source is, and both versions of that source
//! say whether it was edited. Where either is missing, it stays at what the comparison found.

mod body;
mod edits;
mod sources;

use std::collections::BTreeSet;

pub use sources::Sources;

use crate::compare::{Comparison, ObjectChange, Reason};
use crate::debug::{DebugInfo, Functions};
use crate::error::BuildError;
use crate::object::{ObjectFile, Target};
use crate::program::Program;

/// Replaces reasons by better ones where the source tells.
///
/// # Errors
///
/// When an object cannot be read.
pub(crate) fn explain(
    program: &Program,
    sources: &Sources,
    changes: &mut [ObjectChange],
) -> Result<(), BuildError> {
    for change in changes {
        let comparison = &mut change.comparison;
        if comparison.changed.is_empty() {
            continue;
        }
        let debug = (
            program.debug_before(change.object)?,
            program.debug_after(change.object)?,
        );
        let (Some(before), Some(after)) = debug else {
            continue;
        };
        let read = |info: &DebugInfo| Functions::read(info);
        let (Ok(before), Ok(after)) = (read(&before), read(&after)) else {
            continue;
        };
        let object = Object {
            sources,
            before,
            after,
            files: [
                program.before(change.object)?,
                program.after(change.object)?,
            ],
        };
        let better: Vec<(usize, Reason)> = comparison
            .changed
            .iter()
            .filter_map(|(section, reason)| {
                Some((*section, object.explain(comparison, *section, reason)?))
            })
            .collect();
        comparison.changed.extend(better);
    }
    Ok(())
}

/// Both versions of an object: what they were compiled from, and what came of it.
struct Object<'a> {
    sources: &'a Sources,
    before: Functions,
    after: Functions,
    files: [&'a ObjectFile; 2],
}

impl Object<'_> {
    /// A better reason for a function that differs, if there is one.
    fn explain(&self, comparison: &Comparison, section: usize, found: &Reason) -> Option<Reason> {
        if matches!(found, Reason::Constant(_) | Reason::Added) {
            return None;
        }
        let old = comparison.pairs.section(section)?;
        let versions = [
            self.before.in_section(old)?,
            self.after.in_section(section)?,
        ];
        if self.is_edited(versions[0].name.as_deref()?)? {
            return None;
        }
        let inlined: BTreeSet<&str> = self
            .before
            .inlined_into(versions[0])
            .chain(self.after.inlined_into(versions[1]))
            .collect();
        if let Some(name) = inlined
            .into_iter()
            .find(|name| self.is_edited(name) == Some(true))
        {
            return Some(Reason::Inlined(name.to_owned()));
        }
        if *found != Reason::Changed {
            return None;
        }
        let callee = [old, section]
            .into_iter()
            .zip(self.files)
            .find_map(|(section, file)| self.find_edited_callee(file, section));
        Some(callee.map_or(Reason::Surroundings, Reason::Callee))
    }

    /// Whether the source of a function was edited, if that is known.
    fn is_edited(&self, name: &str) -> Option<bool> {
        let mut known = self.before.named(name).filter_map(|function| {
            let (file, line) = function.declared.as_ref()?;
            self.sources.is_edited(file, *line)
        });
        let first = known.next()?;
        Some(first || known.any(|edited| edited))
    }

    /// A function of this object that a section refers to and whose source was edited. A clone
    /// (`name.isra.0`) counts as the function that it was made from.
    fn find_edited_callee(&self, file: &ObjectFile, section: usize) -> Option<String> {
        file.sections[section]
            .relocations
            .iter()
            .find_map(|relocation| {
                let Target::Place {
                    section: callee, ..
                } = file.target(relocation)
                else {
                    return None;
                };
                let title = file.title(callee);
                let name = title.split('.').next().unwrap_or(title);
                let edited = callee != section && self.is_edited(name) == Some(true);
                edited.then(|| name.to_owned())
            })
    }
}
