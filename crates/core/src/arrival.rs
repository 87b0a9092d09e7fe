//! Objects that come and go: what is to be done without a tool when one does (spec sections
//! 8.2 and 9), and how the state catches up with what was done.
//!
//! Nobody waits for the tool: a library that is loaded while the tool works is treated by what
//! was last saved. So after every save, and before anything that relies on it, the driver asks
//! for what has happened meanwhile ([`crate::Target::sight_objects`]).

use std::collections::HashSet;

use crate::callbacks::{CallbackKind, Subject, is_due};
use crate::patch::{Code, Object, Patch, PatchId};
use crate::state::State;
use crate::transition::{Phase, Transition, Universe};

/// What is to be done with one object of one patch when it comes or goes.
#[derive(Clone, Copy, Debug)]
pub struct Watched<'a> {
    /// The patch.
    pub patch: &'a Patch,
    /// Index of the object in [`Patch::objects`].
    pub index: usize,
    /// When the object comes, the patch is applied to it.
    pub awaited: bool,
    /// The patch is in transition: post_patch and pre_unpatch are left to its end, and its
    /// funcs choose by thread.
    pub in_transition: bool,
}

impl Watched<'_> {
    /// The object.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.patch.objects[self.index]
    }
}

/// What has become of one object of one patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The patch.
    pub patch: PatchId,
    /// Index of the object in [`Patch::objects`].
    pub object: usize,
    /// Where its funcs are, in order; `None` when it has gone. If it was known to be loaded,
    /// it has been loaded anew meanwhile.
    pub loaded: Option<Vec<Code>>,
    /// Which load of it that is ([`Object::load`]).
    pub load: u64,
    /// What was done when it came; `None` when nobody applied the patch to it.
    pub applied: Option<Applied>,
}

/// How a patch was applied to an object that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// post_patch has run, too ([`Object::settled`]).
    pub settled: bool,
}

impl State {
    /// The libraries of patches and what is to be done when one comes or goes, in the order in
    /// which it is to be done: oldest patch first, so that the newest ends up on top. Also one
    /// that is not awaited is listed: something may be owed to it.
    pub fn watched(&self) -> impl Iterator<Item = Watched<'_>> {
        let patches = self.stack.iter().filter(|patch| !patch.leaving);
        patches.flat_map(move |patch| {
            let transition = self.transition.as_ref().filter(|t| t.patch == patch.id);
            let stage = stage_of(patch, transition);
            let objects = patch.objects.iter().enumerate();
            let libraries = objects.filter(|(_, object)| object.name.is_some());
            libraries.map(move |(index, _)| Watched {
                patch,
                index,
                awaited: stage.awaited,
                in_transition: stage.in_transition,
            })
        })
    }

    /// Brings one object in line with what was seen.
    pub(crate) fn take_in(&mut self, sighting: Sighting) {
        let Some(patch) = self.stack.iter().find(|p| p.id == sighting.patch) else {
            return;
        };
        let transition = self.transition.as_ref().filter(|t| t.patch == patch.id);
        let is_pushed = !patch.leaving && keeps_pushed(patch, transition);
        let has_callbacks = !patch.leaving;
        self.renew_call(sighting.patch, sighting.object);
        let Some(object) = self.object_mut(sighting.patch, sighting.object) else {
            return;
        };
        leave(object);
        if let Some(codes) = sighting.loaded {
            object.loaded = true;
            object.load = sighting.load;
            for (func, code) in object.funcs.iter_mut().zip(codes) {
                func.old = Some(code);
            }
            drop_aliases(object);
        }
        if let Some(applied) = sighting.applied.filter(|_| object.loaded) {
            object.post_unpatch_due = has_callbacks;
            object.patched = is_pushed;
            object.settled = is_pushed && applied.settled;
        }
    }

    /// What a callback returned for an object that has gone says nothing about the one that is
    /// there now.
    fn renew_call(&mut self, patch: PatchId, object: usize) {
        if let Some(Transition { phase, .. }) = &mut self.transition
            && let Phase::Calling(call) = phase
            && (call.patch, call.subject) == (patch, Subject::Object(object))
        {
            call.sequence = self.next_call;
            self.next_call += 1;
        }
    }

    /// Whether an object of the patch in transition has come without having been treated like
    /// the others yet, and what it waits for.
    pub(crate) fn latecomer_call(&self) -> Option<CallbackKind> {
        let transition = self.transition.as_ref()?;
        let mut objects = self.patch_in_transition()?.objects.iter();
        match transition.target {
            Universe::Patched => objects
                .any(|object| object.loaded && !object.patched)
                .then_some(CallbackKind::PrePatch),
            Universe::Unpatched => objects
                .any(|object| object.patched && object.settled)
                .then_some(CallbackKind::PreUnpatch),
        }
    }

    /// The callback that is to be run, if its object has gone meanwhile or been treated already.
    pub(crate) fn is_call_void(&self) -> Option<CallbackKind> {
        let Some(Phase::Calling(call)) = self.transition.as_ref().map(|t| &t.phase) else {
            return None;
        };
        let object = self.patch(call.patch)?.objects.get(call.object()?)?;
        (!is_due(object, call.kind)).then_some(call.stage)
    }
}

/// Drops nops for functions that the object has under another name, too: that could not be
/// known before.
pub(crate) fn drop_aliases(object: &mut Object) {
    let mut seen = HashSet::new();
    object
        .funcs
        .retain(|func| seen.insert(func.entry()) || !func.is_nop());
}

/// An object that is not there: nothing is owed to it.
fn leave(object: &mut Object) {
    object.loaded = false;
    object.patched = false;
    object.settled = false;
    object.post_unpatch_due = false;
    for func in &mut object.funcs {
        func.old = None;
    }
}

struct Stage {
    awaited: bool,
    in_transition: bool,
}

fn stage_of(patch: &Patch, transition: Option<&Transition>) -> Stage {
    let (awaited, in_transition) = match transition {
        None => (patch.enabled, false),
        Some(transition) => match &transition.phase {
            Phase::Installing | Phase::Switching => (true, true),
            Phase::Settling => (transition.target == Universe::Patched, false),
            Phase::Calling(call) => match call.stage {
                CallbackKind::PrePatch | CallbackKind::PostUnpatch => (false, true),
                CallbackKind::PreUnpatch => (true, true),
                CallbackKind::PostPatch => (true, false),
            },
        },
    };
    Stage {
        awaited,
        in_transition,
    }
}

/// Whether what was pushed without the tool is still to be on the function stacks.
fn keeps_pushed(patch: &Patch, transition: Option<&Transition>) -> bool {
    match transition {
        None => patch.enabled,
        Some(transition) => match &transition.phase {
            Phase::Installing | Phase::Switching => true,
            Phase::Settling => transition.target == Universe::Patched,
            Phase::Calling(call) => call.stage != CallbackKind::PostUnpatch,
        },
    }
}
