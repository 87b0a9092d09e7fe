//! What a build tells its wrapped compilers, and what they tell it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The environment variable that names the session's file.
pub(super) const VARIABLE: &str = "ENGRAFT_BUILD_SESSION";

/// One run of the build command, as its wrapped compilers see it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Session {
    /// The directory of wrapped compilers, at the front of PATH.
    pub(super) tools: PathBuf,
    /// The directory that holds the scratch tree and all that is built.
    pub(super) root: PathBuf,
    /// The scratch tree, and the source that debug information and `__FILE__` shall name for it.
    pub(super) tree: PathBuf,
    pub(super) source: PathBuf,
    /// What the file name of a link's output must contain to be looked at closely.
    pub(super) target_stem: String,
    /// Where records are appended, one JSON text a line.
    pub(super) records: PathBuf,
    /// Contents of objects, by content.
    pub(super) store: PathBuf,
    /// Earlier results of compilations, by what went into them.
    pub(super) reuse: PathBuf,
    /// For files of no lasting interest.
    pub(super) scratch: PathBuf,
}

/// What a wrapped compiler did. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Record {
    /// A source is compiled to an object.
    Compilation {
        /// The source file.
        source: PathBuf,
        /// The object file; nothing if it is temporary, on the way to a program.
        object: Option<PathBuf>,
        /// Whether an earlier result was taken.
        is_reused: bool,
    },
    /// Objects are linked.
    Link(Link),
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    /// The file that is written.
    pub(super) output: PathBuf,
    /// Whether it is an object again.
    pub(super) is_relocatable: bool,
    /// What it consists of, if it was looked at closely.
    pub(super) parts: Option<Parts>,
}

/// What a link's output consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parts {
    /// The output of the same link, kept.
    pub(super) copy: PathBuf,
    /// Objects of the tree, in the order of linking.
    pub(super) objects: Vec<Part>,
    /// Objects and archives from elsewhere, such as the C library's.
    pub(super) outside: Vec<PathBuf>,
    /// The first object whose code is still to be generated, when the program is linked.
    pub(super) link_time: Option<PathBuf>,
}

/// An object that was linked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// The object file, or the archive.
    pub(super) file: PathBuf,
    /// The member of the archive.
    pub(super) member: Option<String>,
    /// The source, where the object was a temporary file.
    pub(super) source: Option<PathBuf>,
    /// Its content, in the store.
    pub(super) content: PathBuf,
}

impl Session {
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self)?)
    }

    pub(super) fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Appends a record in one write, so that compilers that run together do not mix theirs.
    pub(super) fn record(&self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.records)?
            .write_all(&line)
    }
}

/// Reads records from the text of a records file, as far as its last whole line, and says how
/// long that part is.
pub(super) fn parse_records(text: &[u8]) -> io::Result<(Vec<Record>, usize)> {
    let end = text
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    let records = text[..end]
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect::<Result<_, _>>()?;
    Ok((records, end))
}

/// Whether a source only finds out something about the machine.
pub(super) fn is_probe(source: &Path) -> bool {
    let is_named = |name: &str| {
        name.starts_with("conftest")
            || matches!(
                name,
                "CMakeScratch" | "CMakeTmp" | "CMakeFiles" | "meson-private"
            )
    };
    source
        .components()
        .any(|component| component.as_os_str().to_str().is_some_and(is_named))
}
