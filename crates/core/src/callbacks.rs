//! Callbacks: which one is next, and what follows from its result.
//!
//! What a state sets up is there before anything of a patch uses it and until nothing does any
//! more, so states come first where a patch comes and last where it goes. What only the patches
//! being replaced have begins to be taken back when nothing can refuse any more.

use serde::{Deserialize, Serialize};

use crate::change::Step;
use crate::patch::{Object, Patch, PatchId};
use crate::state::State;
use crate::transition::Phase;

/// The four callbacks of an object or a state; also the four parts of a transition in which
/// those of objects run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CallbackKind {
    /// Before the object's functions are redirected; may veto.
    PrePatch,
    /// After every thread runs the patch.
    PostPatch,
    /// Before threads are moved away from the patch.
    PreUnpatch,
    /// After no thread runs the patch.
    PostUnpatch,
}

/// What a call concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// Index in [`Patch::objects`].
    Object(usize),
    /// Index in [`Patch::states`].
    State(usize),
    /// The shadow variables that this state owns are to be freed.
    Shadows(usize),
}

/// One call of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallbackCall {
    /// Number of this call; calls with the same number are the same call.
    pub sequence: u64,
    /// The patch that the callback belongs to. A replacing one takes back the states of those
    /// that it replaces with their own callbacks.
    pub patch: PatchId,
    /// What it is called for.
    pub subject: Subject,
    /// The part of the transition that it belongs to.
    pub stage: CallbackKind,
    /// Which callback.
    pub kind: CallbackKind,
    /// Address of the function; 0 where shadow variables are to be freed.
    pub address: u64,
    /// What it is given: the object's handle; the patch's and the state's; the id of shadow
    /// variables and the address of the function to be called for each, 0 for none.
    pub arguments: [u64; 2],
}

impl CallbackCall {
    /// Index of the object that it is called for.
    #[must_use]
    pub fn object(&self) -> Option<usize> {
        match self.subject {
            Subject::Object(index) => Some(index),
            Subject::State(_) | Subject::Shadows(_) => None,
        }
    }
}

/// A call that is to be made, if there is a function to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) patch: PatchId,
    pub(crate) subject: Subject,
    pub(crate) kind: CallbackKind,
}

impl State {
    /// Sets the phase to the next call of this part of the transition. `false` when there is
    /// none left; the phase is then unchanged.
    ///
    /// What has no callback is treated here as if it had run and succeeded.
    pub(crate) fn seek_call(&mut self, stage: CallbackKind) -> bool {
        while let Some(due) = self.find_due(stage) {
            let Some((address, arguments)) = self.find_function(&due) else {
                self.note_result(&due, 0);
                continue;
            };
            let sequence = self.next_call;
            self.next_call += 1;
            self.set_phase(Phase::Calling(CallbackCall {
                sequence,
                patch: due.patch,
                subject: due.subject,
                stage,
                kind: due.kind,
                address,
                arguments,
            }));
            return true;
        }
        false
    }

    fn find_due(&self, stage: CallbackKind) -> Option<Due> {
        let objects = || self.find_due_object(stage);
        match stage {
            CallbackKind::PrePatch => (self.find_opening(true))
                .or_else(objects)
                .or_else(|| self.find_opening(false)),
            CallbackKind::PreUnpatch => objects().or_else(|| self.find_opening(false)),
            CallbackKind::PostPatch => (self.find_closing(true))
                .or_else(objects)
                .or_else(|| self.find_closing(false)),
            CallbackKind::PostUnpatch => objects()
                .or_else(|| self.find_closing(false))
                .or_else(|| self.find_closing(true)),
        }
    }

    fn find_due_object(&self, stage: CallbackKind) -> Option<Due> {
        let patch = self.patch_in_transition()?;
        let index = patch.objects.iter().position(|o| is_due(o, stage))?;
        Some(Due {
            patch: patch.id,
            subject: Subject::Object(index),
            kind: stage,
        })
    }

    /// Address of the function to be called, and what it is given.
    fn find_function(&self, due: &Due) -> Option<(u64, [u64; 2])> {
        let patch = self.patch(due.patch)?;
        let of_state = |index: usize| {
            let state = patch.states.get(index)?;
            Some((state, state.upkeep?))
        };
        match due.subject {
            Subject::Object(index) => {
                let object = patch.objects.get(index)?;
                Some((object.callbacks.address(due.kind)?, [object.handle, 0]))
            }
            Subject::State(index) => {
                let (_, upkeep) = of_state(index)?;
                let arguments = [patch.handle, upkeep.handle];
                Some((upkeep.callbacks.address(due.kind)?, arguments))
            }
            Subject::Shadows(index) => {
                let (state, upkeep) = of_state(index)?;
                let is_free = upkeep.owns_shadows && self.forced_user(state.id).is_none();
                is_free.then_some((0, [state.id, upkeep.shadow_dtor.unwrap_or(0)]))
            }
        }
    }

    /// A patch that threads were forced out of while it used this state: some may still be in it.
    pub(crate) fn forced_user(&self, state: u64) -> Option<&Patch> {
        self.patches()
            .find(|patch| patch.forced && patch.state(state).is_some())
    }

    /// Records what a callback returned.
    pub(crate) fn record_result(&mut self, call: &CallbackCall, value: i32) {
        let due = Due {
            patch: call.patch,
            subject: call.subject,
            kind: call.kind,
        };
        self.note_result(&due, value);
    }

    fn note_result(&mut self, due: &Due, value: i32) {
        match due.subject {
            Subject::Object(index) => {
                if let Some(object) = self.object_mut(due.patch, index) {
                    note_object(object, due.kind, value);
                }
            }
            Subject::State(index) | Subject::Shadows(index) => {
                let next = match (due.subject, due.kind, value) {
                    (Subject::Shadows(_), ..) | (_, CallbackKind::PostPatch, _) => Step::Done,
                    (_, CallbackKind::PrePatch, 0) | (_, CallbackKind::PreUnpatch, _) => {
                        Step::Close
                    }
                    (_, CallbackKind::PrePatch | CallbackKind::PostUnpatch, _) => Step::Free,
                };
                self.set_step(due.patch, index, next);
            }
        }
    }
}

/// Whether this event still concerns the object; what its callback brings about ends that.
/// pre_unpatch is guarded by `patched`, post_unpatch by an earlier successful pre_patch: a
/// callback-only object counts like any other.
pub(crate) fn is_due(object: &Object, kind: CallbackKind) -> bool {
    match kind {
        CallbackKind::PrePatch => object.loaded && !object.patched && !object.post_unpatch_due,
        CallbackKind::PostPatch => object.loaded && object.patched && !object.settled,
        CallbackKind::PreUnpatch => object.patched && object.settled,
        CallbackKind::PostUnpatch => object.loaded && object.post_unpatch_due,
    }
}

fn note_object(object: &mut Object, kind: CallbackKind, value: i32) {
    match kind {
        CallbackKind::PrePatch => object.post_unpatch_due = value == 0,
        CallbackKind::PostUnpatch => object.post_unpatch_due = false,
        CallbackKind::PostPatch => object.settled = true,
        CallbackKind::PreUnpatch => object.settled = false,
    }
}
