//! Source trees: scratch copies of them, patches applied to them, line numbers kept.

mod copy;
mod error;
mod git;
mod lexer;
mod lines;
#[cfg(test)]
mod lines_tests;
mod patching;
mod scratch;

pub use error::{Reject, TreeError};

pub(crate) use copy::remove_tree;
pub(crate) use scratch::Scratch;

use copy::copy_tree;
use git::hide_from_git;
use lines::keep_line_numbers;
use patching::{Changes, apply_patches, find_changes};

use std::path::{Component, Path, PathBuf};

/// The absolute form of a path without `.` and `..`, as its text says (links are not followed).
pub(crate) fn normalize(directory: &Path, path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in directory.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}
