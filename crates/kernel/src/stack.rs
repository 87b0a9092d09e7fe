//! The stack of patches.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::{Kernel, directories};

/// A patch on the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Patch {
    /// Its name, which is its module's.
    pub name: String,
    /// `enabled`: the direction asked for.
    pub enabled: bool,
    /// `transition`.
    pub transition: bool,
    /// `replace`; `None` before Linux 6.11.
    pub replace: Option<bool>,
    /// `stack_order`, from 1; `None` before Linux 6.14.
    pub stack_order: Option<u32>,
    /// `refcnt` of its module: it can be unloaded when this is 0.
    pub refcnt: Option<u32>,
    /// Its objects.
    pub objects: Vec<Object>,
}

/// An object of a patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    /// `vmlinux` or a module.
    pub name: String,
    /// `patched`; `None` before Linux 6.1.
    pub patched: Option<bool>,
    /// Its functions.
    pub functions: Vec<Function>,
}

/// A function that is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Name of the old function.
    pub name: String,
    /// Its position among equal names, from 1.
    pub sympos: u64,
}

impl Kernel {
    /// The patches on the stack: from the oldest to the newest where the kernel tells their
    /// order, by name otherwise.
    #[must_use]
    pub fn patches(&self) -> Vec<Patch> {
        let directories = directories(&self.stack_directory()).into_iter();
        let mut patches: Vec<Patch> = directories
            .map(|(name, path)| Patch {
                enabled: flag(&path, "enabled").unwrap_or_default(),
                transition: flag(&path, "transition").unwrap_or_default(),
                replace: flag(&path, "replace"),
                stack_order: number(&path, "stack_order"),
                refcnt: number(&self.module_directory(&name), "refcnt"),
                objects: read_objects(&path),
                name,
            })
            .collect();
        patches.sort_by_key(|patch| patch.stack_order);
        patches
    }
}

fn read_objects(patch: &Path) -> Vec<Object> {
    let objects = directories(patch).into_iter().map(|(name, path)| Object {
        patched: flag(&path, "patched"),
        functions: directories(&path)
            .into_iter()
            .filter_map(|(name, _)| read_function(&name))
            .collect(),
        name,
    });
    objects.collect()
}

/// A function's directory is called `name,sympos`.
fn read_function(directory: &str) -> Option<Function> {
    let (name, sympos) = directory.rsplit_once(',')?;
    Some(Function {
        name: name.to_owned(),
        sympos: sympos.parse().ok()?,
    })
}

fn flag(directory: &Path, attribute: &str) -> Option<bool> {
    number::<u32>(directory, attribute).map(|value| value != 0)
}

fn number<T: std::str::FromStr>(directory: &Path, attribute: &str) -> Option<T> {
    let text = fs::read_to_string(directory.join(attribute)).ok()?;
    text.trim().parse().ok()
}
