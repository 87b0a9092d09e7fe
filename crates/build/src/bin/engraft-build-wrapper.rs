//! A program that is nothing but the wrapper, for this crate's tests.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    engraft_build::run_as_wrapper().unwrap_or(ExitCode::FAILURE)
}
