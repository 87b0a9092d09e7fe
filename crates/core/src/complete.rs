//! The steps of a transition as changes of the state: begin, start, reverse, complete, undo.
//! Nothing here has an effect outside the state.

use crate::callbacks::{CallbackCall, CallbackKind, Subject};
use crate::change::StateChange;
use crate::drive::Progress;
use crate::error::{Refusal, RefusalKind};
use crate::log::{Level, SWITCH_PREFIX, Stamp};
use crate::patch::PatchId;
use crate::state::State;
use crate::target::{Blocker, Pass, RouteFailure, Verdict};
use crate::transition::{Phase, Transition, Universe};

impl State {
    pub(crate) fn set_phase(&mut self, phase: Phase) {
        if let Some(transition) = &mut self.transition {
            transition.phase = phase;
        }
    }

    fn log(&mut self, level: Level, stamp: Stamp, text: String) {
        self.log.append(level, stamp, text);
    }

    /// Name of the patch in transition and the direction, for log lines.
    fn heading(&self) -> (String, Universe) {
        let name = self.patch_in_transition().map(|p| p.name.clone());
        let target = self.transition.as_ref().map(|t| t.target);
        (
            name.unwrap_or_default(),
            target.unwrap_or(Universe::Unpatched),
        )
    }

    pub(crate) fn begin(
        &mut self,
        stamp: Stamp,
        patch: PatchId,
        target: Universe,
        to_top: bool,
    ) -> Option<Progress> {
        let moved_from_below = if to_top {
            self.move_to_top(patch)
        } else {
            Vec::new()
        };
        self.last_token = self.last_token.next();
        self.transition = Some(Transition {
            patch,
            initial_target: target,
            target,
            token: self.last_token,
            phase: Phase::Installing,
            attempts: 0,
            started: stamp.time,
            stall_noticed: false,
            forcing: false,
            moved_from_below,
            changes: self.find_changes(patch, target),
            failure: None,
        });
        let (name, _) = self.heading();
        if target == Universe::Patched {
            self.create_nops(patch);
            self.log(Level::Notice, stamp, format!("enabling patch '{name}'"));
        }
        let line = format!("'{name}': initializing {} transition", target.verb());
        self.log(Level::Debug, stamp, line);
        match target {
            Universe::Patched => self.call_next(stamp, CallbackKind::PrePatch),
            Universe::Unpatched => self.call_next(stamp, CallbackKind::PreUnpatch),
        }
    }

    /// Goes on with the next call of this part of the transition, or with what follows the last
    /// one.
    pub(crate) fn call_next(&mut self, stamp: Stamp, stage: CallbackKind) -> Option<Progress> {
        if self.seek_call(stage) {
            return None;
        }
        match stage {
            CallbackKind::PrePatch => {
                self.set_patched(true);
                self.set_phase(Phase::Installing);
                None
            }
            CallbackKind::PreUnpatch => {
                self.set_phase(Phase::Installing);
                None
            }
            CallbackKind::PostPatch | CallbackKind::PostUnpatch => Some(self.finish(stamp)),
        }
    }

    /// Records what a callback returned and goes on.
    pub(crate) fn call_done(
        &mut self,
        stamp: Stamp,
        call: &CallbackCall,
        value: i32,
    ) -> Option<Progress> {
        self.record_result(call, value);
        if call.kind == CallbackKind::PrePatch && value != 0 {
            let subject = self.describe_subject(call);
            let line = format!("pre-patch callback failed for {subject}");
            self.log(Level::Warn, stamp, line);
            self.undo_enable(stamp, RefusalKind::PrePatch { subject, value });
            return None;
        }
        self.call_next(stamp, call.stage)
    }

    fn describe_subject(&self, call: &CallbackCall) -> String {
        let patch = self.patch(call.patch);
        match call.subject {
            Subject::Object(index) => {
                let object = patch.and_then(|p| p.objects.get(index));
                let name = object.and_then(|object| object.name.as_deref());
                format!("object '{}'", self.display_name(name))
            }
            Subject::State(index) | Subject::Shadows(index) => {
                let id = patch.and_then(|p| p.states.get(index)).map_or(0, |s| s.id);
                format!("state {id}")
            }
        }
    }

    /// Pushes the funcs of all objects that are ready, or pops those of all objects.
    fn set_patched(&mut self, patched: bool) {
        let Some(id) = self.transition.as_ref().map(|t| t.patch) else {
            return;
        };
        if let Some(patch) = self.stacked_mut(id) {
            for object in &mut patch.objects {
                object.patched = patched && object.loaded && object.post_unpatch_due;
                object.settled &= patched;
            }
        }
    }

    /// Lets threads move (also after a reversal).
    pub(crate) fn start(&mut self, stamp: Stamp) {
        let (name, target) = self.heading();
        let line = format!("'{name}': starting {} transition", target.verb());
        self.log(Level::Notice, stamp, line);
        let Some(transition) = &mut self.transition else {
            return;
        };
        transition.phase = Phase::Switching;
        transition.attempts = 0;
        transition.started = stamp.time;
        transition.stall_noticed = false;
        transition.forcing = false;
        let id = transition.patch;
        if let Some(patch) = self.stacked_mut(id) {
            patch.enabled = target == Universe::Patched;
        }
    }

    /// Turns the running transition round. Neither callbacks nor routes are concerned.
    pub(crate) fn reverse(&mut self, stamp: Stamp) {
        let (name, target) = self.heading();
        let (from, to) = (target.verb(), target.opposite().verb());
        let line = format!("'{name}': reversing transition from {from} to {to}");
        self.log(Level::Debug, stamp, line);
        if let Some(transition) = &mut self.transition {
            transition.target = target.opposite();
        }
        self.start(stamp);
    }

    /// Routes could not be installed: what was begun is undone. Nobody has switched.
    pub(crate) fn undo_install(&mut self, stamp: Stamp, failure: RouteFailure) {
        let (_, target) = self.heading();
        if target == Universe::Patched {
            let line = redirect_line(&failure);
            let object = self.display_name(failure.object.as_deref());
            let object = format!("failed to patch object '{object}'");
            self.log(Level::Err, stamp, line);
            self.log(Level::Warn, stamp, object);
            self.undo_enable(stamp, RefusalKind::Redirect(failure));
        } else {
            self.reverse(stamp);
            self.set_failure(RefusalKind::Redirect(failure));
            self.settle(stamp);
        }
    }

    /// Gives up an enable before it was started.
    pub(crate) fn undo_enable(&mut self, stamp: Stamp, kind: RefusalKind) {
        let (name, _) = self.heading();
        let line = format!("failed to enable patch '{name}'");
        self.log(Level::Warn, stamp, line);
        let line = format!("'{name}': canceling patching transition, going to unpatch");
        self.log(Level::Debug, stamp, line);
        if let Some(transition) = &mut self.transition {
            transition.target = Universe::Unpatched;
        }
        self.set_failure(kind);
        self.settle(stamp);
    }

    fn set_failure(&mut self, kind: RefusalKind) {
        let (name, _) = self.heading();
        if let Some(transition) = &mut self.transition {
            transition.failure = Some(Refusal::new(&name, kind));
        }
    }

    /// Everybody is at the target: what is left behind comes off the function stacks.
    pub(crate) fn settle(&mut self, stamp: Stamp) {
        let (name, target) = self.heading();
        let line = format!("'{name}': completing {} transition", target.verb());
        self.log(Level::Debug, stamp, line);
        let Some(patch) = self.patch_in_transition() else {
            return;
        };
        let id = patch.id;
        match target {
            Universe::Patched => self.pop_replaced(id),
            Universe::Unpatched => self.set_patched(false),
        }
        self.drop_nops(id);
        self.set_phase(Phase::Settling);
    }

    /// Final routes are in force: callbacks, then the end.
    pub(crate) fn settled(&mut self, stamp: Stamp) -> Option<Progress> {
        let kind = match self.heading().1 {
            Universe::Patched => CallbackKind::PostPatch,
            Universe::Unpatched => CallbackKind::PostUnpatch,
        };
        self.call_next(stamp, kind)
    }

    fn finish(&mut self, stamp: Stamp) -> Progress {
        let (name, target) = self.heading();
        self.log_kept_shadows(stamp);
        self.log(
            Level::Notice,
            stamp,
            format!("'{name}': {} complete", target.verb()),
        );
        let Some(transition) = self.transition.take() else {
            return Progress::Idle;
        };
        match target {
            Universe::Patched => self.retire_replaced(transition.patch),
            Universe::Unpatched => {
                self.move_back_below(transition.patch, &transition.moved_from_below);
            }
        }
        transition
            .failure
            .map_or(Progress::Complete, Progress::Undone)
    }

    /// Threads that were forced out of code may still be in it, and use what it has allocated.
    fn log_kept_shadows(&mut self, stamp: Stamp) {
        let transition = self.transition.as_ref();
        let ended = transition.into_iter().flat_map(StateChange::ended_in);
        let kept = |change: &StateChange| {
            let state = *self.patch(change.patch)?.states.get(change.index)?;
            state.upkeep.filter(|upkeep| upkeep.owns_shadows)?;
            let user = self.forced_user(state.id)?;
            Some(format!(
                "shadow variables of state {} are kept: threads were forced out of '{}'",
                state.id, user.name
            ))
        };
        for line in ended.filter_map(kept).collect::<Vec<_>>() {
            self.log(Level::Warn, stamp, line);
        }
    }

    /// Gives up consistency for the threads that are left.
    pub(crate) fn force(&mut self, stamp: Stamp) {
        let line = "forcing remaining tasks to the patched state".to_owned();
        self.log(Level::Warn, stamp, line);
        let (_, target) = self.heading();
        let Some(transition) = &mut self.transition else {
            return;
        };
        transition.forcing = true;
        let id = transition.patch;
        match target {
            Universe::Unpatched => {
                if let Some(patch) = self.stacked_mut(id) {
                    patch.forced = true;
                }
            }
            Universe::Patched => self.mark_replaced_forced(id),
        }
    }

    /// Records a pass after which somebody is left.
    pub(crate) fn note_attempt(&mut self, stamp: Stamp, pass: &Pass, stall_after: u64) {
        for line in pass.blockers.iter().filter_map(switch_line) {
            self.log(Level::Debug, stamp, line);
        }
        let Some(transition) = &mut self.transition else {
            return;
        };
        transition.attempts += 1;
        let waited = stamp.time.saturating_sub(transition.started);
        if waited >= stall_after && !transition.stall_noticed {
            transition.stall_noticed = true;
            let line = "signaling remaining tasks".to_owned();
            self.log(Level::Notice, stamp, line);
        }
    }
}

/// The kernel looks for a place to redirect first, and then takes it.
fn redirect_line(failure: &RouteFailure) -> String {
    const EINVAL: i32 = 22;
    let function = &failure.function;
    match failure.errno.saturating_abs() {
        EINVAL => format!("failed to find location for function '{function}'"),
        errno => format!("failed to register ftrace handler for function '{function}' (-{errno})"),
    }
}

fn switch_line(blocker: &Blocker) -> Option<String> {
    let Blocker { tid, comm, .. } = blocker;
    let what = match &blocker.verdict {
        Verdict::Switched => return None,
        Verdict::Running => "is running".to_owned(),
        Verdict::Unreliable(_) => "has an unreliable stack".to_owned(),
        Verdict::OnStack(function) => format!("is sleeping on function {function}"),
    };
    Some(format!("{SWITCH_PREFIX}{comm}:{tid} {what}"))
}
