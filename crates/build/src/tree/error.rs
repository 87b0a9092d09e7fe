//! What can go wrong with a source tree.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A source tree that could not be copied or patched.
#[derive(Debug, Error)]
pub enum TreeError {
    /// A file could not be read, written or copied.
    #[error("cannot {action} '{}': {error}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// The source is not a directory.
    #[error("'{}' is not a directory: give the directory that the build command runs in", .0.display())]
    NotADirectory(PathBuf),
    /// One of source and scratch directory lies within the other.
    #[error(
        "the scratch directory '{}' and the source '{}' lie within each other, and a copy would \
         contain itself: set TMPDIR to a directory elsewhere",
        work.display(), source_tree.display()
    )]
    Nested {
        /// The source tree.
        source_tree: PathBuf,
        /// The scratch directory.
        work: PathBuf,
    },
    /// The program `patch` could not be started.
    #[error("cannot run 'patch': {0}; install the package 'patch'")]
    NoPatchProgram(io::Error),
    /// A patch does not fit the tree.
    #[error(
        "patch '{}' does not fit the source tree: {}; make the patch for this version of the \
         source, or apply first what it builds on (--patch takes several, in order)",
        patch.display(), list(rejects)
    )]
    Rejected {
        /// The patch file.
        patch: PathBuf,
        /// What did not fit, in the order of the patch.
        rejects: Vec<Reject>,
    },
    /// A patch that the tree contains already.
    #[error(
        "patch '{}' is in the source tree already ('{}' has its lines): give the source \
         without it, as the running program was built from",
        patch.display(), file.display()
    )]
    AlreadyApplied {
        /// The patch file.
        patch: PathBuf,
        /// The first file that has it.
        file: PathBuf,
    },
    /// A file without any difference in it, or one that `patch` cannot apply.
    #[error(
        "patch '{}' cannot be applied ({message}): give a unified diff, as 'diff -u' and 'git \
         diff' write it",
        patch.display()
    )]
    Unusable {
        /// The patch file.
        patch: PathBuf,
        /// What `patch` said.
        message: String,
    },
}

impl TreeError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io {
            action,
            path,
            error,
        }
    }
}

/// A part of a patch that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The file to be patched, as the patch names it.
    pub file: PathBuf,
    /// The number of the hunk in that file, from 1, and the line where it was tried. Nothing if
    /// the file does not exist or cannot be patched at all.
    pub hunk: Option<(u32, u32)>,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hunk {
            Some((hunk, line)) => {
                write!(f, "hunk {hunk} of '{}' (line {line})", self.file.display())
            }
            None => write!(f, "there is no file '{}' to patch", self.file.display()),
        }
    }
}

fn list(rejects: &[Reject]) -> String {
    let texts: Vec<String> = rejects.iter().map(Reject::to_string).collect();
    texts.join(", ")
}
