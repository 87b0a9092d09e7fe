//! Stack unwinding that proves completeness or says why it cannot.
//!
//! [`CodeMap`] says what code an address space holds and how each piece of it unwinds;
//! [`Unwinder::walk`] follows one stopped thread's stack through it. A [`Trace`] ends at a
//! proven [`End::Bottom`] or is [`End::Unreliable`] for a named [`Reason`]: there is no
//! third, silent end. [`scan`] is the conservative second opinion.
//!
//! This crate must not know ptrace, /proc or patches: it sees registers, memory through
//! [`ReadMemory`] and code ranges that its caller resolved.
#![forbid(unsafe_code)]

mod call_site;
mod cfi;
mod code_map;
mod cursor;
mod debug_frame;
mod descriptions;
mod eh_frame;
mod encode;
mod exception_table;
mod expression;
mod frame_table;
mod reason;
mod registers;
mod rules;
mod scan;
mod signal;
mod stack;
mod synthetic;
mod thread_exit;
mod trace;
mod walk;

pub use cfi::{Cfi, CfiError, CfiErrorKind, ExceptionHandling, Section};
pub use code_map::{CodeMap, CodeMapError, CodeMapErrorKind, CodeObject};
pub use debug_frame::encode_debug_frame;
pub use eh_frame::{EhFrame, encode_eh_frame};
pub use engraft_elf::{ReadMemory, Unreadable};
pub use exception_table::{
    Action, CallRange, ExceptionTable, ExceptionTableError, Place, TypeField,
};
pub use reason::{Reason, ReasonKind};
pub use registers::Registers;
pub use scan::{StackHit, scan};
pub use synthetic::{Alias, AliasEntry, Fixed, FixedBase, FixedEntry};
pub use trace::{End, Frame, RangeHit, Trace};
pub use walk::{MAX_FRAMES, Unwinder, walk};
