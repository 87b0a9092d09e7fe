//! The patch module file (`.lp`): compile, read, link into an address space.
//!
//! A patch module is a relocatable ELF object like the kernel's `.ko`. This crate knows how
//! one is compiled ([`compile`]), what a file says ([`PatchModule::parse`]), and which bytes
//! it becomes at given addresses ([`link()`]). It must not know processes, threads, the
//! livepatch rules or where symbols come from: those who link say so through [`Resolve`].
#![forbid(unsafe_code)]

mod compile;
mod declared;
mod error;
mod headers;
mod layout;
mod link;
mod linked;
mod module;
mod name;
mod parse;
mod pre_code;
mod reference;
mod relocation;
mod required_build;
mod resolve;
mod tls;

pub use compile::{
    CompileError, CompileErrorKind, CompileRequest, Compiled, compile, write_atomically,
};
pub use declared::{DeclaredFunction, DeclaredObject, DeclaredPatch, DeclaredState};
pub use error::{
    Fault, FaultKind, LinkError, LinkErrorKind, ModuleError, ModuleErrorKind, Unresolved,
};
pub use layout::{Layout, Placement, Room};
pub use link::link;
pub use linked::{IfuncFixup, Linked, LinkedBinding, LinkedFunction, LinkedParam};
pub use module::{Contents, Definition, Param, PatchModule, Region, Section, Symbol, SymbolKind};
pub use name::{NameError, module_name};
pub use pre_code::{
    PRE_CODE_SECTION, PRE_CODE_SYMBOL, PreCode, PreExceptionTable, PreFunction, PreKind, PreObject,
    PreRelocation, PreSection, PreSymbol, PreSymbolKind,
};
pub use reference::{Reference, Scope};
pub use relocation::{Relocation, RelocationKind};
pub use required_build::{RequiredBuild, UnfitObject};
pub use resolve::{Resolve, ResolveError, Resolved, TlsIndex};
