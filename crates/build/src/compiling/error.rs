//! What can go wrong between a source tree and its objects.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Side;
use crate::tree::TreeError;

/// Objects that could not be built or found.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The source tree could not be copied or patched.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file could not be read or written.
    #[error("cannot {action} '{}': {error}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// No build command was given.
    #[error("no build command: give it after '--', such as '-- make'")]
    NoCommand,
    /// The target is not a path within the tree.
    #[error(
        "target '{}' is not within the source tree: give its path relative to the tree, as the \
         build command writes it",
        .0.display()
    )]
    TargetOutside(PathBuf),
    /// The build command could not be started.
    #[error("cannot run the build command '{}': {error}", command.display())]
    Start {
        /// The program.
        command: OsString,
        /// Why it could not be started.
        error: io::Error,
    },
    /// The build command failed.
    #[error(
        "the build {side} the patches failed ({status}); its last lines are:\n{last_lines}\n\
         the whole log is '{}'",
        log.display()
    )]
    CommandFailed {
        /// Which of both builds.
        side: Side,
        /// How the command ended.
        status: String,
        /// The end of what it wrote.
        last_lines: String,
        /// All that it wrote.
        log: PathBuf,
    },
    /// No compiler or linker was seen at work.
    #[error(
        "the build command ran no compiler that was seen: compilers are found by their names in \
         PATH, so let it call 'gcc' and not '/usr/bin/gcc' (for example with CC=gcc), do not let \
         it replace PATH, and let it build from a clean tree; the whole log is '{}'",
        log.display()
    )]
    NothingCompiled {
        /// All that the command wrote.
        log: PathBuf,
    },
    /// The target is not what a link wrote.
    #[error("{}", describe_unlinked(target, linked, *exists))]
    NotLinked {
        /// The target, relative to the tree.
        target: PathBuf,
        /// What was linked, relative to the tree.
        linked: Vec<PathBuf>,
        /// Whether there is a file of this name.
        exists: bool,
    },
    /// The target's link worked, but not when it was repeated to see what it consists of.
    #[error(
        "'{}' was linked, but linking it again with '-Wl,--trace' to list its objects failed: use GNU \
         ld, gold, lld or mold",
        .0.display()
    )]
    NotListed(PathBuf),
    /// No object of the target belongs to the tree.
    #[error("'{}' is linked from objects that all lie outside of the source tree", .0.display())]
    NoObjects(PathBuf),
    /// The build writes objects to a place that both builds would share.
    #[error(
        "the build writes '{}' outside of the source tree, where the builds before and after the \
         patches would mix: let it write below the source tree or beside it ('../build')",
        .0.display()
    )]
    ObjectOutside(PathBuf),
    /// Objects of an earlier build were used again.
    #[error(
        "the build did not compile {}: {} in the source tree already, left by an earlier build; \
         clean the source tree first, or let the build command do it ('-- sh -c \"make clean && \
         make\"')",
        list(.0), if .0.len() == 1 { "it is" } else { "they are" }
    )]
    Leftover(Vec<String>),
    /// Changed objects that were compiled without the flags of the build.
    #[error(
        "{} changed, but not compiled by a compiler that was seen: compilers are found by their \
         names in PATH, so let the build call 'gcc' and not '/usr/bin/gcc' (for example with \
         CC=gcc)",
        if .0.len() == 1 { format!("{} is", list(.0)) } else { format!("{} are", list(.0)) }
    )]
    Unseen(Vec<String>),
    /// Link-time optimization.
    #[error(
        "'{}' is built with link-time optimization (-flto): its code is generated when the \
         program is linked, all of it at once, so a change cannot be told from its effects; only \
         a program that was built without -flto can be patched this way",
        .0.display()
    )]
    LinkTimeOptimization(PathBuf),
    /// A finished tree whose target has no symbols.
    #[error(
        "'{}' has no symbol table, so the objects that it was linked from cannot be found: give \
         the target as the linker wrote it, not stripped",
        .0.display()
    )]
    Stripped(PathBuf),
    /// Objects that may both be the one that was linked.
    #[error(
        "it is not clear whether '{}' was linked from '{first}' or '{second}', which both define \
         '{symbol}': remove the one that does not belong to it",
        target.display()
    )]
    Ambiguous {
        /// The target.
        target: PathBuf,
        /// A symbol that both define.
        symbol: String,
        /// One object.
        first: String,
        /// The other object.
        second: String,
    },
    /// A symbol of a finished tree's target that comes from no object of the tree.
    #[error(
        "no object below '{}' was linked into '{}': give the directory in which the target was \
         built, with its object files",
        tree.display(), target.display()
    )]
    NoObjectFound {
        /// The tree.
        tree: PathBuf,
        /// The target.
        target: PathBuf,
    },
}

impl BuildError {
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

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

fn describe_unlinked(target: &Path, linked: &[PathBuf], exists: bool) -> String {
    let target = target.display();
    let found = if exists {
        format!("'{target}' is there after the build, but no link that was seen wrote it")
    } else {
        format!("the build wrote no '{target}'")
    };
    if linked.is_empty() {
        format!(
            "{found}, and none was seen at all: compilers are found by their names in PATH, so \
             let the build call 'gcc' and not '/usr/bin/gcc', and build from a clean tree"
        )
    } else {
        let linked: Vec<String> = linked
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        format!(
            "{found}; it linked {}: give one of these as --target",
            list(&linked)
        )
    }
}

/// The first few names.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("'{name}'"))
        .collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}
