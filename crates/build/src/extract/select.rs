//! Which sections go into the module: changed functions, and what they newly need.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::compare::{ObjectChange, Reason};
use crate::error::BuildError;
use crate::object::{
    Binding, ObjectFile, Relocation, SectionKind, SymbolKind, Target, is_exception_pointer,
};
use crate::program::Program;

/// What a relocation of a section that is taken along will refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// A section of the same object, taken along as well: section and addend from its start.
    Inside(usize, i64),
    /// A function or variable of the running program: symbol of the object before the change,
    /// addend from it.
    Running(usize, i64),
    /// A global symbol by its name.
    Name(usize, i64),
}

/// The sections to take along, by object and section after the change.
pub(super) struct Selection<'a> {
    program: &'a Program,
    changes: HashMap<usize, &'a ObjectChange>,
    /// Global symbols that objects with changes define now and nobody defined before.
    new_names: HashMap<&'a str, (usize, usize)>,
    pub(super) sections: BTreeMap<(usize, usize), Option<Reason>>,
    queue: VecDeque<(usize, usize)>,
    /// What exceptions need, by object and function.
    exceptions: HashMap<usize, BTreeMap<usize, Vec<usize>>>,
}

impl<'a> Selection<'a> {
    pub(super) fn of(
        program: &'a Program,
        changes: &'a [ObjectChange],
    ) -> Result<Self, BuildError> {
        let mut selection = Self {
            program,
            changes: changes
                .iter()
                .map(|change| (change.object, change))
                .collect(),
            new_names: HashMap::new(),
            sections: BTreeMap::new(),
            queue: VecDeque::new(),
            exceptions: HashMap::new(),
        };
        selection.find_new_names()?;
        for change in changes {
            for (section, reason) in &change.comparison.changed {
                selection.add(change.object, *section, Some(reason.clone()));
            }
        }
        while let Some((object, section)) = selection.queue.pop_front() {
            selection.follow(object, section)?;
        }
        Ok(selection)
    }

    pub(super) fn contains(&self, object: usize, section: usize) -> bool {
        self.sections.contains_key(&(object, section))
    }

    /// What a relocation of a section that is taken along refers to.
    pub(super) fn bind(
        &self,
        object: usize,
        section: usize,
        relocation: &Relocation,
    ) -> Result<Bound, BuildError> {
        let after = self.program.after(object)?;
        let (target, offset) = match after.target(relocation) {
            Target::Symbol { symbol, .. } => return Ok(Bound::Name(symbol, relocation.addend)),
            Target::Place { section, offset } => (section, offset),
        };
        let rest = relocation.addend - relocation.distance;
        let inside = Bound::Inside(target, offset + rest);
        if !self.contains(object, target) {
            return self.bind_running(object, target, offset, rest);
        }
        // A stored address outlives the patch, so it is that of the running program's own
        // function, which leads to whatever is live.
        let pairs = &self.changes[&object].comparison.pairs;
        let is_entry = after
            .symbol_at(target, offset)
            .is_some_and(|(symbol, distance)| {
                distance == 0
                    && after.symbols[symbol].kind == SymbolKind::Function
                    && pairs.symbol(symbol).is_some()
            });
        let takes_address = is_entry
            && !is_branch(after, section, relocation)
            && after.sections[section].kind != SectionKind::ExceptionTable
            && !is_table_entry(after, section, relocation);
        if takes_address {
            self.bind_running(object, target, offset, rest)
        } else {
            Ok(inside)
        }
    }

    fn bind_running(
        &self,
        object: usize,
        section: usize,
        offset: i64,
        rest: i64,
    ) -> Result<Bound, BuildError> {
        let after = self.program.after(object)?;
        let found = after.symbol_at(section, offset).or_else(|| {
            let first = after.first_symbol(section)?;
            Some((first, offset))
        });
        let pairs = &self.changes[&object].comparison.pairs;
        let running = found.and_then(|(symbol, distance)| {
            Some(Bound::Running(pairs.symbol(symbol)?, distance + rest))
        });
        running.ok_or_else(|| {
            BuildError::new(format!(
                "{}: what '{}' was before the change cannot be told",
                after.name,
                after.title(section)
            ))
        })
    }

    fn find_new_names(&mut self) -> Result<(), BuildError> {
        let names = self.program.names()?;
        for object in self.changes.keys().copied().collect::<Vec<_>>() {
            let after = self.program.after(object)?;
            for symbol in &after.symbols {
                if symbol.binding != Binding::Local
                    && let Some((section, _)) = symbol.place
                    && names.global(&symbol.name).is_none()
                {
                    self.new_names.insert(&symbol.name, (object, section));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, object: usize, section: usize, reason: Option<Reason>) {
        if !self.contains(object, section) {
            self.sections.insert((object, section), reason);
            self.queue.push_back((object, section));
        }
    }

    fn follow(&mut self, object: usize, section: usize) -> Result<(), BuildError> {
        let after = self.program.after(object)?;
        for relocation in &after.sections[section].relocations {
            match after.target(relocation) {
                Target::Place {
                    section: target, ..
                } => self.follow_place(object, section, target)?,
                Target::Symbol { symbol, .. } => {
                    let name = &*after.symbols[symbol].name;
                    if let Some((other, section)) = self.new_names.get(name).copied() {
                        self.follow_place(other, section, section)?;
                    }
                }
            }
        }
        let exceptions = self
            .exceptions
            .entry(object)
            .or_insert_with(|| after.exception_sections());
        for target in exceptions.get(&section).cloned().unwrap_or_default() {
            self.follow_place(object, section, target)?;
        }
        Ok(())
    }

    fn follow_place(
        &mut self,
        object: usize,
        from: usize,
        target: usize,
    ) -> Result<(), BuildError> {
        let after = self.program.after(object)?;
        let comparison = &self.changes[&object].comparison;
        let paired = comparison.pairs.section(target).is_some();
        let kind = after.sections[target].kind;
        let title = after.title(target);
        let refuse = |what: &str, help: &str| {
            let message = format!("{}: '{}' {what}", after.name, after.title(from));
            Err(BuildError::new(message).with_help(help))
        };
        match kind {
            SectionKind::Code if paired => {}
            SectionKind::Code => self.add(object, target, Some(Reason::Added)),
            SectionKind::Strings | SectionKind::Constants | SectionKind::ExceptionTable => {
                self.add(object, target, None);
            }
            SectionKind::ReadOnly | SectionKind::RelocatedReadOnly => {
                let own = after.first_symbol(target).is_none()
                    || !paired
                    || comparison.constants.contains(&target)
                    || is_function_name(title);
                if own {
                    self.add(object, target, None);
                }
            }
            SectionKind::Data | SectionKind::Zero | SectionKind::Tls => {
                let uncertain = &comparison.pairs.uncertain;
                if after.sections[target]
                    .defines
                    .iter()
                    .any(|symbol| uncertain.contains(symbol))
                {
                    return refuse(
                        &format!(
                            "uses the static variable '{title}', and which variable that was \
                             before the change cannot be told"
                        ),
                        "give the variables of that name different names in both versions",
                    );
                }
                if is_exception_pointer(title) || comparison.constants.contains(&target) {
                    self.add(object, target, None);
                } else if !paired && kind == SectionKind::Tls {
                    return refuse(
                        &format!("uses '{title}', a new thread-local variable"),
                        "keep it in a shadow variable instead (klp_shadow_get_or_alloc)",
                    );
                } else if !paired {
                    self.add(object, target, None);
                }
            }
            SectionKind::Startup
            | SectionKind::EhFrame
            | SectionKind::LinkTimeCode
            | SectionKind::Other
            | SectionKind::Ignored => {
                let name = &after.sections[target].name;
                return refuse(
                    &format!("refers to section '{name}', which cannot be moved"),
                    "replace the function by hand, in a livepatch in C",
                );
            }
        }
        Ok(())
    }
}

/// A direct call or jump.
pub(super) fn is_branch(object: &ObjectFile, section: usize, relocation: &Relocation) -> bool {
    const PC32: u32 = 2;
    const PLT32: u32 = 4;
    let section = &object.sections[section];
    if section.kind != SectionKind::Code {
        return false;
    }
    let before = &section.bytes[..(relocation.offset as usize).min(section.bytes.len())];
    relocation.kind == PLT32
        || relocation.kind == PC32 && matches!(before, [.., 0x0f, 0x80..=0x8f] | [.., 0xe8 | 0xe9])
}

/// An entry of a jump table that counts from the table's start.
fn is_table_entry(object: &ObjectFile, section: usize, relocation: &Relocation) -> bool {
    const PC32: u32 = 2;
    object.sections[section].kind.is_constant() && relocation.kind == PC32
}

/// The arrays behind `__func__` and its like: constants that nobody compares the address of.
fn is_function_name(name: &str) -> bool {
    let base = name.split('.').next().unwrap_or(name);
    ["__func__", "__FUNCTION__", "__PRETTY_FUNCTION__"].contains(&base)
}
