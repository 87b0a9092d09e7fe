//! Refusals: what was asked, why not, and the way out.

use serde::{Deserialize, Serialize};

use crate::target::RouteFailure;

const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ECANCELED: i32 = 125;

/// Why an operation ended without doing what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The rules forbid it, or a callback or function refused. The target is consistent,
    /// and nothing of the operation remains.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The target could not be worked on. The state is as last saved; the next invocation
    /// goes on from there.
    #[error("target: {0}")]
    Target(E),
}

/// A refusal concerning one patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}{kind}", introduce(.patch))]
pub struct Refusal {
    /// Name of the patch; empty for [`RefusalKind::NoTransition`].
    pub patch: String,
    /// The reason.
    pub kind: RefusalKind,
}

/// How a refusal that concerns a patch begins.
fn introduce(patch: &str) -> String {
    match patch {
        "" => String::new(),
        _ => format!("patch '{patch}': "),
    }
}

impl Refusal {
    pub(crate) fn new(patch: &str, kind: RefusalKind) -> Self {
        let patch = patch.to_owned();
        Self { patch, kind }
    }

    /// What the kernel logs about this refusal, where it logs anything.
    #[must_use]
    pub fn log_line(&self) -> Option<String> {
        let name = &self.patch;
        matches!(self.kind, RefusalKind::Incompatible { .. }).then(|| {
            format!(
                "Livepatch patch ({name}) is not compatible with the already installed livepatches."
            )
        })
    }

    /// The kernel's (positive) errno for this refusal.
    #[must_use]
    pub fn errno(&self) -> i32 {
        use RefusalKind as K;
        match &self.kind {
            K::Unknown => ENOENT,
            K::AlreadyRegistered { .. } | K::DuplicateObject(_) | K::DuplicateFunc { .. } => EEXIST,
            K::TooMany => ENOMEM,
            K::BadName(_)
            | K::NoObjects
            | K::EmptyObject(_)
            | K::BadFunc { .. }
            | K::BadState { .. }
            | K::ForeignSet { .. }
            | K::Irrevocable { .. }
            | K::Disagrees { .. }
            | K::Incompatible { .. }
            | K::AlreadyEnabled
            | K::NotEnabled
            | K::Replaced { .. }
            | K::NoTransition => EINVAL,
            K::Busy { .. } | K::Beneath { .. } | K::Settling => EBUSY,
            // the kernel passes the callback's value through: a negative errno by convention
            K::PrePatch { value, .. } => value.saturating_abs(),
            K::Redirect(failure) => failure.errno.saturating_abs(),
            K::Canceled => ECANCELED,
            K::InUse(_) => EAGAIN,
        }
    }
}

/// Reasons for a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RefusalKind {
    /// No patch of that name is registered.
    #[error("is not loaded; load it first")]
    Unknown,
    /// The name is taken.
    #[error("is already loaded; {way_out}")]
    AlreadyRegistered {
        /// What can be done about it.
        way_out: String,
    },
    /// [`crate::MAX_PATCHES`] are registered.
    #[error("too many patches are loaded; unload those that were replaced")]
    TooMany,
    /// A patch or object name is empty, too long or holds control characters.
    #[error(
        "name {0:?} is empty, longer than 55 bytes or holds control characters; rename the module"
    )]
    BadName(String),
    /// It has no objects.
    #[error(
        "has no objects; list at least one in klp_patch.objs (an entry without name and funcs ends the list: callbacks alone need a funcs array that holds only the empty entry)"
    )]
    NoObjects,
    /// An object has neither funcs nor callbacks.
    #[error("object '{0}' has neither funcs nor callbacks; remove it from klp_patch.objs")]
    EmptyObject(String),
    /// An object is listed twice.
    #[error("object '{0}' is listed twice; merge the entries")]
    DuplicateObject(String),
    /// An old function is listed twice.
    #[error("function '{function}' of object '{object}' is listed twice; keep one entry")]
    DuplicateFunc {
        /// The object.
        object: String,
        /// The function.
        function: String,
    },
    /// A func is incomplete or its addresses make no sense.
    #[error("function '{function}' of object '{object}' {reason}")]
    BadFunc {
        /// The object.
        object: String,
        /// The function.
        function: String,
        /// What is wrong and the way out.
        reason: String,
    },
    /// A state is not what one can be.
    #[error("state {id} {reason}")]
    BadState {
        /// The state.
        id: u64,
        /// What is wrong and the way out.
        reason: String,
    },
    /// A patch of another set changes the same function, or has the same state.
    #[error(
        "{what} belongs to patch '{other}' of replace set {set}, too; give both patches the same replace_set, or unload '{other}'"
    )]
    ForeignSet {
        /// The function or state.
        what: String,
        /// The other patch.
        other: String,
        /// Its set.
        set: u32,
    },
    /// A state would disappear that its author declared impossible to take back.
    #[error(
        "state {id} of '{owner}' would disappear, and it cannot be taken back (block_disable); use a patch that has this state, too, or restart the target"
    )]
    Irrevocable {
        /// The state.
        id: u64,
        /// The patch that has it.
        owner: String,
    },
    /// Another patch knows this object or function to be somewhere else.
    #[error(
        "'{what}' is not where patch '{other}' found it (the library was unloaded and loaded again meanwhile); try again"
    )]
    Disagrees {
        /// The object or function.
        what: String,
        /// The other patch.
        other: String,
    },
    /// The kernel's `klp_is_patch_compatible` says no.
    #[error(
        "is not compatible with '{other}': state {id} {reason}; build it on top of '{other}', or disable '{other}' first"
    )]
    Incompatible {
        /// The installed patch.
        other: String,
        /// The state.
        id: u64,
        /// What is wrong.
        reason: String,
    },
    /// It is enabled, or being enabled.
    #[error("is already enabled; nothing to do")]
    AlreadyEnabled,
    /// It is not enabled, or is being disabled.
    #[error("is not enabled; nothing to do")]
    NotEnabled,
    /// It was replaced and can come back only by a new load.
    #[error("was replaced by a newer patch; {way_out}")]
    Replaced {
        /// What can be done about it.
        way_out: String,
    },
    /// No transition runs, so there is nothing to force.
    #[error("no transition is running; nothing to force")]
    NoTransition,
    /// Another patch is in transition.
    #[error("patch '{by}' is in transition; wait for it, reverse it or force it")]
    Busy {
        /// The patch in transition.
        by: String,
    },
    /// A newer enabled patch changes the same function.
    #[error(
        "function '{function}' is also changed by the newer enabled patch '{newer}'; disable '{newer}' first or use --any-order"
    )]
    Beneath {
        /// The newer patch.
        newer: String,
        /// A function that both change.
        function: String,
    },
    /// Every thread has been moved, so the transition can no longer be reversed.
    #[error(
        "its transition is being completed and cannot be reversed or forced; wait for it to complete"
    )]
    Settling,
    /// A pre_patch callback refused.
    #[error("pre_patch callback of {subject} returned {value}; the log of the target may say why")]
    PrePatch {
        /// The object or state.
        subject: String,
        /// What the callback returned.
        value: i32,
    },
    /// A function could not be redirected.
    #[error(transparent)]
    Redirect(RouteFailure),
    /// The initialisation of its module failed.
    #[error("its module was not initialised; load it again")]
    Canceled,
    /// It cannot be unloaded.
    #[error("is in use: {0}")]
    InUse(InUse),
}

/// What keeps a patch module loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum InUse {
    /// It is enabled.
    #[error("it is enabled; disable it first")]
    Enabled,
    /// It is in transition, or its replacement is being completed.
    #[error("it is in transition; wait for it to complete")]
    InTransition,
    /// A thread was forced out of its code and may still be in it.
    #[error(
        "a transition away from it was forced, so it stays loaded for ever; restart the target to get rid of it"
    )]
    Forced,
}
