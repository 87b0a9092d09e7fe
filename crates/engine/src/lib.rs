//! Binds the livepatch rules to a live process: loads patch modules into it, redirects its
//! functions, moves its threads, runs callbacks in it.
//!
//! Everything needed to go on after this tool was killed lies in the target ([`Engine`]
//! opens whatever it finds there). The rules themselves are `engraft_core`'s: this crate
//! must not decide what may be enabled, in which order callbacks run or when a transition
//! is complete. It must not know instructions (`engraft_arch`), file formats
//! (`engraft_elf`, `engraft_module`) or ptrace (`engraft_process`) either.
#![forbid(unsafe_code)]

mod arena;
mod arrivals;
mod attached;
mod bind;
mod borrowing;
mod check;
mod control;
mod database;
mod debugging;
mod describe;
mod engine;
mod error;
mod frames;
mod live;
mod loader;
mod loading;
mod log;
mod matching;
mod migrate;
mod objects;
mod params;
mod preview;
mod profiling;
mod redirect;
mod sound;
mod space;
mod stacks;
mod status;
mod timeline;
mod trial;
mod unloading;

pub use check::{CheckReport, CheckedFunction, check};
pub use debugging::read_symbol_file;
pub use engine::Engine;
pub use engraft_elf::CodeFile;
pub use engraft_process::find_by_executable as find_processes;
pub use error::{Error, Kind};
pub use loading::LoadRequest;
pub use log::{LogLine, read_log};
pub use profiling::{MappedCode, read_mapped_code};
pub use status::{
    BlockerStatus, Direction, FunctionStatus, ObjectStatus, PatchState, PatchStatus, StateStatus,
    Status, TransitionStatus, read_status,
};
pub use timeline::{CommonStop, Look, Outcome, Timeline};
