//! Libraries that come and go while no tool is there (spec section 9). The dynamic linker calls
//! a function of its own whenever it has added objects or is about to remove some, for
//! debuggers to stop at (`r_debug.r_brk`, link.h). The tool lets that lead to
//! [`hook`], and says in a plan (see `engraft_abi`) what is to be done.
//!
//! What this side must not know: why something is to be done. It neither decides about
//! patches nor about transitions.

mod coming;
mod exported;
mod going;
mod hook;
mod instruction;
mod link_map;
mod linker;
mod mapped;
mod memory;
mod opcodes;
mod plan;
mod prologue;
mod push;
mod redirects;
mod symbol_file;
mod symbols;
mod table;
mod turn;

pub(crate) use turn::Turn;
