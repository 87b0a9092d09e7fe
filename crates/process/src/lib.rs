//! One process from outside: its threads, stops, memory, and code run in it on a borrowed
//! thread.
//!
//! Every ptrace request must come from the operating system's thread that seized, so
//! nothing here is `Send`. The one thread that is started here (`bystander`) makes none.
//!
//! This crate must not know patches, modules, symbols, unwinding or the livepatch rules: it
//! stops and moves threads where it is told to, and says what it found.

mod arena;
mod borrow;
mod bystander;
mod error;
mod event;
mod filters;
mod identity;
mod inside;
mod lock;
mod maps;
mod memory;
mod pod;
mod progress;
mod restart;
mod stop;
mod sys;
mod thread;
mod tracer;

pub use arena::{ArenaPlan, Slack, clear_slack, create_arena};
pub use borrow::{Borrowed, Command, RuntimePlaces, Upcall};
pub use error::{Error, Kind};
pub use filters::require_liftable;
pub use identity::{
    Asleep, Identity, ThreadStat, count_threads, find_by_executable, is_being_killed, list_threads,
    living_thread, open_shared, read_asleep, read_thread_stat,
};
pub use lock::ProcessLock;
pub use maps::{Mapping, read_maps};
pub use memory::Memory;
pub use pod::{Pod, bytes_of};
pub use progress::Stops;
pub use restart::{Resume, is_timed_wait, resume_point};
pub use stop::{Held, StopReport, stop_all};
pub use sys::{read_tsc, xsave_mask};
pub use thread::{Registers, Stopped};
pub use tracer::{StopOutcome, Tracer};
