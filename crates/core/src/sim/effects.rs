//! Side effects of states, as their callbacks bring them about: after any sequence of upgrades
//! and downgrades exactly those are there that patches in force have.

use std::collections::BTreeMap;

use super::process::Process;
use super::random::Random;
use crate::{CallbackCall, CallbackKind, Callbacks, NewPatch, State, Subject, SystemState, Upkeep};

/// Ids from which on states always have all callbacks, so that they can be followed.
pub(super) const FOLLOWED: u64 = 10;

/// What a state has brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Absent,
    Prepared,
    Present,
    Retiring,
}

/// Side effects that there are.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    stages: BTreeMap<u64, Stage>,
    /// Shadow variables by id.
    pub(super) shadows: BTreeMap<u64, u64>,
}

/// States of a random patch, of those that its set may use.
pub(super) fn random_states(random: &mut Random, set: u32) -> Vec<SystemState> {
    let mut states = Vec::new();
    for id in 1..3 {
        if random.chance(12) {
            states.push(SystemState {
                id,
                version: u32::try_from(random.below(2)).unwrap_or(0),
                upkeep: random.chance(20).then(|| random_upkeep(random, id)),
            });
        }
    }
    for id in FOLLOWED..FOLLOWED + 4 {
        if random.chance(if id % 2 == u64::from(set) { 40 } else { 4 }) {
            states.push(SystemState {
                id,
                version: 0,
                upkeep: Some(Upkeep {
                    callbacks: callbacks_of(0, id),
                    owns_shadows: id > FOLLOWED + 1,
                    shadow_dtor: None,
                    block_disable: random.chance(6),
                    handle: id,
                }),
            });
        }
    }
    if random.chance(20) {
        states.reverse();
    }
    states
}

fn random_upkeep(random: &mut Random, id: u64) -> Upkeep {
    let all = callbacks_of(0, id);
    let owns_shadows = random.chance(50);
    let mut some = |address: Option<u64>| address.filter(|_| random.chance(50));
    Upkeep {
        callbacks: Callbacks {
            pre_patch: some(all.pre_patch),
            post_patch: some(all.post_patch),
            pre_unpatch: some(all.pre_unpatch),
            post_unpatch: some(all.post_unpatch),
        },
        owns_shadows,
        shadow_dtor: None,
        block_disable: false,
        handle: id,
    }
}

/// The callbacks of a state of a patch loaded as number `load`.
pub(super) fn callbacks_of(load: u64, id: u64) -> Callbacks {
    super::all_callbacks(load, 0x100 + id as usize)
}

/// Gives the states of a patch the addresses of its `load`.
pub(super) fn relocate(patch: &mut NewPatch, load: u64) {
    for state in &mut patch.states {
        let Some(upkeep) = &mut state.upkeep else {
            continue;
        };
        let (all, own) = (callbacks_of(load, state.id), &mut upkeep.callbacks);
        own.pre_patch = own.pre_patch.and(all.pre_patch);
        own.post_patch = own.post_patch.and(all.post_patch);
        own.pre_unpatch = own.pre_unpatch.and(all.pre_unpatch);
        own.post_unpatch = own.post_unpatch.and(all.post_unpatch);
    }
}

/// Id of the state that a call concerns.
pub(super) fn state_of(state: &State, call: &CallbackCall) -> Option<u64> {
    let (Subject::State(index) | Subject::Shadows(index)) = call.subject else {
        return None;
    };
    Some(state.patch(call.patch)?.states.get(index)?.id)
}

impl Process {
    /// A state's callback has run, or what it owns was freed.
    pub(super) fn note_effect(&mut self, call: &CallbackCall, value: i32) {
        let Some(id) = state_of(&self.saved, call) else {
            return;
        };
        if matches!(call.subject, Subject::Shadows(_)) {
            if self.is_used_by_force(id) {
                self.report(format!(
                    "shadow variables of state {id} freed under a thread"
                ));
            }
            self.effects.shadows.remove(&id);
            return;
        }
        *self.effects.shadows.entry(id).or_default() += 1;
        let stage = self.effects.stages.entry(id).or_default();
        let next = match (*stage, call.kind) {
            (Stage::Absent, CallbackKind::PrePatch) if value != 0 => Stage::Absent,
            (Stage::Absent, CallbackKind::PrePatch) => Stage::Prepared,
            (Stage::Prepared | Stage::Retiring, CallbackKind::PostPatch) => Stage::Present,
            (Stage::Present, CallbackKind::PreUnpatch) => Stage::Retiring,
            (Stage::Prepared | Stage::Retiring, CallbackKind::PostUnpatch) => Stage::Absent,
            _ if id < FOLLOWED => *stage,
            (stage, kind) => {
                self.report(format!("{kind:?} of state {id} when it is {stage:?}"));
                return;
            }
        };
        *stage = next;
    }

    /// Whether threads were forced out of a patch that has this state.
    fn is_used_by_force(&self, id: u64) -> bool {
        let mut forced = self.model.forced().iter();
        forced.any(|patch| {
            let written = self.model.patch(*patch);
            written.is_some_and(|p| p.states.iter().any(|state| state.id == id))
        })
    }

    /// With no transition running, the states are there that patches in force have, and only
    /// their shadow variables.
    pub(super) fn check_effects(&self) -> Result<(), String> {
        let in_force = |id: u64| {
            let mut enabled = self.model.settled().iter();
            enabled.any(|patch| {
                let written = self.model.patch(*patch);
                written.is_some_and(|p| p.states.iter().any(|state| state.id == id))
            })
        };
        for id in FOLLOWED..FOLLOWED + 4 {
            let stage = self.effects.stages.get(&id).copied().unwrap_or_default();
            let expected = match in_force(id) {
                true => Stage::Present,
                false => Stage::Absent,
            };
            if stage != expected {
                return Err(format!("state {id} is {stage:?}, not {expected:?}"));
            }
            let is_owned = id > FOLLOWED + 1;
            let is_left = is_owned && self.effects.shadows.contains_key(&id);
            if is_left && !in_force(id) && !self.is_used_by_force(id) {
                return Err(format!("shadow variables of state {id} are left"));
            }
        }
        Ok(())
    }
}
