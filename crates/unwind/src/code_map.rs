//! All code of one address space, and how each piece of it unwinds.

use std::ops::Range;
use std::sync::Arc;

use crate::{Alias, Cfi, Fixed};

/// Code with call frame information, or without: the executable, a library, the vDSO, a
/// patch module, the runtime.
#[derive(Clone, Debug)]
pub struct CodeObject {
    /// What to call it in a [`crate::Reason`].
    pub name: Arc<str>,
    /// Its executable mappings.
    pub text: Vec<Range<u64>>,
    /// Its call frame information.
    pub cfi: Option<Arc<Cfi>>,
    /// Functions, sorted, that are entered at their start only: where one has no call frame
    /// information, its instructions tell where its return address is.
    pub functions: Arc<[Range<u64>]>,
    /// Functions that return to nobody: `_start`, `clone`, `clone3`, `__clone` and other
    /// thread start trampolines. A walk that reaches one by a return address has reached the
    /// bottom, whether it has call frame information or not.
    pub entries: Vec<Range<u64>>,
    /// It has such functions at places that no name tells (`clone3` of the GNU C library): an
    /// undefined return address, which only call frame information written by hand has, or
    /// one of 0 is the bottom anywhere in it.
    pub starts_threads: bool,
}

/// A range that could not be added to a [`CodeMap`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("code of {name} at {:#x}..{:#x}: {kind}", range.start, range.end)]
pub struct CodeMapError {
    /// Name of what was to be added.
    pub name: Arc<str>,
    /// The offending range.
    pub range: Range<u64>,
    /// What was wrong.
    pub kind: CodeMapErrorKind,
}

/// What was wrong with a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeMapErrorKind {
    /// It is empty or ends before it starts.
    #[error("the range is empty")]
    Empty,
    /// Something else was added there before.
    #[error("the range overlaps {0}")]
    Overlaps(Arc<str>),
    /// The offsets of an [`Alias`] or [`Fixed`] table do not rise from 0.
    #[error("the table's offsets do not rise from 0 within the range")]
    UnsortedTable,
}

/// Everything executable that an address space is known to hold, by address.
#[derive(Clone, Debug, Default)]
pub struct CodeMap {
    regions: Vec<Region>,
}

#[derive(Clone, Debug)]
struct Region {
    range: Range<u64>,
    code: Code,
}

/// What lies at an address.
#[derive(Clone, Debug)]
pub(crate) enum Code {
    Object(Arc<CodeObject>),
    Alias(Arc<Alias>),
    Fixed(Arc<Fixed>),
}

impl CodeMap {
    /// A map without any code.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an object. A lookup searches its call frame information lazily, so this costs
    /// next to nothing.
    ///
    /// # Errors
    ///
    /// [`CodeMapError`] when one of its ranges is empty or taken; nothing is added then.
    pub fn add_object(&mut self, object: CodeObject) -> Result<(), CodeMapError> {
        let object = Arc::new(object);
        let mut regions = self.regions.clone();
        for range in &object.text {
            insert(&mut regions, range.clone(), Code::Object(object.clone()))?;
        }
        self.regions = regions;
        Ok(())
    }

    /// Adds a displaced prologue.
    ///
    /// # Errors
    ///
    /// [`CodeMapError`] when its range is empty or taken, or its table unsorted.
    pub fn add_alias(&mut self, alias: Alias) -> Result<(), CodeMapError> {
        let offsets = alias.entries.iter().map(|entry| entry.offset);
        check_table(&alias.name, &alias.range, offsets)?;
        let range = alias.range.clone();
        insert(&mut self.regions, range, Code::Alias(Arc::new(alias)))
    }

    /// Adds a stub of known layout.
    ///
    /// # Errors
    ///
    /// [`CodeMapError`] when its range is empty or taken, or its table unsorted.
    pub fn add_fixed(&mut self, fixed: Fixed) -> Result<(), CodeMapError> {
        let offsets = fixed.entries.iter().map(|entry| entry.offset);
        check_table(&fixed.name, &fixed.range, offsets)?;
        let range = fixed.range.clone();
        insert(&mut self.regions, range, Code::Fixed(Arc::new(fixed)))
    }

    /// Name of what lies at `pc`, when anything does.
    #[must_use]
    pub fn name_at(&self, pc: u64) -> Option<&Arc<str>> {
        self.find(pc).map(|(_, code)| code.name())
    }

    pub(crate) fn find(&self, pc: u64) -> Option<(&Range<u64>, &Code)> {
        let after = self
            .regions
            .partition_point(|region| region.range.start <= pc);
        let region = &self.regions[after.checked_sub(1)?];
        region
            .range
            .contains(&pc)
            .then_some((&region.range, &region.code))
    }
}

impl Code {
    pub(crate) fn name(&self) -> &Arc<str> {
        match self {
            Self::Object(object) => &object.name,
            Self::Alias(alias) => &alias.name,
            Self::Fixed(fixed) => &fixed.name,
        }
    }
}

impl CodeObject {
    pub(crate) fn is_entry(&self, pc: u64) -> bool {
        self.entries.iter().any(|range| range.contains(&pc))
    }

    pub(crate) fn function_at(&self, pc: u64) -> Option<&Range<u64>> {
        let after = self
            .functions
            .partition_point(|function| function.start <= pc);
        let function = &self.functions[after.checked_sub(1)?];
        function.contains(&pc).then_some(function)
    }

    /// Whether call frame information that names no caller is to be believed there.
    pub(crate) fn may_end(&self, pc: u64) -> bool {
        self.starts_threads || self.is_entry(pc)
    }
}

fn insert(regions: &mut Vec<Region>, range: Range<u64>, code: Code) -> Result<(), CodeMapError> {
    let refuse = |kind| {
        Err(CodeMapError {
            name: code.name().clone(),
            range: range.clone(),
            kind,
        })
    };
    if range.is_empty() {
        return refuse(CodeMapErrorKind::Empty);
    }
    // Regions never overlap, so their ends are sorted as their starts are.
    let at = regions.partition_point(|region| region.range.end <= range.start);
    if let Some(next) = regions.get(at).filter(|next| next.range.start < range.end) {
        return refuse(CodeMapErrorKind::Overlaps(next.code.name().clone()));
    }
    regions.insert(at, Region { range, code });
    Ok(())
}

fn check_table(
    name: &Arc<str>,
    range: &Range<u64>,
    mut offsets: impl Iterator<Item = u32>,
) -> Result<(), CodeMapError> {
    let length = range.end.saturating_sub(range.start);
    let sorted = offsets.next() == Some(0)
        && offsets
            .try_fold(0, |last, offset| {
                (last < offset && u64::from(offset) < length).then_some(offset)
            })
            .is_some();
    if sorted {
        return Ok(());
    }
    Err(CodeMapError {
        name: name.clone(),
        range: range.clone(),
        kind: CodeMapErrorKind::UnsortedTable,
    })
}
