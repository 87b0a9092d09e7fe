//! The same livepatches on a real kernel and on a process, and whether both do the same.
//!
//! A scenario is a list of steps. One side takes them on Debian's kernel in QEMU, through the
//! kernel's own interface; the other on a process, through the engine. Whatever can be seen from
//! outside after each step must be equal. This crate must not know how either side does it: no
//! rule of livepatch is written down here.
#![forbid(unsafe_code)]

pub mod commands;
mod compare;
pub mod kernel;
pub mod named;
pub mod process;
pub mod random;
pub mod shrink;
mod side;
mod sources;

pub use compare::{Difference, compare, run};
pub use side::Side;
