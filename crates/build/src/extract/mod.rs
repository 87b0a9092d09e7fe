//! From what differs to relocatable objects: changed functions, what they newly need, and how
//! the rest is bound to the running program.

mod frames;
mod pre_code;
mod select;
mod write;

use std::collections::BTreeMap;

use engraft_module::PreObject;
use serde::Serialize;

use crate::compare::{ObjectChange, Reason, hot_part};
use crate::error::{BuildError, Context as _};
use crate::object::{ObjectFile, SectionKind, is_exception_pointer};
use crate::program::Program;
use pre_code::PreCodeBuilder;
use select::Selection;
use write::ObjectWriter;

/// What goes into a patch module for one object of the target.
#[derive(Clone, Debug)]
pub(crate) struct Extracted {
    /// Relocatable ELF objects.
    pub objects: Vec<Vec<u8>>,
    /// The running program as it must be.
    pub pre_code: PreObject,
    /// The functions that are replaced, and by what.
    pub replaced: Vec<Replaced>,
    /// New functions and variables, by object and name.
    pub added: Vec<(String, String)>,
}

/// One function that is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// Name of the old function.
    pub name: String,
    /// Which one of that name, 0 when it is the only one.
    pub sympos: u64,
    /// The object that it comes from.
    pub object: String,
    /// Why it is replaced.
    pub reason: Reason,
    /// Global symbol of the replacement.
    #[serde(skip)]
    pub symbol: String,
}

/// Extracts all changes.
///
/// # Errors
///
/// When changed code refers to something that cannot be taken along or bound.
pub(crate) fn extract(
    program: &Program,
    changes: &[ObjectChange],
    object_name: Option<String>,
) -> Result<Extracted, BuildError> {
    let selection = Selection::of(program, changes)?;
    let mut pre_code = PreCodeBuilder::new(program, object_name);
    let mut extracted = Extracted {
        objects: Vec::new(),
        pre_code: PreObject::default(),
        replaced: Vec::new(),
        added: Vec::new(),
    };
    let mut by_object: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (object, section) in selection.sections.keys() {
        by_object.entry(*object).or_default().push(*section);
    }
    for (object, sections) in by_object {
        extract_object(
            program,
            changes,
            &selection,
            &mut pre_code,
            object,
            &sections,
            &mut extracted,
        )
        .context(|| format!("object '{}'", program.name(object)))?;
    }
    extracted.pre_code = pre_code.finish()?;
    Ok(extracted)
}

fn extract_object(
    program: &Program,
    changes: &[ObjectChange],
    selection: &Selection<'_>,
    pre_code: &mut PreCodeBuilder<'_>,
    object: usize,
    sections: &[usize],
    extracted: &mut Extracted,
) -> Result<(), BuildError> {
    let after = program.after(object)?;
    let before = program.before(object)?;
    let Some(change) = changes.iter().find(|change| change.object == object) else {
        return Err(BuildError::new(
            "it was selected although nothing in it differs",
        ));
    };
    let pairs = &change.comparison.pairs;
    let mut writer = ObjectWriter::new(after, pairs);
    for section in sections {
        writer.add_section(*section);
        let title = after.title(*section).to_owned();
        let kind = after.sections[*section].kind;
        match &selection.sections[&(object, *section)] {
            Some(Reason::Added) => extracted.added.push((after.name.clone(), title)),
            None if kind.is_variable() && !is_exception_pointer(&title) => {
                extracted.added.push((after.name.clone(), title));
            }
            Some(reason) if hot_part(after, *section).is_none() => {
                let functions = after.functions_in(*section);
                if functions.is_empty() {
                    let message = format!("section '{title}' holds code without a name");
                    return Err(BuildError::new(message)
                        .with_help("code written in assembly needs a symbol of its own"));
                }
                for function in functions {
                    let Some(old) = pairs.symbol(function) else {
                        let name = after.symbols[function].name.clone();
                        extracted.added.push((after.name.clone(), name));
                        continue;
                    };
                    let old = pre_code.replace(object, old, &list_cold_parts(before, old))?;
                    let symbol = format!("engraft_new_{}", extracted.replaced.len());
                    writer.add_alias(function, &symbol)?;
                    extracted.replaced.push(Replaced {
                        name: old.old_name,
                        sympos: old.old_sympos,
                        object: after.name.clone(),
                        reason: reason.clone(),
                        symbol,
                    });
                }
            }
            _ => {}
        }
    }
    let functions: Vec<usize> = sections
        .iter()
        .copied()
        .filter(|section| after.sections[*section].kind == SectionKind::Code)
        .collect();
    let frames = frames::select(after, &functions);
    let mut bind = |section: usize, relocation: &crate::object::Relocation| {
        let bound = selection.bind(object, section, relocation)?;
        write::resolve(program, pre_code, object, bound)
    };
    for section in sections {
        writer.add_relocations(*section, &mut bind)?;
    }
    writer.add_frames(&frames, &mut bind)?;
    extracted.objects.push(writer.finish()?);
    Ok(())
}

/// Symbols of the parts that were split off a function.
fn list_cold_parts(object: &ObjectFile, function: usize) -> Vec<usize> {
    let hot = object.symbols[function].place.map(|(section, _)| section);
    (0..object.sections.len())
        .filter(|part| hot.is_some() && hot_part(object, *part) == hot)
        .filter_map(|part| object.first_symbol(part))
        .collect()
}
