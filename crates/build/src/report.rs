//! What was built, and why.

use serde::Serialize;

use crate::compare::{ObjectChange, Trace};
use crate::error::BuildError;
use crate::extract::{Extracted, Replaced};
use crate::program::Program;
use crate::refuse::Refusal;

/// What a build has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Functions that the patch replaces.
    pub replaced: Vec<Replaced>,
    /// Of these: to which only `main` leads, outside of loops. A program that runs is likely to
    /// be past them.
    pub once: Vec<Named>,
    /// New functions and variables that come along.
    pub added: Vec<Named>,
    /// Functions that are no more.
    pub gone: Vec<Named>,
    /// Changes that cannot be followed. When there are any, no module was written.
    pub refusals: Vec<Refusal>,
    /// Changes that a hook takes care of, which would be refused without it.
    pub handled: Vec<Refusal>,
    /// What differs in line numbers and the like only, and counts as unchanged.
    pub ignored: Vec<Ignored>,
    /// Objects whose files differ although nothing in them does (debugging information).
    pub unchanged: Vec<String>,
    /// How many objects there are.
    pub objects: Objects,
}

/// Numbers of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Objects {
    /// That the target is linked from.
    pub linked: usize,
    /// Of these: whose files differ.
    pub differing: usize,
    /// Of these: that were parsed.
    pub parsed: usize,
}

/// A function or variable of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The object.
    pub object: String,
    /// The name.
    pub name: String,
}

/// A function or constant that counts as unchanged although its contents differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// The object.
    pub object: String,
    /// The function or constant.
    pub name: String,
    /// What differs.
    pub what: Trace,
}

impl Report {
    pub(crate) fn of_changes(
        program: &Program,
        changes: &[ObjectChange],
        refusals: Vec<Refusal>,
    ) -> Result<Self, BuildError> {
        let mut report = Self {
            refusals,
            ..Self::default()
        };
        for change in changes {
            let object = program.name(change.object).to_owned();
            if change.comparison.is_empty() {
                report.unchanged.push(object.clone());
            }
            for (section, traces) in &change.comparison.ignored {
                let name = program.after(change.object)?.title(*section);
                report.ignored.extend(traces.iter().map(|what| Ignored {
                    object: object.clone(),
                    name: name.to_owned(),
                    what: *what,
                }));
            }
            for name in &change.comparison.gone {
                report.gone.push(Named {
                    object: object.clone(),
                    name: name.clone(),
                });
            }
        }
        Ok(report)
    }

    pub(crate) fn add_extracted(&mut self, extracted: &Extracted) {
        self.replaced.clone_from(&extracted.replaced);
        let added = extracted.added.iter();
        self.added = added
            .map(|(object, name)| Named {
                object: object.clone(),
                name: name.clone(),
            })
            .collect();
    }
}
