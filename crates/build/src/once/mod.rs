//! Functions that nothing but `main` leads to, and only once in a run: a program that runs is
//! likely to be past them, so that a patch for them changes nothing.

mod flow;

use engraft_arch::decode::{StepKind, step_at};

use crate::compare::{ObjectChange, hot_part};
use crate::error::BuildError;
use crate::object::{Binding, ObjectFile, Relocation, SectionKind, Target};
use crate::program::Program;
use crate::report::Named;
use flow::Flow;

/// Object and section of a function.
type Function = (usize, usize);

/// The changed functions to which only `main` leads, outside of loops, in both versions.
///
/// # Errors
///
/// When an object cannot be read.
pub(crate) fn find_once(
    program: &Program,
    changes: &[ObjectChange],
) -> Result<Vec<Named>, BuildError> {
    let Some(main) = program.names()?.global("main") else {
        return Ok(Vec::new());
    };
    let mut once: Vec<Named> = Vec::new();
    for change in changes {
        let after = program.after(change.object)?;
        for section in change.comparison.changed.keys() {
            let new = whole(after, *section);
            let Some(old) = change.comparison.pairs.section(new) else {
                continue;
            };
            let before = Search::new(program, Version::Before, main.object);
            let later = Search::new(program, Version::After, main.object);
            let is_once = before.finds_main_only((change.object, old))?
                && later.finds_main_only((change.object, new))?;
            let named = Named {
                object: after.name.clone(),
                name: after.title(new).to_owned(),
            };
            if is_once && !once.contains(&named) {
                once.push(named);
            }
        }
    }
    Ok(once)
}

#[derive(Clone, Copy)]
enum Version {
    Before,
    After,
}

struct Search<'a> {
    program: &'a Program,
    version: Version,
    /// The object that defines `main`.
    main: usize,
    seen: Vec<Function>,
    /// `main` leads to it.
    reached: bool,
}

impl<'a> Search<'a> {
    fn new(program: &'a Program, version: Version, main: usize) -> Self {
        Self {
            program,
            version,
            main,
            seen: Vec::new(),
            reached: false,
        }
    }

    fn finds_main_only(mut self, (object, section): Function) -> Result<bool, BuildError> {
        Ok(self.runs_once(object, section)? && self.reached)
    }

    /// Whether all that refers to a function are calls from `main`, or from functions of which
    /// the same is true. Callers are looked for in its own object and that of `main` only.
    fn runs_once(&mut self, object: usize, function: usize) -> Result<bool, BuildError> {
        if self.seen.contains(&(object, function)) {
            return Ok(true);
        }
        self.seen.push((object, function));
        let file = self.file(object)?;
        let to_it = |file: &ObjectFile, relocation: &Relocation| matches!(file.target(relocation), Target::Place { section, .. } if section == function);
        if !self.only_once(object, &to_it, Some(function))? {
            return Ok(false);
        }
        let defines = file.sections[function].defines.iter();
        let symbols = defines.map(|symbol| &file.symbols[*symbol]);
        for symbol in symbols.filter(|symbol| symbol.binding != Binding::Local) {
            let by_name = |file: &ObjectFile, relocation: &Relocation| {
                matches!(file.target(relocation), Target::Symbol { symbol: other, .. }
                    if file.symbols[other].name == symbol.name)
            };
            for user in self.users(&symbol.name)? {
                if user != self.main || !self.only_once(user, &by_name, None)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether every such reference in an object is a call that is reached once.
    fn only_once(
        &mut self,
        object: usize,
        is_meant: &dyn Fn(&ObjectFile, &Relocation) -> bool,
        function: Option<usize>,
    ) -> Result<bool, BuildError> {
        let file = self.file(object)?;
        for (index, section) in file.sections.iter().enumerate() {
            let caller = whole(file, index);
            if matches!(
                section.kind,
                SectionKind::EhFrame | SectionKind::ExceptionTable | SectionKind::Ignored
            ) || Some(caller) == function
            {
                continue;
            }
            for relocation in &section.relocations {
                if !is_meant(file, relocation) {
                    continue;
                }
                let Some(at) = find_call(file, index, relocation) else {
                    return Ok(false);
                };
                let is_main = object == self.main && file.title(caller) == "main";
                self.reached |= is_main;
                let once = match is_main {
                    true => !Flow::of(file).comes_back((index, at)),
                    false => self.runs_once(object, caller)?,
                };
                if !once {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Objects that refer to a name without defining it.
    fn users(&self, name: &str) -> Result<Vec<usize>, BuildError> {
        let mut users = self.program.names()?.users(name).to_vec();
        if matches!(self.version, Version::After) {
            let differing: Vec<usize> = self.program.differing().collect();
            users.retain(|user| !differing.contains(user));
            for object in differing {
                let symbols = &self.program.after(object)?.symbols;
                if symbols
                    .iter()
                    .any(|symbol| symbol.place.is_none() && symbol.name == name)
                {
                    users.push(object);
                }
            }
        }
        Ok(users)
    }

    fn file(&self, object: usize) -> Result<&'a ObjectFile, BuildError> {
        match self.version {
            Version::Before => self.program.before(object),
            Version::After => self.program.after(object),
        }
    }
}

/// The function that a section is, or is the cold part of.
fn whole(file: &ObjectFile, section: usize) -> usize {
    hot_part(file, section).unwrap_or(section)
}

/// Where the call or jump begins that a relocation belongs to; `None` if it is something else.
fn find_call(file: &ObjectFile, section: usize, relocation: &Relocation) -> Option<u64> {
    let section = &file.sections[section];
    if section.kind != SectionKind::Code {
        return None;
    }
    let mut at = 0;
    while at <= relocation.offset {
        let step = step_at(at, section.bytes.get(usize::try_from(at).ok()?..)?)?;
        let next = at + step.length as u64;
        if relocation.offset < next {
            let goes_there = matches!(step.kind, StepKind::Call { .. } | StepKind::Jump { .. });
            return goes_there.then_some(at);
        }
        at = next;
    }
    None
}
