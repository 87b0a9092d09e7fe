//! The reference model: which patches are in force in either universe, and hence what a
//! thread must run. Knows patches by their functions and their place on the stack only.

use std::collections::{BTreeSet, HashMap};

use crate::{NewPatch, Patch, PatchId, State, Token, Universe};

/// The reference model.
#[derive(Clone, Debug, Default)]
pub struct Model {
    catalog: HashMap<PatchId, (NewPatch, Vec<usize>)>,
    settled: Vec<PatchId>,
    forced: BTreeSet<PatchId>,
    /// Whether the next transition is to move its patch to the top, where that is known.
    pub(super) to_top: Option<bool>,
    pub(super) running: Option<Running>,
}

/// A transition as it was begun, and where it is heading.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) patch: PatchId,
    pub(super) token: Token,
    pub(super) initial: Universe,
    pub(super) target: Universe,
    /// The stack before it began, oldest first.
    pub(super) stack: Vec<Patch>,
    /// Patches of its set below it when it had begun.
    pub(super) older: Vec<PatchId>,
    /// The patches that were enabled before.
    pub(super) enabled: Vec<PatchId>,
    patched: Vec<PatchId>,
    unpatched: Vec<PatchId>,
    forcing: bool,
    /// Loads and unloads of libraries that were known when it began.
    pub(super) events: u64,
}

impl Model {
    /// Tells the model what a newly registered patch changes.
    pub fn learn(&mut self, id: PatchId, patch: NewPatch) {
        let funcs = patch.objects.iter().flat_map(|object| &object.funcs);
        let functions = funcs.filter_map(|f| super::number_of(&f.old_name));
        let functions = functions.collect();
        self.catalog.insert(id, (patch, functions));
    }

    /// What the author of a patch wrote.
    #[must_use]
    pub fn patch(&self, id: PatchId) -> Option<&NewPatch> {
        self.catalog.get(&id).map(|(patch, _)| patch)
    }

    /// Patches in force when no transition runs, oldest first.
    #[must_use]
    pub fn settled(&self) -> &[PatchId] {
        &self.settled
    }

    /// Patches whose modules can never be unloaded.
    pub(super) fn forced(&self) -> &BTreeSet<PatchId> {
        &self.forced
    }

    /// Follows a committed state; hands out a transition that has ended.
    ///
    /// # Errors
    /// When no rule allows the step.
    pub(super) fn observe(
        &mut self,
        before: &State,
        state: &State,
        events: u64,
    ) -> Result<Option<Running>, String> {
        match (&mut self.running, &state.transition) {
            (None, Some(_)) => {
                self.running = Some(self.begin(before, state, events)?);
                Ok(None)
            }
            (Some(running), Some(t)) => {
                if running.token != t.token || running.patch != t.patch {
                    return Err("two transitions at once".to_owned());
                }
                if running.target != t.target && t.forcing {
                    return Err("a reversal goes on forcing".to_owned());
                }
                if t.forcing && !running.forcing {
                    self.forced
                        .extend(running.left_by_force(self.catalog.get(&t.patch)));
                }
                (running.target, running.forcing) = (t.target, t.forcing);
                Ok(None)
            }
            (Some(_), None) => Ok(self.running.take().inspect(|ended| {
                self.settled = match ended.target {
                    Universe::Patched => ended.patched.clone(),
                    Universe::Unpatched => ended.unpatched.clone(),
                };
            })),
            (None, None) => Ok(None),
        }
    }

    fn begin(&self, before: &State, state: &State, events: u64) -> Result<Running, String> {
        let Some(t) = &state.transition else {
            return Err("no transition".to_owned());
        };
        let order: Vec<PatchId> = state.stack.iter().map(|patch| patch.id).collect();
        let place = |id: PatchId| order.iter().position(|other| *other == id);
        let mut expected: Vec<PatchId> = before.stack.iter().map(|patch| patch.id).collect();
        if self.to_top == Some(true) {
            expected.retain(|id| *id != t.patch);
            expected.push(t.patch);
        }
        if self.to_top.is_some() && order != expected {
            return Err(format!("begun with the stack {order:?}, not {expected:?}"));
        }
        let written = self.patch(t.patch);
        let is_replace = written.is_some_and(|patch| patch.replace);
        let set = written.map(|patch| patch.replace_set);
        let in_set = |id: PatchId| self.patch(id).map(|patch| patch.replace_set) == set;
        let mut enabled = self.settled.clone();
        enabled.sort_by_key(|id| place(*id));
        if enabled.contains(&t.patch) == (t.initial_target == Universe::Patched) {
            return Err("a patch moves to where it is".to_owned());
        }
        let with = |patched: bool| {
            let mut world = enabled.clone();
            world.retain(|id| *id != t.patch);
            if patched && is_replace && t.initial_target == Universe::Patched {
                world.retain(|id| place(*id) > place(t.patch) || !in_set(*id));
            }
            if patched {
                world.push(t.patch);
                world.sort_by_key(|id| place(*id));
            }
            world
        };
        Ok(Running {
            patch: t.patch,
            token: t.token,
            initial: t.initial_target,
            target: t.target,
            stack: before.stack.clone(),
            older: {
                let below = order[..place(t.patch).unwrap_or(0)].iter().copied();
                below.filter(|id| in_set(*id)).collect()
            },
            patched: with(true),
            unpatched: with(false),
            enabled,
            events,
            forcing: false,
        })
    }

    /// Whose code a thread that carries `value` must run for a function; `None` is the
    /// original.
    #[must_use]
    pub fn expected(&self, value: u64, function: usize) -> Option<PatchId> {
        let world = match &self.running {
            None => &self.settled,
            Some(running) => {
                let is_switched = value == running.token.value();
                if is_switched == (running.initial == Universe::Patched) {
                    &running.patched
                } else {
                    &running.unpatched
                }
            }
        };
        self.newest_with(world, function)
    }

    /// Whether a function needs to be redirected: for somebody it is not the original.
    pub(super) fn is_redirected(&self, function: usize) -> bool {
        match &self.running {
            None => self.newest_with(&self.settled, function).is_some(),
            Some(running) => {
                self.newest_with(&running.patched, function).is_some()
                    || self.newest_with(&running.unpatched, function).is_some()
            }
        }
    }

    fn newest_with(&self, world: &[PatchId], function: usize) -> Option<PatchId> {
        let has_it = |id: &&PatchId| {
            let entry = self.catalog.get(*id);
            entry.is_some_and(|(_, functions)| functions.contains(&function))
        };
        world.iter().rev().find(has_it).copied()
    }
}

impl Running {
    /// The patches whose code a force may leave threads in (section 6 of the specification).
    fn left_by_force(&self, written: Option<&(NewPatch, Vec<usize>)>) -> Vec<PatchId> {
        let is_replace = written.is_some_and(|(patch, _)| patch.replace);
        let older = self.enabled.iter().filter(|id| self.older.contains(id));
        match self.target {
            Universe::Unpatched => vec![self.patch],
            Universe::Patched if is_replace => older.copied().collect(),
            Universe::Patched => Vec::new(),
        }
    }
}
