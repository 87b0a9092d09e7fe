//! x86-64: decode, relocate, encode. The one crate that knows instructions.
//!
//! Bytes and addresses in, bytes and answers out. This crate must not know processes,
//! patches, transitions or ELF, performs no I/O and contains no `unsafe`. Where an answer
//! needs data that lies elsewhere in a program (jump tables), the caller passes a
//! [`Reader`].
//!
//! - [`entry`]: how a function takes a redirect of its first bytes, or why it cannot.
//! - [`relocate`]: a copy of displaced instructions at another address.
//! - [`stub`]: entry jump, router, selector and preserve thunk, with unwinding rows.
//! - [`frame`]: where a function keeps its return address, told from its instructions.
//! - [`reliance`]: what callers compiled with gcc's -fipa-ra rely on beyond the psABI.
//! - [`matching`]: whether a program contains a function that an object file has, and what
//!   its relocated fields refer to there.
//! - [`decode`]: small questions about single instructions.
//! - [`immediate`]: numbers that differ between two versions of the same code.
#![forbid(unsafe_code)]

pub mod decode;
pub mod entry;
mod flow;
pub mod frame;
pub mod immediate;
mod jump_table;
pub mod matching;
mod registers;
pub mod reliance;
pub mod relocate;
pub mod stub;

pub use jump_table::Reader;
pub use registers::{Register, RegisterSet};
