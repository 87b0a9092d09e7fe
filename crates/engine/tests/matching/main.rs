//! Modules that carry pre-patch code: it is found in real programs, stripped or not, and what
//! differs is refused.
#![allow(missing_docs)]

mod bindings;
mod equal;
mod hostile;
mod library;
mod many;
mod parts;
mod pre_code;
mod programs;
mod refused;
#[path = "../support/mod.rs"]
mod support;
mod variants;
