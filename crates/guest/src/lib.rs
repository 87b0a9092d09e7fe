//! What a guest with the kernel's livepatch and its host say to each other: steps of a scenario,
//! and what is seen after them.
//!
//! The program beside this library takes the steps. This crate must not know what the steps should
//! lead to, or that there is another side.
#![forbid(unsafe_code)]

mod failure;
mod scenario;

use serde::{Deserialize, Serialize};

pub use failure::{Context, Failure};
pub use scenario::{Outcome, Patch, Step};

/// What the host asks for, one line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// To take a step.
    Take(Step),
    /// To run a program; the outcome has its exit status in place of an error, and all that it
    /// has printed.
    Run(Vec<String>),
    /// To undo all of them.
    Reset,
}

/// What it is told: an outcome, or why the guest is of no more use.
pub type Response = Result<Outcome, String>;
