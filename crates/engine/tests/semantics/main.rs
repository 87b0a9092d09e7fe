//! The livepatch rules on real processes: what only a process can show.

#[path = "../support/mod.rs"]
mod support;

mod arrivals;
mod force;
mod objects;
mod order;
mod parameters;
mod refusals;
mod replace;
mod scene;
mod states;
mod upkeep;
