//! The livepatch rules: stack, replace, nops, transition, callbacks, states.
//!
//! Everything lives in [`State`]; [`Driver`] changes it in small steps and commits each
//! through a [`Target`], which also carries out the few effects. After a step the tool may
//! be killed: the next one loads the committed state and goes on.
//!
//! This crate must not know ptrace, ELF, what lies at an address, or how a state is
//! serialized. It performs no I/O, reads no clock and starts no thread.
//!
//! One difference from the kernel's order of events: the kernel redirects the functions of
//! an object right after that object's pre_patch callback, before the next object's. Here
//! all pre_patch callbacks run first and then one common stop redirects everything. Threads
//! cannot tell, because until the transition starts all of them run the old code either way.
#![forbid(unsafe_code)]

mod arrival;
mod callbacks;
mod change;
mod check;
mod complete;
mod coverage;
mod drive;
mod error;
mod log;
mod patch;
mod register;
mod replace;
mod route;
mod sound;
mod stack;
mod state;
mod states;
mod target;
mod token;
mod transition;

#[cfg(feature = "simulator")]
pub mod sim;

pub use arrival::{Applied, Sighting, Watched};
pub use callbacks::{CallbackCall, CallbackKind, Subject};
pub use change::{StateChange, Step};
pub use check::{Address, ForbiddenRange, check_stack, forbidden};
pub use drive::{Driver, Order, Progress, STALL_NANOSECONDS};
pub use error::{Error, InUse, Refusal, RefusalKind};
pub use log::{LOG_LINES, Level, Line, Log, Stamp};
pub use patch::{
    Callbacks, Code, Func, NewObject, NewPatch, Object, Patch, PatchId, Range, Replacement,
    SystemState, Upkeep,
};
pub use route::{Impl, Route, RouteKind, routes};
pub use state::{Listed, MAX_PATCHES, State};
pub use target::{Blocker, Pass, RouteFailure, Switch, Target, Verdict};
pub use token::Token;
pub use transition::{Phase, Transition, Universe};
