//! Run-pre matching: does a running program contain the code of a function as a compiler's
//! object file has it, and if so, what do the relocated fields refer to there?
//!
//! The object file was compiled with -ffunction-sections and is not relocated; the program
//! was usually compiled without and is linked. Both are walked in lockstep, instruction by
//! instruction. They may differ in what assemblers and linkers choose:
//!
//! - contents of relocated fields: these yield a [`Value`];
//! - padding: a run of nops counts for nothing, wherever it is, and so does `int3` where
//!   control cannot arrive. The prefixes that gas pads branches with
//!   (-mbranches-within-32B-boundaries) count for nothing either;
//! - the length of direct jumps: the assembler resolves a jump within a section, and takes
//!   the short form where it reaches. A jump inside the function must lead to the matching
//!   instruction; one out of it has a relocation in the object file, or is an [`Exit`];
//! - what linkers make of accesses through the GOT and to thread-local variables when they
//!   know the symbol's place (x86-64 psABI, "Linker Optimization", and "ELF Handling For
//!   Thread-Local Storage").
//!
//! Everything else must be equal byte by byte, or it is a [`Mismatch`], which shows both
//! instructions. A match proves nothing about what the fields and exits refer to; comparing the
//! values with what is known of the symbols is up to the caller, as are jump tables and constants.

mod field;
mod matched;
mod mismatch;
mod padding;
mod pattern;
mod prefix;
mod relaxed;
mod tls_base;
mod walk;

pub use field::{Field, FieldKind, Value};
pub use matched::{Exit, Matched};
pub use mismatch::{Difference, Mismatch};
pub use padding::begins_with_nop;
pub use pattern::Pattern;

/// Compares a function's code in an object file, `before`, whose relocations are `fields`
/// in any order, with the program's code at `address`. `running` holds the latter's bytes as
/// far as they are known, and may go on behind the function's end: what follows the last
/// instruction there is not looked at.
///
/// # Errors
///
/// [`Mismatch`] names the first instruction that differs. A branch differs when it leads to
/// another instruction; that is checked when all the rest is equal.
pub fn match_code(
    before: &[u8],
    fields: &[Field],
    address: u64,
    running: &[u8],
) -> Result<Matched, Mismatch> {
    Pattern::new(before, fields).match_at(address, running)
}
