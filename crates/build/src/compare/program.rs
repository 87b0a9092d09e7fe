//! What differs between two versions of the whole target.

use super::{Comparison, Compilation, compare};
use crate::error::BuildError;
use crate::program::Program;

/// What differs in one object of the target.
#[derive(Clone, Debug)]
pub(crate) struct ObjectChange {
    /// Position of the object in link order.
    pub object: usize,
    /// What differs.
    pub comparison: Comparison,
}

/// Compares the objects whose files differ; most differ in debugging information only. Of
/// functions that several objects bring along (COMDAT groups), only the one that was linked
/// counts.
///
/// # Errors
///
/// When an object cannot be read.
pub(crate) fn compare_program(program: &Program) -> Result<Vec<ObjectChange>, BuildError> {
    let mut changes = Vec::new();
    for object in program.differing() {
        let after = program.after(object)?;
        let mut comparison = compare(
            program.before(object)?,
            after,
            Compilation::of(program, object),
        );
        let mut unlinked = Vec::new();
        let sections = comparison.changed.keys().chain(&comparison.added);
        for section in sections.chain(&comparison.constants) {
            if !is_linked(program, object, *section, &comparison)? {
                unlinked.push(*section);
            }
        }
        comparison
            .changed
            .retain(|section, _| !unlinked.contains(section));
        comparison
            .added
            .retain(|section| !unlinked.contains(section));
        comparison
            .constants
            .retain(|section| !unlinked.contains(section));
        changes.push(ObjectChange { object, comparison });
    }
    Ok(changes)
}

/// Whether the linker took a function or constant from this object.
fn is_linked(
    program: &Program,
    object: usize,
    section: usize,
    comparison: &Comparison,
) -> Result<bool, BuildError> {
    let after = program.after(object)?;
    let Some(symbol) = comparison.pairs.section(section).and_then(|old| {
        let before = program.before(object).ok()?;
        before
            .first_symbol(old)
            .map(|symbol| &before.symbols[symbol])
    }) else {
        return Ok(true);
    };
    if after.sections[section].group.is_none() && symbol.binding != crate::object::Binding::Weak {
        return Ok(true);
    }
    let chosen = program.names()?.global(&symbol.name);
    Ok(chosen.is_none_or(|definition| definition.object == object))
}
