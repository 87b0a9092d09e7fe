//! Whether a state read back from a target contradicts itself. The target may have written
//! over it: nothing that the rules take for granted may be taken for granted before this.

use std::collections::HashSet;

use crate::callbacks::{CallbackCall, Subject};
use crate::change::StateChange;
use crate::log::LOG_LINES;
use crate::patch::{Code, Object, Patch, PatchId, Range, Replacement};
use crate::state::{MAX_PATCHES, State};
use crate::transition::{Phase, Transition};

/// No counter gets there by counting.
const MAX_COUNT: u64 = 1 << 62;

impl State {
    /// Finds contradictions.
    ///
    /// # Errors
    ///
    /// What contradicts what.
    pub fn check_sound(&self) -> Result<(), &'static str> {
        let ids: HashSet<PatchId> = self.patches().map(|patch| patch.id).collect();
        let names: HashSet<&str> = self.patches().map(|patch| &*patch.name).collect();
        let count = self.patches().count();
        require(count <= MAX_PATCHES, "too many patches")?;
        require(ids.len() == count, "two patches have one number")?;
        require(names.len() == count, "two patches have one name")?;
        let numbered =
            ids.iter().all(|id| id.0 < self.next_patch) && self.next_patch < u32::MAX / 2;
        require(numbered, "a patch has a number that is not given yet")?;
        require(self.next_call < MAX_COUNT, "too many callbacks")?;
        self.patches().try_for_each(check_patch)?;
        self.check_log()?;
        self.transition
            .as_ref()
            .map_or(Ok(()), |transition| self.check_transition(transition))
    }

    fn check_log(&self) -> Result<(), &'static str> {
        let lines = self.log.lines();
        let written = lines.len() as u64..MAX_COUNT;
        require(
            lines.len() <= LOG_LINES && written.contains(&self.log.written()),
            "the log counts its lines wrongly",
        )?;
        let placed = self.log.lines().all(|line| line.stamp.position < MAX_COUNT);
        require(placed, "a line of the log is nowhere")
    }

    fn check_transition(&self, transition: &Transition) -> Result<(), &'static str> {
        require(
            self.position(transition.patch).is_some(),
            "a patch in transition is not on the stack",
        )?;
        require(transition.attempts < MAX_COUNT, "too many attempts")?;
        let known = |change: &StateChange| {
            let patch = self.patch(change.patch);
            patch.is_some_and(|patch| change.index < patch.states.len())
        };
        let all_known = transition.changes.iter().all(known);
        require(all_known, "a state that changes belongs to no patch")?;
        match &transition.phase {
            Phase::Calling(call) => require(
                self.is_of_transition(transition, call) && call.sequence < self.next_call,
                "a callback belongs to nothing",
            ),
            Phase::Installing | Phase::Switching | Phase::Settling => Ok(()),
        }
    }

    fn is_of_transition(&self, transition: &Transition, call: &CallbackCall) -> bool {
        match call.subject {
            Subject::Object(index) => {
                let patch = self.patch(call.patch);
                call.patch == transition.patch && patch.is_some_and(|p| index < p.objects.len())
            }
            Subject::State(index) | Subject::Shadows(index) => {
                let mut changes = transition.changes.iter();
                changes.any(|c| (c.patch, c.index) == (call.patch, index))
            }
        }
    }
}

fn check_patch(patch: &Patch) -> Result<(), &'static str> {
    patch.objects.iter().try_for_each(check_object)
}

fn check_object(object: &Object) -> Result<(), &'static str> {
    let sound = |code: &Code| code.parts().all(Range::is_sound);
    for func in &object.funcs {
        let known = func.old.is_some() == object.loaded;
        require(known, "a function is known without its object")?;
        let new = match &func.replacement {
            Replacement::New(code) => Some(code),
            Replacement::Nop => None,
        };
        let codes = [func.old.as_ref(), new];
        let all_sound = codes.into_iter().flatten().all(sound);
        require(all_sound, "code lies outside the address space")?;
    }
    require(
        object.loaded || !object.patched,
        "an object is patched and not loaded",
    )?;
    require(
        object.patched || !object.settled,
        "an object has settled and is not patched",
    )
}

fn require(condition: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(otherwise) }
}
