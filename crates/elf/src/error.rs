//! What can be wrong with an image, a file or the name of a symbol.

use std::fmt;

use thiserror::Error;

use crate::{SymbolKind, Unreadable};

/// An object that is mapped but cannot be read as an ELF image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("ELF image at {address:#x}: {kind}")]
pub struct ImageError {
    /// Address of its ELF header.
    pub address: u64,
    /// What is wrong.
    pub kind: ImageErrorKind,
}

/// What is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImageErrorKind {
    /// Memory that the image claims to have is not there.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// No ELF magic.
    #[error("no ELF header")]
    NotElf,
    /// ELFCLASS32: a 32-bit (or x32) program.
    #[error("32-bit object; only 64-bit x86-64 objects are supported")]
    ThirtyTwoBit,
    /// Another `e_machine`, or big endian.
    #[error("object for machine type {0}; only x86-64 (62) is supported")]
    ForeignMachine(u16),
    /// Neither ET_EXEC nor ET_DYN.
    #[error("object type {0} is neither an executable nor a shared object")]
    NotLoadable(u16),
    /// A field contradicts the format, the limits of this crate, or other fields.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A file that cannot be read as an ELF file with symbols.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("ELF file: {kind}")]
pub struct FileError {
    /// What is wrong.
    pub kind: FileErrorKind,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FileErrorKind {
    /// No ELF magic.
    #[error("no ELF header")]
    NotElf,
    /// ELFCLASS32.
    #[error("32-bit object; only 64-bit x86-64 objects are supported")]
    ThirtyTwoBit,
    /// Another `e_machine`, or big endian.
    #[error("object for machine type {0}; only x86-64 (62) is supported")]
    ForeignMachine(u16),
    /// Neither ET_EXEC nor ET_DYN.
    #[error("object type {0} is neither an executable nor a shared library")]
    NotLoadable(u16),
    /// A separate debug file.
    #[error("it holds debug information only; name the executable or library itself")]
    DebugFile,
    /// A header, table or string lies outside the file or contradicts another.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// A name that does not lead to exactly one symbol of an object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("symbol '{name}' of object '{object}': {kind}")]
pub struct SymbolError {
    /// The object's name.
    pub object: String,
    /// The symbol's name.
    pub name: String,
    /// Why there is no single answer.
    pub kind: SymbolErrorKind,
}

/// Why a name does not lead to exactly one symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SymbolErrorKind {
    /// The object defines no such symbol.
    NotFound {
        /// Defined names that look alike, best first.
        suggestions: Vec<String>,
        /// The object has no `.symtab`: only its exported symbols are known.
        stripped: bool,
    },
    /// Several definitions, and no position was given.
    Ambiguous {
        /// All of them, in symbol-table order.
        candidates: Vec<Candidate>,
    },
    /// Fewer definitions than the position asks for.
    PositionNotFound {
        /// The position asked for, counted from 1.
        position: u64,
        /// Definitions of that name.
        candidates: Vec<Candidate>,
    },
}

/// One of several definitions of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Value of `old_sympos` that selects it.
    pub sympos: u64,
    /// Its address.
    pub address: u64,
    /// What it is.
    pub kind: SymbolKind,
    /// Name of the source file (STT_FILE) for local symbols, where recorded.
    pub source_file: Option<String>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} at {:#x}", self.sympos, self.kind, self.address)?;
        match &self.source_file {
            Some(file) => write!(f, " from {file}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SymbolErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound {
                suggestions,
                stripped,
            } => {
                f.write_str("not found in symbol table")?;
                if !suggestions.is_empty() {
                    write!(f, "; similar names: {}", suggestions.join(", "))?;
                }
                if *stripped {
                    f.write_str(
                        "; the object is stripped, install its debug symbols to reach local symbols",
                    )?;
                }
                Ok(())
            }
            Self::Ambiguous { candidates } => {
                f.write_str("ambiguous, choose one by its position: ")?;
                write_candidates(f, candidates)
            }
            Self::PositionNotFound {
                position,
                candidates,
            } => {
                write!(f, "position {position} not found, there are: ")?;
                write_candidates(f, candidates)
            }
        }
    }
}

fn write_candidates(f: &mut fmt::Formatter<'_>, candidates: &[Candidate]) -> fmt::Result {
    const SHOWN: usize = 16;
    for (index, candidate) in candidates.iter().take(SHOWN).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{candidate}")?;
    }
    if candidates.len() > SHOWN {
        write!(f, " and {} more", candidates.len() - SHOWN)?;
    }
    Ok(())
}
