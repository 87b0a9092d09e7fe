//! States that appear or disappear with a transition (design section 9): only for those with an
//! [`Upkeep`] of their own is something done. What another patch that stays or comes lists,
//! neither appears nor disappears.

use serde::{Deserialize, Serialize};

use crate::callbacks::{CallbackKind, Due, Subject};
use crate::error::{Refusal, RefusalKind};
use crate::patch::{Patch, PatchId, SystemState, Upkeep};
use crate::state::State;
use crate::transition::{Transition, Universe};

/// A state that appears or disappears with a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// The patch whose callbacks are run: the one that brings the state, or the newest of those
    /// that take it away.
    pub patch: PatchId,
    /// Index in [`Patch::states`].
    pub index: usize,
    /// It appears at the transition's initial target, or disappears there.
    pub appears: bool,
    /// What is to be done next.
    pub next: Step,
}

impl StateChange {
    /// Whether the state is there when the transition ends where it is heading.
    pub(crate) fn is_present(&self, transition: &Transition) -> bool {
        self.appears == (transition.target == transition.initial_target)
    }

    /// Those whose state has ended with the transition.
    pub(crate) fn ended_in(transition: &Transition) -> impl Iterator<Item = &Self> {
        let changes = transition.changes.iter();
        changes.filter(|change| change.next == Step::Done && !change.is_present(transition))
    }
}

/// How far a change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// pre_patch or pre_unpatch, before anybody is moved.
    Open,
    /// post_patch if the state is there at the end, post_unpatch if it is not.
    Close,
    /// It is not there: what it owns is freed.
    Free,
    /// Nothing.
    Done,
}

impl State {
    /// The patches that this one takes the place of, once everybody runs it: the older ones of
    /// its set. With `to_top` it is first moved above all others.
    pub(crate) fn replaced_by(&self, patch: &Patch, to_top: bool) -> Vec<PatchId> {
        let place = self.position(patch.id).filter(|_| !to_top);
        let below = &self.stack[..place.unwrap_or(self.stack.len())];
        let is_replaced = |old: &&Patch| {
            patch.replace && old.replace_set == patch.replace_set && old.id != patch.id
        };
        below.iter().filter(is_replaced).map(|p| p.id).collect()
    }

    /// What enabling the patch changes, when it replaces those.
    pub(crate) fn changes_by_enabling(
        &self,
        patch: &Patch,
        replaced: &[PatchId],
    ) -> Vec<StateChange> {
        let enabled = || self.stack.iter().filter(|p| p.enabled && p.id != patch.id);
        let is_replaced = |other: &&Patch| replaced.contains(&other.id);
        let stays = |id: u64| {
            let mut staying = enabled().filter(|p| !is_replaced(p));
            patch.state(id).is_some() || staying.any(|p| p.state(id).is_some())
        };
        let is_new = |id: u64| !enabled().any(|p| p.state(id).is_some());
        let mut changes = changes_in(patch, true, is_new);
        let leaving: Vec<&Patch> = enabled().filter(is_replaced).collect();
        for (index, old) in leaving.iter().enumerate() {
            let newer = &leaving[index + 1..];
            let is_last = |id: u64| !stays(id) && !newer.iter().any(|p| p.state(id).is_some());
            changes.extend(changes_in(old, false, is_last));
        }
        changes
    }

    /// What disabling the patch changes.
    pub(crate) fn changes_by_disabling(&self, patch: &Patch) -> Vec<StateChange> {
        let stays = |id: u64| {
            let mut others = self.stack.iter().filter(|p| p.enabled && p.id != patch.id);
            others.any(|other| other.state(id).is_some())
        };
        changes_in(patch, false, |id| !stays(id))
    }

    /// Refuses when something would disappear that cannot be taken back.
    pub(crate) fn check_revocable(
        &self,
        patch: &Patch,
        changes: &[StateChange],
    ) -> Result<(), Refusal> {
        for change in changes.iter().filter(|change| !change.appears) {
            let owner = self.patch(change.patch);
            let state = owner.and_then(|owner| Some((owner, owner.states.get(change.index)?)));
            if let Some((owner, state)) = state.filter(|(_, state)| is_blocked(state)) {
                let kind = RefusalKind::Irrevocable {
                    id: state.id,
                    owner: owner.name.clone(),
                };
                return Err(Refusal::new(&patch.name, kind));
            }
        }
        Ok(())
    }

    /// The next state that has to be prepared to appear, or to disappear.
    pub(crate) fn find_opening(&self, appears: bool) -> Option<Due> {
        let mut changes = self.transition.as_ref()?.changes.iter();
        let next = changes.find(|c| c.next == Step::Open && c.appears == appears)?;
        Some(Due {
            patch: next.patch,
            subject: Subject::State(next.index),
            kind: if appears {
                CallbackKind::PrePatch
            } else {
                CallbackKind::PreUnpatch
            },
        })
    }

    /// The next state that has begun to change, among those that are there at the end, or among
    /// those that are not.
    pub(crate) fn find_closing(&self, present: bool) -> Option<Due> {
        let transition = self.transition.as_ref()?;
        let mut changes = transition.changes.iter();
        let next = changes.find(|change| {
            let has_begun = matches!(change.next, Step::Close | Step::Free);
            has_begun && change.is_present(transition) == present
        })?;
        let subject = match next.next {
            Step::Free => Subject::Shadows(next.index),
            _ => Subject::State(next.index),
        };
        Some(Due {
            patch: next.patch,
            subject,
            kind: if present {
                CallbackKind::PostPatch
            } else {
                CallbackKind::PostUnpatch
            },
        })
    }

    pub(crate) fn set_step(&mut self, patch: PatchId, index: usize, next: Step) {
        let changes = self.transition.iter_mut().flat_map(|t| &mut t.changes);
        let mut same = changes.filter(|c| (c.patch, c.index) == (patch, index));
        if let Some(change) = same.next() {
            change.next = next;
        }
    }

    /// Computes what the transition of a patch changes.
    pub(crate) fn find_changes(&self, id: PatchId, target: Universe) -> Vec<StateChange> {
        let Some(patch) = self.patch(id) else {
            return Vec::new();
        };
        match target {
            Universe::Patched => self.changes_by_enabling(patch, &self.replaced_by(patch, false)),
            Universe::Unpatched => self.changes_by_disabling(patch),
        }
    }
}

fn changes_in(patch: &Patch, appears: bool, changes: impl Fn(u64) -> bool) -> Vec<StateChange> {
    let states = patch.states.iter().enumerate();
    let changed = states.filter(|(_, state)| state.upkeep.is_some() && changes(state.id));
    changed
        .map(|(index, _)| StateChange {
            patch: patch.id,
            index,
            appears,
            next: Step::Open,
        })
        .collect()
}

fn is_blocked(state: &SystemState) -> bool {
    state
        .upkeep
        .is_some_and(|upkeep: Upkeep| upkeep.block_disable)
}
