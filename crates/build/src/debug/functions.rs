//! Functions: where their source is, where their code is, what is inlined into them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use gimli::{DwTag, Dwarf, constants as dw};

use super::{Attributes, DebugInfo, ReadUnit, Slice, place_of, read_units};
use crate::error::BuildError;
use crate::tree::normalize;

/// All functions of an object, by the offsets of their entries.
#[derive(Debug, Default)]
pub(crate) struct Functions {
    all: BTreeMap<usize, Function>,
    by_name: HashMap<String, Vec<usize>>,
    by_section: HashMap<usize, usize>,
}

/// What is known of a function.
#[derive(Debug, Default)]
pub(crate) struct Function {
    /// Its name as the linker knows it, if it was compiled by itself.
    pub(crate) name: Option<String>,
    /// File and line, from 1, of its declaration.
    pub(crate) declared: Option<(PathBuf, u64)>,
    /// The section that its code begins in.
    section: Option<usize>,
    /// The entry that says the rest.
    origin: Option<usize>,
    /// Entries of the functions that are inlined into it, at any depth.
    inlined: BTreeSet<usize>,
}

impl Functions {
    /// Reads the functions of an object.
    ///
    /// # Errors
    ///
    /// When the debugging information is damaged.
    pub(crate) fn read(info: &DebugInfo) -> Result<Self, BuildError> {
        let dwarf = info.dwarf();
        let mut functions = Self::default();
        for unit in &read_units(&dwarf)? {
            functions.read_unit(&dwarf, unit)?;
        }
        functions.complete();
        Ok(functions)
    }

    fn read_unit<'d>(
        &mut self,
        dwarf: &Dwarf<Slice<'d>>,
        unit: &ReadUnit<'d>,
    ) -> Result<(), BuildError> {
        let wanted = |tag| matches!(tag, dw::DW_TAG_subprogram | dw::DW_TAG_inlined_subroutine);
        walk_functions(dwarf, unit, wanted, |function, tag, attributes| {
            let origin = attributes.origin_offset();
            if tag == dw::DW_TAG_subprogram {
                let begin = attributes.begin(dwarf, unit)?;
                let read = Function {
                    name: read_name(dwarf, unit, attributes)?,
                    declared: read_declaration(dwarf, unit, attributes),
                    section: begin.map(|address| place_of(address).0),
                    origin,
                    inlined: BTreeSet::new(),
                };
                self.all.insert(function, read);
            } else if let (Some(origin), Some(parent)) = (origin, self.all.get_mut(&function)) {
                parent.inlined.insert(origin);
            }
            Ok(())
        })
    }

    /// Gives functions what is said by the entries that they come from.
    fn complete(&mut self) {
        let offsets: Vec<usize> = self.all.keys().copied().collect();
        for offset in offsets {
            let (mut name, mut declared) = (None, None);
            let mut seen = HashSet::new();
            let mut next = Some(offset);
            while let Some(at) = next.filter(|at| seen.insert(*at))
                && let Some(function) = self.all.get(&at)
            {
                name = name.or_else(|| function.name.clone());
                declared = declared.or_else(|| function.declared.clone());
                next = function.origin;
            }
            if let Some(function) = self.all.get_mut(&offset) {
                if let Some(section) = function.section {
                    self.by_section.entry(section).or_insert(offset);
                }
                if let Some(name) = &name {
                    self.by_name.entry(name.clone()).or_default().push(offset);
                }
                (function.name, function.declared) = (name, declared);
            }
        }
    }

    /// The function whose code a section begins with.
    pub(crate) fn in_section(&self, section: usize) -> Option<&Function> {
        self.all.get(self.by_section.get(&section)?)
    }

    /// Functions of that name, several of which may be one.
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = &Function> {
        let offsets = self.by_name.get(name).into_iter().flatten();
        offsets.filter_map(|offset| self.all.get(offset))
    }

    /// Names of the functions that are inlined into one.
    pub(crate) fn inlined_into<'a>(
        &'a self,
        function: &'a Function,
    ) -> impl Iterator<Item = &'a str> {
        let inlined = function.inlined.iter();
        inlined.filter_map(|offset| self.all.get(offset)?.name.as_deref())
    }
}

/// Visits entries of functions and what is in them: those of the `wanted` tags, each with the
/// offset of the function that it is or lies in. What lies in none is left out.
pub(crate) fn walk_functions<'d>(
    dwarf: &Dwarf<Slice<'d>>,
    unit: &ReadUnit<'d>,
    wanted: impl Fn(DwTag) -> bool,
    mut visit: impl FnMut(usize, DwTag, &Attributes<'d>) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let mut entries = unit.unit.entries_raw(None)?;
    let mut parents: Vec<(isize, usize)> = Vec::new();
    while !entries.is_empty() {
        let offset = unit.start + entries.next_offset().0;
        let depth = entries.next_depth();
        let Some(abbreviation) = entries.read_abbreviation()? else {
            continue;
        };
        while parents.last().is_some_and(|last| last.0 >= depth) {
            parents.pop();
        }
        let (tag, specifications) = (abbreviation.tag(), abbreviation.attributes());
        if !wanted(tag) {
            entries.skip_attributes(specifications)?;
            continue;
        }
        let attributes = Attributes::read(&mut entries, specifications, unit, dwarf)?;
        if tag == dw::DW_TAG_subprogram {
            parents.push((depth, offset));
        }
        if let Some((_, function)) = parents.last() {
            visit(*function, tag, &attributes)?;
        }
    }
    Ok(())
}

fn read_name<'d>(
    dwarf: &Dwarf<Slice<'d>>,
    unit: &ReadUnit<'d>,
    attributes: &Attributes<'d>,
) -> Result<Option<String>, BuildError> {
    let name = attributes.linkage_name.or(attributes.name);
    let text = name
        .map(|name| dwarf.attr_string(&unit.unit, name))
        .transpose()?;
    Ok(text.map(|text| text.to_string_lossy().into_owned()))
}

fn read_declaration<'d>(
    dwarf: &Dwarf<Slice<'d>>,
    unit: &ReadUnit<'d>,
    attributes: &Attributes<'d>,
) -> Option<(PathBuf, u64)> {
    let header = unit.unit.line_program.as_ref()?.header();
    let file = header.file(attributes.file)?;
    let text = |value| {
        let text = dwarf.attr_string(&unit.unit, value).ok()?;
        Some(text.to_string_lossy().into_owned())
    };
    let directory = unit.unit.comp_dir.map_or_else(String::new, |directory| {
        directory.to_string_lossy().into_owned()
    });
    let below = file.directory(header).and_then(text).unwrap_or_default();
    let path = Path::new(&below).join(text(file.path_name())?);
    Some((normalize(Path::new(&directory), &path), attributes.line?))
}
