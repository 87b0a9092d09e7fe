//! The target as a list of object pairs in link order.

mod names;

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

pub(crate) use names::Names;

use crate::compiling::Built;
use crate::debug::DebugInfo;
use crate::error::{BuildError, Context as _};
use crate::object::ObjectFile;

/// One object of the target: where its version from before and after the change lies.
#[derive(Clone, Debug)]
pub struct ObjectPair {
    /// Its name in the source tree.
    pub name: String,
    /// The version before the change, unless the object is new.
    pub before: Option<PathBuf>,
    /// The version after the change, unless the object is gone.
    pub after: Option<PathBuf>,
}

impl ObjectPair {
    /// Pairs the objects of both builds by their names, in the link order before the change;
    /// new ones follow.
    #[must_use]
    pub fn of_builds(before: &Built, after: &Built) -> Vec<Self> {
        let find = |built: &Built, name: &str| {
            let object = built.objects.iter().find(|object| object.name == name);
            object.map(|object| object.path.clone())
        };
        let mut names: Vec<&str> = Vec::new();
        for object in before.objects.iter().chain(&after.objects) {
            if !names.contains(&&*object.name) {
                names.push(&object.name);
            }
        }
        let pair = |name: &str| Self {
            name: name.to_owned(),
            before: find(before, name),
            after: find(after, name),
        };
        names.into_iter().map(pair).collect()
    }
}

/// Both versions of everything that the target was linked from.
#[derive(Debug)]
pub(crate) struct Program {
    pairs: Vec<ObjectPair>,
    before: Vec<OnceCell<ObjectFile>>,
    after: Vec<OnceCell<ObjectFile>>,
    identical: Vec<bool>,
    names: OnceCell<Names>,
}

impl Program {
    /// `pairs` in link order.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub(crate) fn new(pairs: Vec<ObjectPair>) -> Result<Self, BuildError> {
        let cells = || (0..pairs.len()).map(|_| OnceCell::new()).collect();
        Ok(Self {
            before: cells(),
            after: cells(),
            identical: pairs.iter().map(is_identical).collect::<Result<_, _>>()?,
            names: OnceCell::new(),
            pairs,
        })
    }

    /// Number of objects.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Name of an object.
    #[must_use]
    pub(crate) fn name(&self, object: usize) -> &str {
        &self.pairs[object].name
    }

    /// Objects whose files differ.
    pub(crate) fn differing(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|object| !self.identical[*object])
    }

    /// Number of objects of which a version has been parsed.
    #[must_use]
    pub(crate) fn parsed(&self) -> usize {
        let versions = self.before.iter().zip(&self.after);
        let parsed =
            versions.filter(|(before, after)| before.get().is_some() || after.get().is_some());
        parsed.count()
    }

    /// An object before the change; one without contents if it is new.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is no object.
    pub(crate) fn before(&self, object: usize) -> Result<&ObjectFile, BuildError> {
        let pair = &self.pairs[object];
        parse(&self.before[object], &pair.name, pair.before.as_ref())
    }

    /// An object after the change; one without contents if it is gone.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is no object.
    pub(crate) fn after(&self, object: usize) -> Result<&ObjectFile, BuildError> {
        let pair = &self.pairs[object];
        parse(&self.after[object], &pair.name, pair.after.as_ref())
    }

    /// Debugging information of an object before the change.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn debug_before(&self, object: usize) -> Result<Option<DebugInfo>, BuildError> {
        read_debug(self.pairs[object].before.as_ref())
    }

    /// Debugging information of an object after the change.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn debug_after(&self, object: usize) -> Result<Option<DebugInfo>, BuildError> {
        read_debug(self.pairs[object].after.as_ref())
    }

    /// What the objects before the change define.
    ///
    /// # Errors
    ///
    /// When an object cannot be read.
    pub(crate) fn names(&self) -> Result<&Names, BuildError> {
        if let Some(names) = self.names.get() {
            return Ok(names);
        }
        let names = Names::collect(&self.pairs)?;
        Ok(self.names.get_or_init(|| names))
    }
}

fn parse<'a>(
    cell: &'a OnceCell<ObjectFile>,
    name: &str,
    path: Option<&PathBuf>,
) -> Result<&'a ObjectFile, BuildError> {
    if let Some(object) = cell.get() {
        return Ok(object);
    }
    let object = match path {
        Some(path) => {
            let bytes = fs::read(path).context(|| format!("read '{}'", path.display()))?;
            ObjectFile::parse(name, &bytes)?
        }
        None => ObjectFile::empty(name),
    };
    Ok(cell.get_or_init(|| object))
}

fn read_debug(path: Option<&PathBuf>) -> Result<Option<DebugInfo>, BuildError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let bytes = fs::read(path).context(|| format!("read '{}'", path.display()))?;
    DebugInfo::read(&bytes)
}

/// Compared by their bytes, so that most objects need not be parsed.
fn is_identical(pair: &ObjectPair) -> Result<bool, BuildError> {
    let (Some(before), Some(after)) = (&pair.before, &pair.after) else {
        return Ok(false);
    };
    let read = |path: &PathBuf| fs::read(path).context(|| format!("read '{}'", path.display()));
    let length = |path: &PathBuf| fs::metadata(path).map(|meta| meta.len()).ok();
    Ok(before == after || (length(before) == length(after) && read(before)? == read(after)?))
}
