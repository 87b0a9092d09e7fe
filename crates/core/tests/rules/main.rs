//! The rules on the simulator, one named test each.

mod check;
mod common;
mod faults;
mod force;
mod order;
mod register;
mod replace;
mod routes;
mod selftests;
mod states;
mod transition;
