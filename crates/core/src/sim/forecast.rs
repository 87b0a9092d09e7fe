//! What an operation must answer, worked out from the specification (sections 2, 3, 6, 7, 10)
//! and section 8 of the design without the code under test.

use super::model::Model;
use super::process::Process;
use super::{callback_address, number_of, original};
use crate::{CallbackKind, NewObject, Patch, PatchId, Phase, State, Universe};

const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
pub(super) const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
pub(super) const EINVAL: i32 = 22;

/// An errno, or success.
pub(super) type Answer = Result<(), i32>;

/// What registering a patch of that name must answer.
pub(super) fn register(process: &Process, name: &str) -> Answer {
    match find(&process.saved, name) {
        Some(_) => Err(EEXIST),
        None => Ok(()),
    }
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
    Ok(())
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
    let mut others = others.filter(|p| p.id != patch.id && is_listed(&process.model, p.id));
    others.all(|other| {
        let is_replaced = patch.replace && (to_top || place(other.id) < place(patch.id));
        other.states.iter().all(|theirs| {
            match patch.states.iter().find(|ours| ours.id == theirs.id) {
                Some(ours) => ours.version >= theirs.version,
                None => !is_replaced,
            }
        })
    })
}

/// Addresses of the pre_patch callbacks of that object in all loads up to `loads`.
pub(super) fn pre_patches(loads: u64, object: usize) -> impl Iterator<Item = u64> {
    (0..=loads).map(move |load| callback_address(load, object, CallbackKind::PrePatch))
}
