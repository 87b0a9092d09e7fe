//! A library goes: every patch that was applied to it is taken back (spec section 9). Nobody runs
//! its code any more; the linker sees to that.

use engraft_abi::{LibraryStatus, ModuleState, ObjectStatus};

use super::link_map::LinkMap;
use super::plan::{Callback, Library, Part, PlanInForce};
use super::push::restore;
use super::redirects::Redirects;
use super::symbols::Symbols;
use crate::log;

const NOTICE: u32 = 5;

/// Treats a library that is about to be unmapped.
pub(super) fn go(plan: PlanInForce, library: Library, first: Part) {
    first.set_module_state(ModuleState::Going);
    take_back(plan, library);
    let status = library.read();
    library.write(LibraryStatus {
        load: 0,
        map: 0,
        ..status
    });
}

/// Treats a library that is not there any more, without notice: its memory is gone, so that no
/// code can be put back.
pub(super) fn forget(plan: PlanInForce, library: Library) {
    let status = library.read();
    // Its redirects are no longer to be looked at.
    unpatch(plan, library);
    library.write(LibraryStatus {
        load: 0,
        map: 0,
        ..status
    });
}

/// Takes back what was applied, and puts the library's code back: it may stay after all.
pub(super) fn take_back(plan: PlanInForce, library: Library) {
    unpatch(plan, library);
    let status = library.read();
    // SAFETY: the linker's structure is there as long as the object is.
    let Some(map) = (unsafe { (status.map as *const LinkMap).as_ref() }) else {
        return;
    };
    // SAFETY: the object is still mapped.
    if let Some(symbols) = unsafe { Symbols::open_exported(map) }
        && let Some(redirects) = Redirects::of(&status)
    {
        for record in redirects.records() {
            // SAFETY: nobody runs the library's code. What cannot be put back is about to go.
            let _ = unsafe { restore(&symbols, &record.redirect) };
        }
    }
}

fn unpatch(plan: PlanInForce, library: Library) {
    for part in plan.parts_of(library) {
        let (settled, due) = part.owed();
        if settled {
            part.call(Callback::PreUnpatch);
        }
        if due {
            log::print(
                NOTICE,
                c"livepatch: reverting patch '%s' on unloading module '%s'",
                &[part.0.patch, part.0.name],
            );
            part.call(Callback::PostUnpatch);
        }
        part.set_module(false);
        part.set_status(ObjectStatus {
            load: 0,
            settled: 0,
            ..part.status()
        });
    }
}
