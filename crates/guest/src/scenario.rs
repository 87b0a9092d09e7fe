//! Scenarios: what is done, and what is seen.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that is done to the target. After each step both sides wait until nothing moves any
/// more: no transition runs, or only threads hold it up that a scenario keeps inside a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// insmod, with `name=value` parameters.
    Load {
        /// The module.
        module: String,
        /// Its parameters.
        parameters: Vec<String>,
    },
    /// rmmod.
    Unload(String),
    /// Writes 1 to the patch's `enabled`: reverses its running disable.
    Enable(String),
    /// Writes 0 to the patch's `enabled`: disables it, or reverses its running enable.
    Disable(String),
    /// Writes 1 to the patch's `force`.
    Force(String),
    /// Loads an object of the target: insmod, or dlopen.
    Insmod(String),
    /// Unloads it: rmmod, or dlclose.
    Rmmod(String),
    /// A command to the target: `call F`, `park T F`, `free T`, `hammer T F`.
    Target(String),
}

impl Step {
    /// A load with parameters as one writes them.
    #[must_use]
    pub fn load(module: &str, parameters: &str) -> Self {
        Self::Load {
            module: module.to_owned(),
            parameters: parameters.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { module, parameters } => {
                write!(f, "load {module} {}", parameters.join(" "))
            }
            Self::Unload(module) => write!(f, "unload {module}"),
            Self::Enable(patch) => write!(f, "enable {patch}"),
            Self::Disable(patch) => write!(f, "disable {patch}"),
            Self::Force(patch) => write!(f, "force {patch}"),
            Self::Insmod(object) => write!(f, "insmod {object}"),
            Self::Rmmod(object) => write!(f, "rmmod {object}"),
            Self::Target(command) => f.write_str(command),
        }
    }
}

/// What is seen after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Number of the error, 0 for success.
    pub errno: i32,
    /// What the target answers.
    pub answer: String,
    /// Lines that came to the log, without those about single threads.
    pub log: Vec<String>,
    /// Patches that are enabled or in transition, by name.
    pub patches: BTreeMap<String, Patch>,
    /// Names of the threads that hold a transition up.
    pub blockers: Vec<String>,
}

/// A patch as it is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// `enabled`.
    pub enabled: bool,
    /// `transition`.
    pub transition: bool,
    /// `replace`, where it can be seen (Linux 6.11).
    pub replace: Option<bool>,
    /// `patched` of each object.
    pub objects: BTreeMap<String, bool>,
}
