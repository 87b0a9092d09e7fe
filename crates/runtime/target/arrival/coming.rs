//! A library has come: every patch that waits for it is applied, before any of its code runs
//! (spec section 9).

use engraft_abi::{
    FunctionStatus, LibraryStatus, ModuleState, ObjectStatus, PLAN_BUILT, PLAN_FIXED,
};

use super::going::take_back;
use super::link_map::LinkMap;
use super::linker::Table;
use super::memory::write_word;
use super::plan::{Callback, Library, Part, PlanInForce};
use super::push::{Pusher, write_status};
use super::redirects::Redirects;
use super::symbols::{Missing, Place, Symbols};
use crate::log;

const ENOENT: i32 = 2;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const ENOEXEC: i32 = 8;

/// Levels of the kernel's log.
const ERR: u32 = 3;
const WARN: u32 = 4;
const NOTICE: u32 = 5;

/// Treats a load of a library that some object of the plan waits for or may be asked about.
pub(super) fn come(plan: PlanInForce, library: Library, first: Part, map: &LinkMap) {
    let mut status = library.read();
    status.loads += 1;
    status.map = core::ptr::from_ref(map) as u64;
    status.bias = map.l_addr;
    status.started = 0;
    status.finished = 0;
    let load = status.loads;
    library.write(status);
    first.set_module_state(ModuleState::Coming);
    let awaited = plan.parts_of(library).filter(|part| part.is_awaited());
    // SAFETY: the linker has mapped the object and does not unmap it before this returns.
    let symbols = unsafe { Symbols::open(map) };
    // Where that is not known, everything above counts as the library's.
    status.end = symbols
        .as_ref()
        .map_or(u64::MAX, |symbols| symbols.range().1);
    let room = plan
        .parts_of(library)
        .map(|part| part.0.function_count)
        .sum();
    let prepared = symbols.as_ref().and_then(|symbols| {
        let redirects = Redirects::prepare(&mut status, room, symbols.range())?;
        Some((redirects, Table::find(map, symbols)))
    });
    // The memory stays the library's, whatever comes of this load.
    library.write(status);
    if let Some((redirects, table)) = &prepared {
        let marks = table
            .as_ref()
            .map(|table| table.write_marks(library, redirects));
        if redirects.close().is_err() {
            let first = awaited.clone().next();
            return give_up(plan, library, first, load, ENOMEM, table.as_ref());
        }
        if let (Some(table), Some(marks)) = (table, &marks) {
            table.set_marks(marks);
        }
    }
    for part in awaited.clone() {
        let outcome = match (&symbols, &prepared) {
            (Some(symbols), Some((redirects, _))) => {
                apply(plan, part, load, (map, symbols), redirects)
            }
            (None, _) => Err(fail_to_initialize(part, ENOEXEC)),
            (_, None) => Err(fail_to_initialize(part, ENOMEM)),
        };
        if let Err(errno) = outcome {
            let table = prepared.as_ref().and_then(|(_, table)| table.as_ref());
            return give_up(plan, library, Some(part), load, errno, table);
        }
    }
    library.write(LibraryStatus {
        load,
        ..library.read()
    });
}

/// Takes back what was applied and refuses the load.
fn give_up(
    plan: PlanInForce,
    library: Library,
    failed: Option<Part>,
    load: u64,
    errno: i32,
    table: Option<&Table>,
) {
    if let Some(part) = failed {
        refusal_line(part);
        let status = ObjectStatus {
            load: 0,
            settled: 0,
            refused: load,
            errno: errno as u64,
            ..part.status()
        };
        part.set_status(status);
    }
    // What was applied before counts as owed.
    library.write(LibraryStatus {
        load,
        ..library.read()
    });
    take_back(plan, library);
    library.write(LibraryStatus {
        load: 0,
        ..library.read()
    });
    if let Some(table) = table {
        table.refuse();
    }
}

/// Applies one patch; a positive errno when it cannot be applied.
fn apply(
    plan: PlanInForce,
    part: Part,
    load: u64,
    (map, symbols): (&LinkMap, &Symbols),
    redirects: &Redirects,
) -> Result<(), i32> {
    match bind(part, symbols, map).map_err(|errno| fail_to_initialize(part, errno))? {
        Bound::Bound => {}
        Bound::NotMeant => return Ok(()),
    }
    log::print(
        NOTICE,
        c"livepatch: applying patch '%s' to loading module '%s'",
        &[part.0.patch, part.0.name],
    );
    part.set_module(true);
    let value = part.call(Callback::PrePatch);
    if value != 0 {
        log::print(
            WARN,
            c"livepatch: pre-patch callback failed for object '%s'",
            &[part.0.name],
        );
        part.set_module(false);
        return Err(value.wrapping_abs());
    }
    let pusher = Pusher {
        plan,
        symbols,
        redirects,
    };
    if let Err(obstacle) = pusher.push(part) {
        let errno = obstacle.errno;
        log::print(
            ERR,
            match errno {
                EINVAL => c"livepatch: failed to find location for function '%s'",
                _ => c"livepatch: failed to register ftrace handler for function '%s' (-%d)",
            },
            &[obstacle.function.name, errno as u64],
        );
        log::print(
            WARN,
            c"livepatch: failed to apply patch '%s' to module '%s' (-%d)",
            &[part.0.patch, part.0.name, errno as u64],
        );
        part.call(Callback::PostUnpatch);
        part.set_module(false);
        return Err(errno);
    }
    let settled = !part.is_in_transition();
    if settled {
        part.call(Callback::PostPatch);
    }
    part.set_status(ObjectStatus {
        load,
        settled: u64::from(settled),
        ..part.status()
    });
    Ok(())
}

/// Finds all functions of an object, and what the patch's code refers to in it.
fn bind(part: Part, symbols: &Symbols, map: &LinkMap) -> Result<Bound, i32> {
    let same = part.0.identity != 0 && symbols.identity() == part.0.identity;
    let moved = part.0.bias != map.l_addr;
    let is_fixed = part.0.flags & PLAN_FIXED != 0;
    if part.0.flags & PLAN_BUILT != 0 && (!same || is_fixed && moved) {
        log::print(
            WARN,
            c"livepatch: patch '%s' was built for another load of '%s' and is not applied; load it again",
            &[part.0.patch, part.0.name],
        );
        return Ok(Bound::NotMeant);
    }
    if symbols.relocates_text() {
        log::print(
            ERR,
            c"livepatch: code of '%s' is relocated (DT_TEXTREL); build it with -fPIC",
            &[part.0.name],
        );
        return Err(ENOEXEC);
    }
    if is_fixed && moved {
        log::print(
            ERR,
            c"livepatch: patch '%s' refers to '%s' where it was before, or was not yet; load it again",
            &[part.0.patch, part.0.name],
        );
        return Err(ENOEXEC);
    }
    let distance = map.l_addr.wrapping_sub(part.0.bias);
    for function in part.functions() {
        let place = match function.known {
            known if same && known != 0 => Ok(Place {
                address: known.wrapping_add(distance),
                size: function.known_size,
            }),
            // SAFETY: the plan names a C string.
            _ => unsafe { symbols.find_function(function.name as *const u8, function.position) },
        };
        let place = place.map_err(|missing| complain(&missing, function.name, part))?;
        let status = FunctionStatus {
            address: place.address,
            size: place.size,
            redirect: 0,
        };
        write_status(function, status);
    }
    let bound_to = match part.status().bias {
        0 => part.0.bias,
        bias => bias,
    };
    for binding in part.bindings() {
        // SAFETY: the plan names a C string.
        let found = unsafe { symbols.find(binding.name as *const u8, binding.position) };
        // SAFETY: the plan names eight bytes of the patch's module.
        let before = unsafe { (binding.place as *const u64).read_volatile() };
        let value = match found {
            Ok(place) => place.address.wrapping_add_signed(binding.addend),
            // It is where it was in the file that is the same.
            Err(_) if same && before != 0 => before.wrapping_add(map.l_addr.wrapping_sub(bound_to)),
            Err(missing) => return Err(complain(&missing, binding.name, part)),
        };
        // SAFETY: as above.
        unsafe { write_word(binding.place, value, binding.protected != 0) }?;
    }
    part.set_status(ObjectStatus {
        bias: map.l_addr,
        ..part.status()
    });
    Ok(Bound::Bound)
}

/// Whether a patch is to be applied to what was found.
enum Bound {
    Bound,
    /// It was built for another one.
    NotMeant,
}

fn complain(missing: &Missing, name: u64, part: Part) -> i32 {
    let (line, errno) = describe(missing);
    log::print(ERR, line, &[name, part.0.name]);
    errno
}

fn describe(missing: &Missing) -> (&'static core::ffi::CStr, i32) {
    match missing {
        Missing::NotFound => (c"livepatch: symbol '%s' not found in symbol table", EINVAL),
        Missing::Ambiguous => (
            c"livepatch: unresolvable ambiguity for symbol '%s' in object '%s'",
            EINVAL,
        ),
        Missing::PositionNotFound => (
            c"livepatch: symbol position for symbol '%s' in object '%s' not found",
            EINVAL,
        ),
        Missing::NoSize => (c"livepatch: kallsyms size lookup failed for '%s'", ENOENT),
        Missing::Ifunc | Missing::NotCode | Missing::ThreadLocal | Missing::Unreadable => {
            (c"livepatch: symbol '%s' of '%s' is not a function", EINVAL)
        }
    }
}

fn fail_to_initialize(part: Part, errno: i32) -> i32 {
    log::print(
        WARN,
        c"livepatch: failed to initialize patch '%s' for module '%s' (-%d)",
        &[part.0.patch, part.0.name, errno as u64],
    );
    errno
}

fn refusal_line(part: Part) {
    log::print(
        WARN,
        c"livepatch: patch '%s' failed for module '%s', refusing to load module '%s'",
        &[part.0.patch, part.0.name, part.0.name],
    );
}
