//! What happened to each thread when, for whoever wants to see it.

use std::time::{Duration, Instant};

use crate::status::Direction;

/// One look at one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The thread.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// When.
    pub began: Instant,
    /// For how long: longer than the thread stood still, if it was stopped at all.
    pub took: Duration,
    /// Where the transition was heading.
    pub heading: Direction,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a look at a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is where the transition was heading.
    Switched,
    /// It stays where it is, for this reason.
    Blocked(String),
}

/// All threads stood still together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommonStop {
    /// Since when the first running thread did.
    pub began: Instant,
    /// For how long.
    pub held: Duration,
    /// How many there were.
    pub threads: usize,
}

/// What was done to threads from a moment on.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// That moment.
    pub began: Instant,
    /// Looks, in order.
    pub looks: Vec<Look>,
    /// Common stops, in order.
    pub stops: Vec<CommonStop>,
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            looks: Vec::new(),
            stops: Vec::new(),
        }
    }
}
