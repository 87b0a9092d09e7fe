//! The operations: check, then one committed step after another.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Refusal, RefusalKind};
use crate::log::{Level, Stamp};
use crate::patch::{NewPatch, Patch, PatchId};
use crate::state::State;
use crate::target::{Pass, RouteFailure, Switch, Target};
use crate::transition::{Phase, Universe};

/// A transition that has waited this long is noted as stalled, once. The kernel would now
/// interrupt sleeping threads so that they pass a safe point; here every pass stops and
/// examines sleeping threads anyway, so the line only marks the stall.
pub const STALL_NANOSECONDS: u64 = 15_000_000_000;

/// Whether patches that share functions must come off in reverse order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// They must.
    Reverse,
    /// Any order, as in kernels since 5.1 (`--any-order`).
    Any,
}

/// Where an operation left the transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// No transition runs, none ended.
    Idle,
    /// A transition has completed.
    Complete,
    /// A transition was undone before it started, for this reason.
    Undone(Refusal),
    /// A transition runs; no thread was looked at by this call.
    InTransition,
    /// A transition runs; these threads hold it up.
    Waiting(Pass),
    /// Every thread has been moved, but the code of a function cannot be brought to its
    /// final form; retry when the obstacle is gone.
    Stuck(RouteFailure),
}

/// Carries out operations on the state of one target.
///
/// `state` always equals what was last saved, also after an error.
#[derive(Debug)]
pub struct Driver<'a, T> {
    state: &'a mut State,
    target: &'a mut T,
}

type Outcome<V, E> = Result<V, Error<E>>;

impl<'a, T: Target> Driver<'a, T> {
    /// A driver for a state as loaded from its target.
    pub fn new(state: &'a mut State, target: &'a mut T) -> Self {
        Self { state, target }
    }

    /// The state as last saved.
    #[must_use]
    pub fn state(&self) -> &State {
        self.state
    }

    /// Finishes what an earlier, interrupted invocation has begun, up to the point where
    /// threads have to be waited for. Every other operation does this first.
    ///
    /// # Errors
    /// [`Error::Target`] only.
    pub fn recover(&mut self) -> Outcome<Progress, T::Error> {
        self.advance().map_err(Error::Target)
    }

    /// What the kernel checks before it looks at the objects of a patch that is to be
    /// registered and enabled at once: its states, then its name. `patch` needs no objects
    /// yet.
    ///
    /// # Errors
    /// EINVAL for states that are not compatible, EEXIST for a name that is taken.
    pub fn admit(&mut self, patch: &NewPatch) -> Outcome<(), T::Error> {
        let patch = Patch {
            id: PatchId(self.state.next_patch),
            ..Patch::from(patch.clone())
        };
        let replaced = self.state.replaced_by(&patch, true);
        if let Err(refusal) = self.state.check_compatible(&patch, &replaced) {
            return self.refuse_incompatible(refusal);
        }
        Ok(self.state.check_name(&patch.name)?)
    }

    /// Puts a patch on top of the stack without enabling it.
    ///
    /// # Errors
    /// EEXIST for a name, object or func that is there twice, ENOMEM for too many patches,
    /// EINVAL for anything else that is wrong with it.
    pub fn register(&mut self, patch: NewPatch) -> Outcome<PatchId, T::Error> {
        let patch = Patch::from(patch);
        self.catch_up().map_err(Error::Target)?;
        self.state.check_new(&patch)?;
        self.commit(|state, _| {
            let id = PatchId(state.next_patch);
            state.next_patch += 1;
            state.stack.push(Patch { id, ..patch });
            id
        })
    }

    /// Enables a patch, or reverses its own running disable. Returns after one pass over
    /// the threads; [`Self::retry`] goes on.
    ///
    /// With [`Order::Any`] a patch beneath a newer enabled one that shares functions with
    /// it moves to the top of the stack.
    ///
    /// # Errors
    /// ENOENT unknown; EINVAL replaced, already enabled, or states not compatible; EBUSY
    /// another transition runs, or beneath a newer patch; the callback's own errno when
    /// pre_patch refuses; the [`RouteFailure`]'s when a function cannot be redirected.
    pub fn enable(&mut self, name: &str, order: Order) -> Outcome<Progress, T::Error> {
        self.recover()?;
        let patch = self.state.require_stacked(name)?;
        let id = patch.id;
        if self.is_heading(id, Universe::Unpatched) {
            return self.reverse(name);
        }
        if patch.enabled || self.state.is_in_transition(id) {
            return Err(Refusal::new(name, RefusalKind::AlreadyEnabled).into());
        }
        let covered = self.state.check_uncovered(patch);
        let to_top = covered.is_err() && order == Order::Any;
        let replaced = self.state.replaced_by(patch, to_top);
        if let Err(refusal) = self.state.check_compatible(patch, &replaced) {
            return self.refuse_incompatible(refusal);
        }
        self.state.check_idle(patch)?;
        if !to_top {
            covered?;
        }
        self.transit(id, Universe::Patched, to_top)
    }

    /// Disables a patch, or reverses its own running enable. Returns after one pass over
    /// the threads; [`Self::retry`] goes on. The patch keeps its place on the stack.
    ///
    /// # Errors
    /// ENOENT unknown; EINVAL replaced, not enabled, or a state of it cannot be taken back; EBUSY
    /// another transition runs, a newer enabled patch shares functions with it, or its own
    /// transition is beyond reversal.
    pub fn disable(&mut self, name: &str, order: Order) -> Outcome<Progress, T::Error> {
        self.recover()?;
        let patch = self.state.require_stacked(name)?;
        let id = patch.id;
        if self.is_heading(id, Universe::Patched) {
            return self.reverse(name);
        }
        if !patch.enabled {
            return Err(Refusal::new(name, RefusalKind::NotEnabled).into());
        }
        self.state.check_idle(patch)?;
        if order == Order::Reverse {
            self.state.check_uncovered(patch)?;
        }
        let changes = self.state.changes_by_disabling(patch);
        self.state.check_revocable(patch, &changes)?;
        self.transit(id, Universe::Unpatched, false)
    }

    /// Takes an enable back whose module could not be initialised after all: undoes it
    /// where it stands, reverses it, or, when it has completed already, disables the patch.
    /// Unlike the other operations it does not finish an interrupted enable first.
    /// [`Progress::Idle`] when the patch is not enabled.
    ///
    /// # Errors
    /// As [`Self::disable`], except for the order on the stack and for states that cannot be
    /// taken back: their author's own module wants them to be.
    pub fn cancel(&mut self, name: &str) -> Outcome<Progress, T::Error> {
        let patch = self.state.require_stacked(name)?;
        let (id, phase) = (patch.id, self.state.transition.as_ref().map(|t| &t.phase));
        if self.is_heading(id, Universe::Patched) && phase != Some(&Phase::Switching) {
            self.cancel_unstarted()?;
        }
        self.recover()?;
        let patch = self.state.require_stacked(name)?;
        if self.is_heading(id, Universe::Unpatched) {
            return Ok(Progress::InTransition);
        }
        if !patch.enabled {
            return Ok(Progress::Idle);
        }
        if self.is_heading(id, Universe::Patched) {
            return self.reverse(name);
        }
        self.state.check_idle(patch)?;
        self.transit(id, Universe::Unpatched, false)
    }

    /// Makes every thread switch regardless of its stack: consistency is given up, and the
    /// patches whose code is left that way can never be unloaded. The next
    /// [`Self::retry`] completes the transition.
    ///
    /// # Errors
    /// EINVAL when no transition runs, EBUSY when it is being completed.
    pub fn force(&mut self) -> Outcome<Progress, T::Error> {
        self.recover()?;
        let Some(transition) = &self.state.transition else {
            return Err(Refusal::new("", RefusalKind::NoTransition).into());
        };
        if transition.phase != Phase::Switching {
            let name = self.state.patch_in_transition().map(|p| p.name.clone());
            return Err(Refusal::new(&name.unwrap_or_default(), RefusalKind::Settling).into());
        }
        self.commit(State::force)?;
        self.target
            .switch_threads(self.state, Switch::Force)
            .map_err(Error::Target)?;
        Ok(Progress::InTransition)
    }

    /// One more pass over the threads; completes the transition when nobody is left.
    ///
    /// # Errors
    /// [`Error::Target`] only.
    pub fn retry(&mut self) -> Outcome<Progress, T::Error> {
        match self.recover()? {
            Progress::InTransition => self.try_complete(),
            other => Ok(other),
        }
    }

    /// Forgets a patch whose module is being unloaded.
    ///
    /// # Errors
    /// As [`State::check_unload`].
    pub fn unload(&mut self, name: &str) -> Outcome<Patch, T::Error> {
        let id = self.state.check_unload(name)?;
        let patch = self.state.require(name)?.clone();
        self.commit(|state, _| {
            state.stack.retain(|patch| patch.id != id);
            state.replaced.retain(|patch| patch.id != id);
        })?;
        Ok(patch)
    }

    /// Writes a line of the caller's own to the log.
    ///
    /// # Errors
    /// [`Error::Target`] only.
    pub fn log(&mut self, level: Level, text: impl Into<String>) -> Outcome<(), T::Error> {
        let text = text.into();
        self.commit(|state, stamp| state.write_log(level, stamp, text))
    }

    fn is_heading(&self, id: PatchId, target: Universe) -> bool {
        let transition = self.state.transition.as_ref();
        transition.is_some_and(|t| t.patch == id && t.target == target)
    }

    fn refuse_incompatible<V>(&mut self, refusal: Refusal) -> Outcome<V, T::Error> {
        if let Some(line) = refusal.log_line() {
            self.log(Level::Err, line)?;
        }
        Err(refusal.into())
    }

    fn reverse(&mut self, name: &str) -> Outcome<Progress, T::Error> {
        let phase = self.state.transition.as_ref().map(|t| &t.phase);
        if phase != Some(&Phase::Switching) {
            return Err(Refusal::new(name, RefusalKind::Settling).into());
        }
        self.commit(State::reverse)?;
        Ok(Progress::InTransition)
    }

    fn transit(
        &mut self,
        id: PatchId,
        target: Universe,
        to_top: bool,
    ) -> Outcome<Progress, T::Error> {
        self.commit(|state, stamp| state.begin(stamp, id, target, to_top))?;
        match self.retry()? {
            Progress::Undone(refusal) => Err(refusal.into()),
            progress => Ok(progress),
        }
    }

    fn cancel_unstarted(&mut self) -> Outcome<(), T::Error> {
        self.catch_up().map_err(Error::Target)?;
        let is_void = self.state.is_call_void().is_some();
        let pending = match self.state.transition.as_ref().map(|t| &t.phase) {
            Some(Phase::Calling(call)) if !is_void => Some(*call),
            _ => None,
        };
        if let Some(call) = pending {
            self.run_call(&call).map_err(Error::Target)?;
        }
        let is_unstarted = self.state.transition.as_ref().is_some_and(|t| {
            t.target == Universe::Patched
                && match &t.phase {
                    Phase::Calling(call) => call.stage == crate::CallbackKind::PrePatch,
                    Phase::Installing => true,
                    Phase::Switching | Phase::Settling => false,
                }
        });
        if is_unstarted {
            self.commit(|state, stamp| state.undo_enable(stamp, RefusalKind::Canceled))?;
        }
        Ok(())
    }

    /// Goes on until threads have to be waited for or the transition is over.
    fn advance(&mut self) -> Result<Progress, T::Error> {
        loop {
            self.catch_up()?;
            let Some(transition) = &self.state.transition else {
                return Ok(Progress::Idle);
            };
            let ended = match &transition.phase {
                Phase::Calling(_) if let Some(kind) = self.state.is_call_void() => {
                    self.save_step(|state, stamp| state.call_next(stamp, kind))?
                }
                Phase::Installing if let Some(kind) = self.state.latecomer_call() => {
                    self.save_step(|state, stamp| state.call_next(stamp, kind))?
                }
                Phase::Calling(call) => {
                    let call = *call;
                    self.run_call(&call)?
                }
                Phase::Installing => self.install()?,
                Phase::Switching => Some(Progress::InTransition),
                Phase::Settling => self.install_final()?,
            };
            if let Some(progress) = ended {
                return Ok(progress);
            }
        }
    }

    /// Takes in which objects have come and gone.
    fn catch_up(&mut self) -> Result<(), T::Error> {
        let sightings = self.target.sight_objects(self.state)?;
        if sightings.is_empty() {
            return Ok(());
        }
        self.save_step(|state, _| sightings.into_iter().for_each(|s| state.take_in(s)))
    }

    fn run_call(&mut self, call: &crate::CallbackCall) -> Result<Option<Progress>, T::Error> {
        let value = self.target.run_callback(call)?;
        self.save_step(|state, stamp| state.call_done(stamp, call, value))
    }

    fn install(&mut self) -> Result<Option<Progress>, T::Error> {
        let result = self.target.apply_routes(self.state)?;
        self.save_step(|state, stamp| match result {
            Ok(()) => state.start(stamp),
            Err(failure) => state.undo_install(stamp, failure),
        })?;
        Ok(None)
    }

    fn install_final(&mut self) -> Result<Option<Progress>, T::Error> {
        match self.target.apply_routes(self.state)? {
            Ok(()) => self.save_step(State::settled),
            Err(failure) => Ok(Some(Progress::Stuck(failure))),
        }
    }

    fn try_complete(&mut self) -> Outcome<Progress, T::Error> {
        let forcing = self.state.transition.as_ref().is_some_and(|t| t.forcing);
        let how = if forcing {
            Switch::Force
        } else {
            Switch::Check
        };
        let pass = self
            .target
            .switch_threads(self.state, how)
            .map_err(Error::Target)?;
        if pass.complete && pass.blockers.is_empty() {
            self.commit(State::settle)?;
            return self.recover();
        }
        self.commit(|state, stamp| state.note_attempt(stamp, &pass, STALL_NANOSECONDS))?;
        Ok(Progress::Waiting(pass))
    }

    fn commit<V>(&mut self, edit: impl FnOnce(&mut State, Stamp) -> V) -> Outcome<V, T::Error> {
        self.save_step(edit).map_err(Error::Target)
    }

    /// One step: the state in memory changes only if the change was saved.
    fn save_step<V>(&mut self, edit: impl FnOnce(&mut State, Stamp) -> V) -> Result<V, T::Error> {
        let stamp = Stamp {
            time: self.target.now(),
            position: self.target.log_position(),
        };
        let mut next = self.state.clone();
        let value = edit(&mut next, stamp);
        self.target.save(&next)?;
        *self.state = next;
        Ok(value)
    }
}
