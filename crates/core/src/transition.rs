//! The one transition that may run: its phases and its direction.

use serde::{Deserialize, Serialize};

use crate::callbacks::CallbackCall;
use crate::change::StateChange;
use crate::error::Refusal;
use crate::patch::PatchId;
use crate::token::Token;

/// The two universes between which a transition moves threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Universe {
    /// The patch in transition is in force.
    Patched,
    /// It is not.
    Unpatched,
}

impl Universe {
    /// The other one.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Patched => Self::Unpatched,
            Self::Unpatched => Self::Patched,
        }
    }

    /// The kernel's word for the way there.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Patched => "patching",
            Self::Unpatched => "unpatching",
        }
    }
}

/// How far a transition has come. Each is a durable point from which any later invocation
/// of the tool goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// This callback is to be run, or was run and its result was not yet recorded.
    Calling(CallbackCall),
    /// The target's code is being brought in line with the routes; nobody has switched.
    Installing,
    /// Threads are being moved; the only phase that may last.
    Switching,
    /// Everybody has been moved; final routes are being written.
    Settling,
}

/// A transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The patch that comes or goes.
    pub patch: PatchId,
    /// Where it was heading at the start. A thread is there exactly if it carries `token`.
    pub initial_target: Universe,
    /// Where it is heading now; reversal flips this and nothing else about threads.
    pub target: Universe,
    /// Carried by threads that are at `initial_target`.
    pub token: Token,
    /// How far it is.
    pub phase: Phase,
    /// Passes over the threads since it was last started or reversed.
    pub attempts: u64,
    /// When it was last started or reversed ([`crate::Target::now`]).
    pub started: u64,
    /// The stall notice was given since then.
    pub stall_noticed: bool,
    /// The user gave up consistency for this direction.
    pub forcing: bool,
    /// Patches that lay above this one before it was moved to the top for enabling; empty
    /// if it was not moved.
    pub moved_from_below: Vec<PatchId>,
    /// States that appear or disappear with it.
    pub changes: Vec<StateChange>,
    /// Why it is being undone, if it is.
    pub failure: Option<Refusal>,
}

impl Transition {
    /// Whether a thread that carries the token is where the transition is heading. A thread
    /// needs to be switched exactly if carrying it differs from this.
    #[must_use]
    pub fn target_carries_token(&self) -> bool {
        self.target == self.initial_target
    }

    /// The value (GS base) that a thread has to carry to be at the target.
    #[must_use]
    pub fn wanted_value(&self) -> u64 {
        if self.target_carries_token() {
            self.token.value()
        } else {
            0
        }
    }

    /// The universe of a thread that carries `value`.
    #[must_use]
    pub fn universe_of(&self, value: u64) -> Universe {
        if value == self.token.value() {
            self.initial_target
        } else {
            self.initial_target.opposite()
        }
    }

    /// Whether the patch's funcs choose by thread (the kernel's `func.transition` on pushed
    /// funcs).
    #[must_use]
    pub fn is_selecting(&self) -> bool {
        matches!(self.phase, Phase::Installing | Phase::Switching)
    }
}
