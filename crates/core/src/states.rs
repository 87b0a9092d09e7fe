//! System states: may this patch be put over those already installed?

use crate::error::{Refusal, RefusalKind};
use crate::patch::{Patch, PatchId, SystemState, Upkeep};
use crate::state::State;

impl State {
    /// The kernel's `klp_is_patch_compatible` for `patch` against every patch that is
    /// enabled or in transition. Only the states of those that it replaces have to be carried
    /// over, and only those that nothing can take back. Versions must not go back over any.
    pub(crate) fn check_compatible(
        &self,
        patch: &Patch,
        replaced: &[PatchId],
    ) -> Result<(), Refusal> {
        for id in self.listed().patches {
            let Some(other) = self.patch(id).filter(|other| other.id != patch.id) else {
                continue;
            };
            for state in &other.states {
                if let Some(reason) = conflict(patch, state, replaced.contains(&id)) {
                    let other = other.name.clone();
                    let id = state.id;
                    let kind = RefusalKind::Incompatible { other, id, reason };
                    return Err(Refusal::new(&patch.name, kind));
                }
            }
        }
        self.check_revocable(patch, &self.changes_by_enabling(patch, replaced))
    }
}

fn conflict(patch: &Patch, installed: &SystemState, is_replaced: bool) -> Option<String> {
    let Some(state) = patch.state(installed.id) else {
        let must_carry = is_replaced && installed.upkeep.is_none();
        return must_carry.then(|| "is missing, although it is installed".to_owned());
    };
    if state.version < installed.version {
        return Some(format!(
            "has version {}, older than the installed {}",
            state.version, installed.version
        ));
    }
    find_loss(installed.upkeep.as_ref()?, state.upkeep.as_ref()).map(str::to_owned)
}

/// What would not be taken back any more, once `carried` has to do it.
fn find_loss(installed: &Upkeep, carried: Option<&Upkeep>) -> Option<&'static str> {
    let Some(carried) = carried else {
        return Some("lacks the callbacks that it was installed with");
    };
    if installed.owns_shadows && !carried.owns_shadows {
        return Some("does not own the shadow variables that the installed one owns (is_shadow)");
    }
    let gives_up = installed.takes_back() && !carried.takes_back() && !carried.block_disable;
    gives_up.then_some("has no callback that takes it back, as the installed one has")
}
