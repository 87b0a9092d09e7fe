//! What the rules need from a live target, and what it answers.

use serde::{Deserialize, Serialize};

use crate::arrival::Sighting;
use crate::callbacks::CallbackCall;
use crate::state::State;

/// Effects. Every one is idempotent: a tool that was killed leaves the saved state behind,
/// and the next one repeats the effect that follows from it.
pub trait Target {
    /// The tool cannot go on (target died, I/O failed); the state stays as last saved.
    type Error;

    /// Commits the whole state durably, all or nothing.
    ///
    /// # Errors
    /// When it could not be committed; the previous state is then still in force.
    fn save(&mut self, state: &State) -> Result<(), Self::Error>;

    /// Runs a callback and returns its value (0 for those that return nothing). At most one
    /// run per [`CallbackCall::sequence`]: asked again for one that has finished, it
    /// returns the recorded value.
    ///
    /// # Errors
    /// When the value cannot be known; the call will be asked for again.
    fn run_callback(&mut self, call: &CallbackCall) -> Result<i32, Self::Error>;

    /// Objects of patches on the stack whose being there differs from what `state` says, or
    /// that have been away meanwhile. Whoever loads or unloads a library from now on acts by
    /// what was last saved: a thread that still acts by something older is waited for.
    ///
    /// # Errors
    /// When it cannot be known.
    fn sight_objects(&mut self, state: &State) -> Result<Vec<Sighting>, Self::Error>;

    /// Makes the target's code match [`crate::routes`] of `state`. The inner error says
    /// that one function cannot be redirected or restored; then nothing was changed. For
    /// routes that are in force already it must succeed.
    ///
    /// # Errors
    /// When it is unknown how far it came; it will be asked for again.
    ///
    /// What belongs to an object that has come or gone since it was last asked for
    /// ([`Self::sight_objects`]) is left alone.
    fn apply_routes(&mut self, state: &State) -> Result<Result<(), RouteFailure>, Self::Error>;

    /// One pass over all threads: each that is not at the transition's target and passes
    /// the check (or regardless of it, see [`Switch`]) is made to carry
    /// [`crate::Transition::wanted_value`]. One that is in an object which has come since that was
    /// last asked for ([`Self::sight_objects`]) does not pass.
    ///
    /// # Errors
    /// When the pass could not be finished; threads switched so far stay switched.
    fn switch_threads(&mut self, state: &State, how: Switch) -> Result<Pass, Self::Error>;

    /// Time of a log line in nanoseconds, from a clock that never goes back and is the same
    /// for every invocation of the tool.
    fn now(&self) -> u64;

    /// End of the target's own log (lines printed by patch modules), so that both logs can
    /// be merged in order.
    fn log_position(&self) -> u64;
}

/// How a pass treats a thread whose stack forbids switching it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Leave it ([`crate::forbidden`] says what to look for).
    Check,
    /// Switch it all the same.
    Force,
}

/// Result of one pass over the threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Threads switched by this pass.
    pub switched: usize,
    /// Threads seen.
    pub total: usize,
    /// Those that could not be switched.
    pub blockers: Vec<Blocker>,
    /// A full listing begun after the last switch found nobody else to switch.
    pub complete: bool,
}

/// A thread that could not be switched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// Thread id.
    pub tid: i32,
    /// Thread name.
    pub comm: String,
    /// Why not.
    pub verdict: Verdict,
}

/// What was found out about one thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is, or may be put, at the target.
    Switched,
    /// It could not be stopped to look at it.
    Running,
    /// Its stack cannot be read with certainty, for this reason.
    Unreliable(String),
    /// It is inside, or will return into, code of this old function that must not be left
    /// behind.
    OnStack(String),
}

/// Why one function could not be redirected or restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("function {function} cannot be redirected: {reason}")]
pub struct RouteFailure {
    /// Object of the function; `None` is the main executable.
    pub object: Option<String>,
    /// Old name of the function.
    pub function: String,
    /// Positive errno, EBUSY when somebody else owns the entry.
    pub errno: i32,
    /// What was found and the way out.
    pub reason: String,
}
