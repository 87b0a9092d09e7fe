//! Where control may go within the code of one object.

use std::collections::{HashMap, HashSet};

use engraft_arch::decode::{StepKind, step_at};

use super::whole;
use crate::object::{ObjectFile, Relocation, SectionKind, Target};

/// Section and offset of an instruction.
pub(super) type Place = (usize, u64);

/// Functions of C libraries that do not return (ISO C, POSIX, the GNU C library).
const NEVER_RETURN: [&str; 14] = [
    "exit",
    "_exit",
    "_Exit",
    "quick_exit",
    "abort",
    "longjmp",
    "siglongjmp",
    "__longjmp_chk",
    "pthread_exit",
    "__assert_fail",
    "__assert",
    "__stack_chk_fail",
    "__chk_fail",
    "__fortify_fail",
];

/// Walks through the code of one object. What cannot be told counts as possible.
pub(super) struct Flow<'a> {
    file: &'a ObjectFile,
    /// By section, whether the function there may return.
    returns: HashMap<usize, bool>,
}

/// What an instruction leads to.
#[derive(Default)]
struct Next {
    places: Vec<Place>,
    /// Out of the function.
    out: bool,
}

impl<'a> Flow<'a> {
    pub(super) fn of(file: &'a ObjectFile) -> Self {
        Self {
            file,
            returns: HashMap::new(),
        }
    }

    /// Whether the way from an instruction may lead to it again.
    pub(super) fn comes_back(&mut self, start: Place) -> bool {
        self.catches(whole(self.file, start.0))
            || self.visit(start, |next| next.places.contains(&start))
    }

    /// Whether a function may return. While that is being found out it counts as possible.
    fn may_return(&mut self, function: usize) -> bool {
        if let Some(known) = self.returns.get(&function) {
            return *known;
        }
        self.returns.insert(function, true);
        let returns = self.catches(function) || self.visit((function, 0), |next| next.out);
        self.returns.insert(function, returns);
        returns
    }

    /// Whether exceptions lead somewhere in a function, which no instruction tells.
    fn catches(&self, function: usize) -> bool {
        self.file.exception_sections().contains_key(&function)
    }

    /// Whether an instruction that can be reached from another one is `found`, or one that may
    /// lead anywhere is reached.
    fn visit(&mut self, start: Place, found: impl Fn(&Next) -> bool) -> bool {
        let mut seen: HashSet<Place> = HashSet::new();
        let mut open = vec![start];
        while let Some(place) = open.pop() {
            let Some(next) = self.follow(place) else {
                return true;
            };
            if found(&next) {
                return true;
            }
            open.extend(next.places.into_iter().filter(|place| seen.insert(*place)));
        }
        false
    }

    /// Where an instruction may lead; `None` if that cannot be told.
    fn follow(&mut self, (section, at): Place) -> Option<Next> {
        let code = &self.file.sections[section];
        let rest = code.bytes.get(usize::try_from(at).ok()?..)?;
        if rest.is_empty() {
            return Some(Next::default());
        }
        let step = step_at(at, rest)?;
        let behind = at + step.length as u64;
        let relocations = &code.relocations;
        let first = relocations.partition_point(|relocation| relocation.offset < at);
        let own = relocations.get(first).filter(|own| own.offset < behind);
        let mut next = Next::default();
        match step.kind {
            StepKind::Return => next.out = true,
            StepKind::Jump { target } => self.go_to(section, own, target, &mut next)?,
            StepKind::Branch { target } => {
                self.go_to(section, own, Some(target), &mut next)?;
                next.places.push((section, behind));
            }
            StepKind::Call { .. } if !self.comes_back_from(own) => {}
            StepKind::Call { .. } | StepKind::SystemCall | StepKind::Other => {
                next.places.push((section, behind));
            }
        }
        Some(next)
    }

    /// Whether a call may return, whose relocation this is.
    fn comes_back_from(&mut self, call: Option<&Relocation>) -> bool {
        match call.map(|relocation| self.file.target(relocation)) {
            Some(Target::Symbol { symbol, .. }) => {
                !NEVER_RETURN.contains(&&*self.file.symbols[symbol].name)
            }
            Some(Target::Place { section, offset: 0 })
                if self.file.sections[section].kind == SectionKind::Code =>
            {
                self.may_return(section)
            }
            _ => true,
        }
    }

    fn go_to(
        &self,
        section: usize,
        own: Option<&Relocation>,
        direct: Option<u64>,
        next: &mut Next,
    ) -> Option<()> {
        match (own.map(|relocation| self.file.target(relocation)), direct) {
            (
                Some(Target::Place {
                    section: to,
                    offset,
                }),
                _,
            ) if self.file.sections[to].kind == SectionKind::Code => {
                // A call in last place, unless it is a part of the function.
                next.out = whole(self.file, to) != whole(self.file, section);
                next.places.push((to, u64::try_from(offset).ok()?));
            }
            (Some(Target::Symbol { .. }), _) => next.out = true,
            (None, Some(direct)) => next.places.push((section, direct)),
            (Some(Target::Place { .. }) | None, _) => {
                next.places = list_labels(self.file, section)?;
            }
        }
        Some(())
    }
}

/// The places in a function that tables hold the addresses of; `None` if there are none.
fn list_labels(file: &ObjectFile, function: usize) -> Option<Vec<Place>> {
    const PC32: u32 = 2;
    let mut labels = Vec::new();
    for (index, table) in file.sections.iter().enumerate() {
        if !table.kind.is_constant() && !table.kind.is_variable() {
            continue;
        }
        for entry in &table.relocations {
            let Target::Place { section, offset } = file.target(entry) else {
                continue;
            };
            if whole(file, section) != whole(file, function) {
                continue;
            }
            let counted = match entry.kind {
                PC32 => entry.offset - find_start(file, index, entry.offset)?,
                _ => 0,
            };
            let label = offset.checked_sub_unsigned(counted)?;
            labels.push((section, u64::try_from(label).ok()?));
        }
    }
    (!labels.is_empty()).then_some(labels)
}

/// Where the table begins that an offset of a section lies in: the last place before it that
/// code refers to. Entries that are distances count from there.
fn find_start(file: &ObjectFile, table: usize, offset: u64) -> Option<u64> {
    let code = file.sections.iter();
    let code = code.filter(|section| section.kind == SectionKind::Code);
    let places = code
        .flat_map(|section| &section.relocations)
        .filter_map(|it| match file.target(it) {
            Target::Place { section, offset } if section == table => u64::try_from(offset).ok(),
            _ => None,
        });
    places.filter(|start| *start <= offset).max()
}
