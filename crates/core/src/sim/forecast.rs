//! What an operation must answer, worked out from the specification (sections 2, 3, 6, 7, 10)
//! and section 8 of the design without the code under test.

use super::model::Model;
use super::process::Process;
use super::{callback_address, number_of, original};
use crate::{
    CallbackKind, NewObject, NewPatch, Patch, PatchId, Phase, State, SystemState, Universe, Upkeep,
};

const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
pub(super) const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
pub(super) const EINVAL: i32 = 22;

/// An errno, or success.
pub(super) type Answer = Result<(), i32>;

/// What registering a patch must answer.
pub(super) fn register(process: &Process, patch: &NewPatch) -> Answer {
    if find(&process.saved, &patch.name).is_some() {
        return Err(EEXIST);
    }
    let numbers = |patch: &NewPatch| -> Vec<(Option<String>, Option<usize>)> {
        let objects = patch.objects.iter();
        let funcs = objects.flat_map(|o| o.funcs.iter().map(|f| (o.name.clone(), f)));
        funcs
            .map(|(name, f)| (name, number_of(&f.old_name)))
            .collect()
    };
    let own = numbers(patch);
    let stack = process.saved.stack.iter();
    let mut others = stack.filter_map(|other| process.model.patch(other.id));
    let is_foreign = others.any(|other| {
        other.replace_set != patch.replace_set
            && (numbers(other).iter().any(|f| own.contains(f))
                || (other.states.iter()).any(|s| patch.states.iter().any(|own| own.id == s.id)))
    });
    if is_foreign { Err(EINVAL) } else { Ok(()) }
}

/// What unloading must answer.
pub(super) fn unload(process: &Process, name: &str) -> Answer {
    let state = &process.saved;
    let patch = find(state, name).ok_or(ENOENT)?;
    let model = &process.model;
    let is_moving = model.running.as_ref().is_some_and(|r| r.patch == patch.id);
    if is_moving || model.settled().contains(&patch.id) || model.forced().contains(&patch.id) {
        return Err(EAGAIN);
    }
    Ok(())
}

/// What forcing must answer.
pub(super) fn force(process: &Process) -> Answer {
    match phase(&process.saved) {
        None => Err(EINVAL),
        Some(Phase::Switching) => Ok(()),
        Some(_) => Err(EBUSY),
    }
}

/// What disabling must answer.
pub(super) fn disable(process: &Process, name: &str, any: bool) -> Answer {
    let state = &process.saved;
    let model = &process.model;
    let patch = stacked(state, name)?;
    if is_heading(model, patch.id, Universe::Patched) {
        return reverse(state);
    }
    if !is_enabled(process, patch.id) {
        return Err(EINVAL);
    }
    if model.running.is_some() || (!any && is_covered(process, patch.id)) {
        return Err(EBUSY);
    }
    if is_irrevocable(process, name) {
        return Err(EINVAL);
    }
    Ok(())
}

/// Whether disabling a patch would take away what cannot be.
pub(super) fn is_irrevocable(process: &Process, name: &str) -> bool {
    let Ok(patch) = stacked(&process.saved, name) else {
        return false;
    };
    let blocked = blocked_states(patch);
    blocked
        .into_iter()
        .any(|id| !is_in_force(process, id, |other| other != patch.id))
}

fn blocked_states(patch: &Patch) -> Vec<u64> {
    let states = patch.states.iter();
    let blocked = states.filter(|state| state.upkeep.is_some_and(|upkeep| upkeep.block_disable));
    blocked.map(|state| state.id).collect()
}

/// Whether one of these patches is enabled and has the state.
fn is_in_force(process: &Process, id: u64, among: impl Fn(PatchId) -> bool) -> bool {
    let mut stack = process.saved.stack.iter();
    stack.any(|p| {
        among(p.id) && is_enabled(process, p.id) && p.states.iter().any(|state| state.id == id)
    })
}

/// What enabling must answer.
pub(super) fn enable(process: &Process, name: &str, any: bool) -> Answer {
    let state = &process.saved;
    let model = &process.model;
    let patch = stacked(state, name)?;
    if is_heading(model, patch.id, Universe::Unpatched) {
        return reverse(state);
    }
    if is_enabled(process, patch.id) {
        return Err(EINVAL);
    }
    let is_covered = is_covered(process, patch.id);
    if !is_compatible(process, patch, any && is_covered) {
        return Err(EINVAL);
    }
    if model.running.is_some() || (is_covered && !any) {
        return Err(EBUSY);
    }
    let written = model.patch(patch.id).ok_or(ENOENT)?;
    for state in &written.states {
        let pre_patch = state.upkeep.and_then(|upkeep| upkeep.callbacks.pre_patch);
        let value = pre_patch.and_then(|address| process.returns.get(&address));
        let appears = !is_in_force(process, state.id, |_| true);
        if let Some(value) = value.filter(|value| appears && **value != 0) {
            return Err(value.abs());
        }
    }
    let is_there = |o: &&NewObject| process.libraries.is_there(o.name.as_deref(), o.loaded);
    for object in written.objects.iter().filter(is_there) {
        let address = object.callbacks.pre_patch;
        let value = address.and_then(|address| process.returns.get(&address));
        if let Some(value) = value.filter(|value| **value != 0) {
            return Err(value.abs());
        }
    }
    let loaded = written.objects.iter().filter(is_there);
    let functions = loaded.flat_map(|object| &object.funcs);
    let functions = functions.filter_map(|func| number_of(&func.old_name));
    let errno = |function: usize| {
        let errno = process.taken.get(&original(function).entry());
        errno.filter(|_| !model.is_redirected(function))
    };
    // The entries are gone through by address.
    let first = functions.filter(|f| errno(*f).is_some()).min();
    match first.and_then(errno) {
        Some(errno) => Err(*errno),
        None => Ok(()),
    }
}

/// Whether enabling moves the patch to the top of the stack.
pub(super) fn is_to_top(process: &Process, name: &str, any: bool) -> bool {
    let patch = process.saved.stack.iter().find(|patch| patch.name == name);
    any && patch.is_some_and(|patch| is_covered(process, patch.id))
}

fn find<'a>(state: &'a State, name: &str) -> Option<&'a Patch> {
    let mut all = state.stack.iter().chain(&state.replaced);
    all.find(|patch| patch.name == name)
}

fn stacked<'a>(state: &'a State, name: &str) -> Result<&'a Patch, i32> {
    let patch = state.stack.iter().find(|patch| patch.name == name);
    patch.ok_or(match find(state, name) {
        Some(_) => EINVAL,
        None => ENOENT,
    })
}

fn phase(state: &State) -> Option<&Phase> {
    state.transition.as_ref().map(|t| &t.phase)
}

fn reverse(state: &State) -> Answer {
    match phase(state) {
        Some(Phase::Switching) => Ok(()),
        _ => Err(EBUSY),
    }
}

fn is_heading(model: &Model, patch: PatchId, target: Universe) -> bool {
    let running = model.running.as_ref();
    running.is_some_and(|running| running.patch == patch && running.target == target)
}

/// The requested direction. Who is being replaced counts as disabled once everybody has
/// left it.
fn is_enabled(process: &Process, patch: PatchId) -> bool {
    match &process.model.running {
        Some(running) if running.patch == patch => running.target == Universe::Patched,
        Some(running) => {
            let state = &process.saved;
            let is_settling = matches!(phase(state), Some(Phase::Settling | Phase::Calling(_)));
            let is_replace = state.patch(running.patch).is_some_and(|p| p.replace);
            let came = is_settling && is_replace && running.target == Universe::Patched;
            let is_replaced = came && running.older.contains(&patch);
            process.model.settled().contains(&patch) && !is_replaced
        }
        None => process.model.settled().contains(&patch),
    }
}

/// Enabled, or on the way there or back.
fn is_listed(model: &Model, patch: PatchId) -> bool {
    let running = model.running.as_ref();
    model.settled().contains(&patch) || running.is_some_and(|running| running.patch == patch)
}

/// A newer enabled patch changes one of its functions.
fn is_covered(process: &Process, patch: PatchId) -> bool {
    let model = &process.model;
    let functions = |id: PatchId| {
        let objects = model.patch(id).map(|written| written.objects.iter());
        let objects = objects.into_iter().flatten();
        let named = objects.flat_map(|o| o.funcs.iter().map(|f| (o.name.clone(), &f.old_name)));
        // Two names of one function are known as such only while it is there.
        let there = |object: &Option<String>| process.libraries.is_there(object.as_deref(), true);
        named
            .map(
                |(object, name)| match number_of(name).filter(|_| there(&object)) {
                    Some(number) => (object, number.to_string()),
                    None => (object, name.clone()),
                },
            )
            .collect::<Vec<_>>()
    };
    let own = functions(patch);
    let order = process.saved.stack.iter().map(|patch| patch.id);
    let newer = order.skip_while(|id| *id != patch).skip(1);
    let mut newer = newer.filter(|id| is_enabled(process, *id));
    newer.any(|id| functions(id).iter().any(|function| own.contains(function)))
}

fn is_compatible(process: &Process, patch: &Patch, to_top: bool) -> bool {
    let place = |id: PatchId| process.saved.stack.iter().position(|p| p.id == id);
    let others = process.saved.stack.iter();
    let others = others.filter(|p| p.id != patch.id && is_listed(&process.model, p.id));
    let others: Vec<&Patch> = others.collect();
    let is_replaced = |other: PatchId| {
        let set = |id: PatchId| process.model.patch(id).map(|p| p.replace_set);
        let is_below = to_top || place(other) < place(patch.id);
        patch.replace && is_below && set(other) == set(patch.id)
    };
    let stays = |id: u64| {
        patch.states.iter().any(|state| state.id == id)
            || is_in_force(process, id, |other| {
                other != patch.id && !is_replaced(other)
            })
    };
    let is_newest = |id: u64, owner: PatchId| {
        let is_newer = |p: PatchId| is_replaced(p) && place(p) > place(owner);
        !is_in_force(process, id, is_newer)
    };
    others.iter().all(|other| {
        let carried = other.states.iter().all(|theirs| {
            match patch.states.iter().find(|ours| ours.id == theirs.id) {
                Some(ours) => ours.version >= theirs.version && keeps(ours, theirs),
                None => !is_replaced(other.id) || theirs.upkeep.is_some(),
            }
        });
        let mut blocked = match is_replaced(other.id) && is_enabled(process, other.id) {
            true => blocked_states(other),
            false => Vec::new(),
        };
        carried
            && blocked
                .iter_mut()
                .all(|id| stays(*id) || !is_newest(*id, other.id))
    })
}

/// Whether `ours` can take back what `theirs` has set up.
fn keeps(ours: &SystemState, theirs: &SystemState) -> bool {
    let Some(theirs) = theirs.upkeep else {
        return true;
    };
    let undoes =
        |u: &Upkeep| u.callbacks.pre_unpatch.is_some() || u.callbacks.post_unpatch.is_some();
    ours.upkeep.is_some_and(|ours| {
        (ours.owns_shadows || !theirs.owns_shadows)
            && (undoes(&ours) || ours.block_disable || !undoes(&theirs))
    })
}

/// Addresses of the pre_patch callbacks of that object in all loads up to `loads`.
pub(super) fn pre_patches(loads: u64, object: usize) -> impl Iterator<Item = u64> {
    (0..=loads).map(move |load| callback_address(load, object, CallbackKind::PrePatch))
}
