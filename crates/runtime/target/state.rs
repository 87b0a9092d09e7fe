//! System states: what a patch says that it changes beyond functions.

use core::sync::atomic::{AtomicBool, Ordering};

use engraft_abi::{KlpPatch, KlpState, MAX_PATCHES, PatchTable};

use crate::config;
use crate::log;

/// `klp_get_state()`: this patch's entry for a state, or NULL.
///
/// # Safety
/// `patch` is null or points to a `struct klp_patch` whose states end with id 0.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn klp_get_state(patch: *const KlpPatch, id: u64) -> *const KlpState {
    if patch.is_null() {
        return core::ptr::null();
    }
    // SAFETY: not null, hence valid by contract.
    let mut state = unsafe { (*patch).states } as *const KlpState;
    if state.is_null() {
        return state;
    }
    // SAFETY: the array ends with id 0.
    unsafe {
        while (*state).id != 0 {
            if (*state).id == id {
                return state;
            }
            state = state.add(1);
        }
    }
    core::ptr::null()
}

/// `klp_get_prev_state()`: the entry for a state in the newest patch that has it among those
/// older than the patch in transition, or NULL. Outside a transition it warns, once.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn klp_get_prev_state(id: u64) -> *const KlpState {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let table = config::patch_table();
    let Some(older) = count_older(table) else {
        if !WARNED.swap(true, Ordering::Relaxed) {
            log::print(
                4,
                c"livepatch: klp_get_prev_state(%lu) called outside a transition",
                &[id],
            );
        }
        return core::ptr::null();
    };
    let mut last = core::ptr::null();
    for index in 0..older {
        // SAFETY: below MAX_PATCHES; the tool lists addresses of loaded patches only.
        let found = unsafe {
            let patches = (&raw const (*table).patches).cast::<u64>();
            klp_get_state(patches.add(index).read_volatile() as *const KlpPatch, id)
        };
        if !found.is_null() {
            last = found;
        }
    }
    last
}

/// How many patches are older than the one in transition; None when there is no transition.
fn count_older(table: *const PatchTable) -> Option<usize> {
    if table.is_null() {
        return None;
    }
    // SAFETY: not null, hence the table that the tool has put there.
    let (count, transition) = unsafe {
        (
            (&raw const (*table).count).read_volatile(),
            (&raw const (*table).transition).read_volatile(),
        )
    };
    (transition < count).then(|| (transition as usize).min(MAX_PATCHES))
}
