//! Callbacks: which one is next, and what follows from its result.

use serde::{Deserialize, Serialize};

use crate::patch::{Object, PatchId};
use crate::state::State;
use crate::transition::Phase;

/// The four callbacks of an object.
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

/// One call of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallbackCall {
    /// Number of this call; calls with the same number are the same call.
    pub sequence: u64,
    /// The patch.
    pub patch: PatchId,
    /// Index of the object in [`crate::Patch::objects`].
    pub object: usize,
    /// Which callback.
    pub kind: CallbackKind,
    /// Address of the function.
    pub address: u64,
    /// The object's handle.
    pub handle: u64,
}

impl State {
    /// Sets the phase to the next call of this kind, in the objects' order. `false` when there
    /// is none left; the phase is then unchanged.
    ///
    /// Objects without the callback are treated here as if it had run and succeeded.
    pub(crate) fn seek_call(&mut self, kind: CallbackKind) -> bool {
        let Some(id) = self.transition.as_ref().map(|t| t.patch) else {
            return false;
        };
        let sequence = self.next_call;
        let Some(patch) = self.stacked_mut(id) else {
            return false;
        };
        for (index, object) in patch.objects.iter_mut().enumerate() {
            if !is_due(object, kind) {
                continue;
            }
            let Some(address) = address_of(object, kind) else {
                note_result(object, kind, 0);
                continue;
            };
            let call = CallbackCall {
                sequence,
                patch: id,
                object: index,
                kind,
                address,
                handle: object.handle,
            };
            self.next_call += 1;
            self.set_phase(Phase::Calling(call));
            return true;
        }
        false
    }

    /// Records what a callback returned.
    pub(crate) fn record_result(&mut self, call: &CallbackCall, value: i32) {
        if let Some(object) = self.object_mut(call.patch, call.object) {
            note_result(object, call.kind, value);
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

fn address_of(object: &Object, kind: CallbackKind) -> Option<u64> {
    match kind {
        CallbackKind::PrePatch => object.callbacks.pre_patch,
        CallbackKind::PostPatch => object.callbacks.post_patch,
        CallbackKind::PreUnpatch => object.callbacks.pre_unpatch,
        CallbackKind::PostUnpatch => object.callbacks.post_unpatch,
    }
}

fn note_result(object: &mut Object, kind: CallbackKind, value: i32) {
    match kind {
        CallbackKind::PrePatch => object.post_unpatch_due = value == 0,
        CallbackKind::PostUnpatch => object.post_unpatch_due = false,
        CallbackKind::PostPatch => object.settled = true,
        CallbackKind::PreUnpatch => object.settled = false,
    }
}
