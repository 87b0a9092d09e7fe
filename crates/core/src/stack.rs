//! Order on the stack: which patch may be enabled, disabled or unloaded when.

use crate::coverage::Coverage;
use crate::error::{InUse, Refusal, RefusalKind};
use crate::patch::{Patch, PatchId};
use crate::state::State;

impl State {
    /// Refuses when a newer enabled patch changes a function of this one.
    pub(crate) fn check_uncovered(&self, patch: &Patch) -> Result<(), Refusal> {
        let position = self.position(patch.id).unwrap_or(0);
        let coverage = Coverage::of(patch);
        for newer in self.stack[position..].iter().skip(1).filter(|p| p.enabled) {
            if let Some(function) = coverage.first_shared(newer) {
                let newer = newer.name.clone();
                let function = function.to_owned();
                let kind = RefusalKind::Beneath { newer, function };
                return Err(Refusal::new(&patch.name, kind));
            }
        }
        Ok(())
    }

    /// Refuses while any transition runs.
    pub(crate) fn check_idle(&self, patch: &Patch) -> Result<(), Refusal> {
        match self.patch_in_transition() {
            None => Ok(()),
            Some(running) => {
                let by = running.name.clone();
                Err(Refusal::new(&patch.name, RefusalKind::Busy { by }))
            }
        }
    }

    /// Whether the module of this patch may be unloaded (the kernel: its reference count
    /// is 0).
    ///
    /// # Errors
    /// ENOENT when there is no such patch; EWOULDBLOCK, as from rmmod, when it is in use.
    pub fn check_unload(&self, name: &str) -> Result<PatchId, Refusal> {
        let patch = self.require(name)?;
        let in_use = if patch.forced {
            InUse::Forced
        } else if self.is_in_transition(patch.id) || patch.leaving {
            InUse::InTransition
        } else if patch.enabled {
            InUse::Enabled
        } else {
            return Ok(patch.id);
        };
        Err(Refusal::new(name, RefusalKind::InUse(in_use)))
    }

    /// Moves a patch to the top; returns those that were above it.
    pub(crate) fn move_to_top(&mut self, id: PatchId) -> Vec<PatchId> {
        let Some(position) = self.position(id) else {
            return Vec::new();
        };
        let above = self.stack[position + 1..].iter().map(|p| p.id).collect();
        self.stack[position..].rotate_left(1);
        above
    }

    /// Undoes [`Self::move_to_top`]. Patches may have been unloaded or registered since.
    pub(crate) fn move_back_below(&mut self, id: PatchId, above: &[PatchId]) {
        let lowest = self.stack.iter().position(|p| above.contains(&p.id));
        if let (Some(to), Some(from)) = (lowest, self.position(id))
            && to < from
        {
            self.stack[to..=from].rotate_right(1);
        }
    }
}
