//! ELF: symbols, build-ids, sections, debug files.
//!
//! This crate knows the ELF format of 64-bit x86-64 objects, on disk and as mapped. It must
//! not know processes (memory is read through [`ReadMemory`]), patches or instructions, and
//! it opens no files.
//!
//! [`Image`] is what is mapped, and decides what an object *is*; [`SymbolFile`] is a file
//! that may describe it; [`SymbolTable`] is what both together say about its symbols.
#![forbid(unsafe_code)]

mod build_id;
mod debug_file;
mod dynamic;
mod error;
mod image;
mod memory;
mod object_file;
mod suggest;
mod symbol;
mod symbol_file;
mod symbol_table;
mod written;

pub use build_id::{BuildId, NotABuildId};
pub use debug_file::{DebugLink, build_id_path, debug_link_paths};
pub use dynamic::{DynamicRelocation, RelocationTable};
pub use error::{
    Candidate, FileError, FileErrorKind, ImageError, ImageErrorKind, SymbolError, SymbolErrorKind,
};
pub use image::{Image, Segment, Tls};
pub use memory::{ReadMemory, SliceMemory, Unreadable};
pub use object_file::{ObjectFile, ObjectKind};
pub use symbol::{Binding, Symbol, SymbolKind};
pub use symbol_file::{FileSection, Identity, SymbolFile};
pub use symbol_table::SymbolTable;
pub use written::{CodeFile, NewCodeFile, NewSymbolFile};
