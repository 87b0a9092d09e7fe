//! System states: may this patch be put over those already installed?

use crate::error::{Refusal, RefusalKind};
use crate::patch::{Patch, PatchId, SystemState};
use crate::state::State;

impl State {
    /// The kernel's `klp_is_patch_compatible` for `patch` against every patch that is
    /// enabled or in transition. `replaces` says which of them it would replace: only their
    /// states have to be carried over. Versions must not go back over any.
    pub(crate) fn check_compatible(
        &self,
        patch: &Patch,
        replaces: impl Fn(PatchId) -> bool,
    ) -> Result<(), Refusal> {
        for id in self.listed().patches {
            let Some(other) = self.patch(id).filter(|other| other.id != patch.id) else {
                continue;
            };
            for state in &other.states {
                let reason = conflict(patch, state, patch.replace && replaces(id));
                if let Some(reason) = reason {
                    let other = other.name.clone();
                    let id = state.id;
                    let kind = RefusalKind::Incompatible { other, id, reason };
                    return Err(Refusal::new(&patch.name, kind));
                }
            }
        }
        Ok(())
    }
}

fn conflict(patch: &Patch, installed: &SystemState, must_carry: bool) -> Option<String> {
    match patch.states.iter().find(|state| state.id == installed.id) {
        Some(state) if state.version < installed.version => Some(format!(
            "has version {}, older than the installed {}",
            state.version, installed.version
        )),
        None if must_carry => Some("is missing, although it is installed".to_owned()),
        _ => None,
    }
}
