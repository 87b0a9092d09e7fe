//! Both versions of the source, as debugging information names its files.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::body::end_of_body;
use super::edits::Edits;
use crate::compiling::Built;

/// Where both versions of the source are.
#[derive(Debug)]
pub struct Sources {
    /// Where the version before the change was compiled.
    compiled: PathBuf,
    /// Where its source is now.
    before: PathBuf,
    after: PathBuf,
    read: RefCell<HashMap<PathBuf, Option<Rc<Versions>>>>,
}

/// A source file before the change, and what was edited in it.
#[derive(Debug)]
struct Versions {
    before: Vec<u8>,
    edits: Edits,
}

impl Sources {
    /// The sources of two builds.
    #[must_use]
    pub fn of_builds(before: &Built, after: &Built) -> Self {
        Self {
            compiled: before.compiled.clone(),
            before: before.source.clone(),
            after: after.source.clone(),
            read: RefCell::default(),
        }
    }

    /// Whether the function that begins at a line of a file before the change was edited; `None`
    /// if the file is not in both versions, or where the function ends cannot be told.
    pub(super) fn is_edited(&self, file: &Path, line: u64) -> Option<bool> {
        let versions = self.versions(file)?;
        if versions.edits.is_empty() {
            return Some(false);
        }
        let end = end_of_body(&versions.before, line)?;
        Some(versions.edits.touch(line..=end))
    }

    fn versions(&self, file: &Path) -> Option<Rc<Versions>> {
        if let Some(known) = self.read.borrow().get(file) {
            return known.clone();
        }
        let read = || {
            // Compilers are told to call the scratch tree by the name of the source.
            let roots = [&self.compiled, &self.before];
            let relative = roots.iter().find_map(|root| file.strip_prefix(root).ok())?;
            let before = fs::read(self.before.join(relative)).ok()?;
            let after = fs::read(self.after.join(relative)).ok()?;
            let edits = Edits::between(&before, &after);
            Some(Rc::new(Versions { before, edits }))
        };
        let versions = read();
        self.read
            .borrow_mut()
            .insert(file.to_owned(), versions.clone());
        versions
    }
}
