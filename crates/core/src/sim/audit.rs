//! What must be true of states and callbacks at any time.

use super::library::Libraries;
use super::model::{Model, Running};
use super::process::Frame;
use crate::{
    CallbackCall, CallbackKind, Callbacks, Code, Func, Object, Patch, PatchId, Phase, Replacement,
    State, Subject, Universe,
};

/// The code that a frame is in; nothing for a patch that is gone.
pub(super) fn code_of(state: &State, frame: &Frame) -> Option<Code> {
    let Some(id) = frame.code else {
        return Some(super::original(frame.function));
    };
    let wanted = super::original(frame.function);
    let patch = state.patch(id)?;
    let mut funcs = patch.objects.iter().flat_map(|object| &object.funcs);
    let func = funcs.find(|f| f.old.as_ref() == Some(&wanted))?;
    match &func.replacement {
        Replacement::New(code) => Some(code.clone()),
        Replacement::Nop => None,
    }
}

/// What a callback prints.
pub(super) fn callback_line(state: &State, call: &CallbackCall) -> String {
    let kind = match call.kind {
        _ if matches!(call.subject, Subject::Shadows(_)) => "shadow_dtor",
        CallbackKind::PrePatch => "pre_patch_callback",
        CallbackKind::PostPatch => "post_patch_callback",
        CallbackKind::PreUnpatch => "pre_unpatch_callback",
        CallbackKind::PostUnpatch => "post_unpatch_callback",
    };
    let patch = state.patch(call.patch);
    let name = patch.map_or("?", |p| p.name.as_str());
    let subject = match (patch, call.subject) {
        (Some(patch), Subject::Object(index)) => {
            let object = patch.objects.get(index);
            state
                .display_name(object.and_then(|o| o.name.as_deref()))
                .to_owned()
        }
        _ => format!(
            "state {}",
            super::effects::state_of(state, call).unwrap_or(0)
        ),
    };
    format!("{name}: {kind}: {subject}")
}

/// Flags agree with each other and with the model; nothing of a patch that is not enabled is
/// in force.
pub(super) fn check_state(model: &Model, state: &State) -> Result<(), String> {
    for patch in state.patches() {
        let name = &patch.name;
        if !state.is_in_transition(patch.id) {
            let is_wrong = |o: &Object| o.patched != (patch.enabled && o.loaded);
            if patch.objects.iter().any(is_wrong) {
                return Err(format!("patch {name}: patched differs from enabled"));
            }
        }
        if patch.leaving && state.transition.is_none() {
            return Err(format!("patch {name} is leaving without a transition"));
        }
        if patch.forced != model.forced().contains(&patch.id) {
            return Err(format!("patch {name}: forced is {}", patch.forced));
        }
        if state.transition.is_none() && patch.enabled != model.settled().contains(&patch.id) {
            return Err(format!("patch {name}: enabled is {}", patch.enabled));
        }
        check_extras(model, state, patch)?;
    }
    if state.replaced.iter().any(|p| p.enabled || p.leaving) {
        return Err("a replaced patch is enabled".to_owned());
    }
    Ok(())
}

/// A replacing patch holds one nop for each function that an older patch has and it has not,
/// and a dynamic object for each object. They exist during its transition only, and no other
/// patch ever has any.
fn check_extras(model: &Model, state: &State, patch: &Patch) -> Result<(), String> {
    let name = &patch.name;
    let transition = state.transition.as_ref().filter(|t| t.patch == patch.id);
    let is_replacing = patch.replace
        && transition.is_some_and(|t| match &t.phase {
            Phase::Calling(call) => call.stage == CallbackKind::PrePatch,
            Phase::Installing | Phase::Switching => t.initial_target == Universe::Patched,
            Phase::Settling => false,
        });
    let Some(running) = model.running.as_ref().filter(|_| is_replacing) else {
        let is_extra = |o: &Object| o.dynamic || o.funcs.iter().any(Func::is_nop);
        if patch.objects.iter().any(is_extra) {
            return Err(format!("patch {name} holds nops or dynamic objects"));
        }
        return Ok(());
    };
    let older = running
        .stack
        .iter()
        .filter(|p| running.older.contains(&p.id));
    let replaced: Vec<&Object> = older.flat_map(|old| &old.objects).collect();
    let is_same =
        |a: &Func, b: &Func| super::number_of(&a.old_name) == super::number_of(&b.old_name);
    for old in &replaced {
        let Some(own) = patch.objects.iter().find(|own| own.name == old.name) else {
            return Err(format!("patch {name} lacks object {:?}", old.name));
        };
        let below = state.stack.iter().take_while(|p| p.id != patch.id);
        let mut same = below.flat_map(|p| &p.objects);
        if same.any(|o| o.name == own.name && o.loaded != own.loaded) {
            return Err(format!("patch {name}: loaded of object {:?}", old.name));
        }
        for func in &old.funcs {
            let entries = own.funcs.iter().filter(|f| is_same(f, func)).count();
            // Two names of one function are known as such only while it is there.
            if entries == 0 || entries > 1 && own.loaded {
                let function = &func.old_name;
                return Err(format!("patch {name}: {entries} entries for {function}"));
            }
        }
    }
    for (index, own) in patch.objects.iter().enumerate() {
        let old: Vec<_> = replaced.iter().filter(|old| old.name == own.name).collect();
        let written = model.patch(patch.id).map_or(0, |new| new.objects.len());
        if own.dynamic != (index >= written) {
            return Err(format!("patch {name}: dynamic of object {index}"));
        }
        if own.dynamic && (old.is_empty() || own.callbacks != Callbacks::default()) {
            return Err(format!("patch {name}: dynamic object {index}"));
        }
        let is_needed = |nop: &Func| old.iter().any(|o| o.funcs.iter().any(|f| is_same(f, nop)));
        if own.funcs.iter().any(|f| f.is_nop() && !is_needed(f)) {
            return Err(format!("patch {name} has a nop for nothing"));
        }
    }
    Ok(())
}

/// What a callback can see of the stack (sections 2, 4.7 and 10 of the specification): the
/// patches that were enabled before and the one in transition, in the stack's order; who is
/// being replaced is listed until the end, but not enabled any more.
pub(super) fn check_view(
    running: &Running,
    state: &State,
    call: &CallbackCall,
) -> Result<(), String> {
    let order = state.stack.iter().map(|patch| patch.id);
    let shown = order.filter(|id| running.enabled.contains(id) || *id == running.patch);
    let shown: Vec<PatchId> = shown.collect();
    let listed = state.listed();
    let transition = shown.iter().position(|id| *id == running.patch);
    if listed.patches != shown || listed.transition != transition {
        return Err(format!("{call:?} sees {listed:?} instead of {shown:?}"));
    }
    let replaces = call.stage == CallbackKind::PostPatch && running.initial == Universe::Patched;
    for patch in state.stack.iter().filter(|p| shown.contains(&p.id)) {
        let is_enabled = if patch.id == running.patch {
            matches!(
                call.stage,
                CallbackKind::PostPatch | CallbackKind::PreUnpatch
            )
        } else {
            let is_replaced = replaces && running.older.contains(&patch.id);
            !(is_replaced && state.patch(running.patch).is_some_and(|p| p.replace))
        };
        if patch.enabled != is_enabled {
            return Err(format!(
                "{call:?} sees {} enabled: {}",
                patch.name, patch.enabled
            ));
        }
    }
    Ok(())
}

/// The callbacks that ran in a transition are those of section 8 of the specification, each
/// once and in order.
pub(super) fn check_callbacks(
    model: &Model,
    ended: &Running,
    ran: &[(u64, CallbackCall, i32)],
    libraries: &Libraries,
) -> Result<(), String> {
    let mut seen = Vec::new();
    let (mut vetoed, mut refused) = (None, false);
    for (token, call, value) in ran {
        if *token != ended.token.value() {
            continue;
        }
        let Some(object) = call.object() else {
            refused |= call.kind == CallbackKind::PrePatch && *value != 0;
            continue;
        };
        if call.patch != ended.patch {
            return Err(format!("a callback of another patch ran: {call:?}"));
        }
        if call.kind == CallbackKind::PrePatch && *value != 0 {
            vetoed = Some(object);
        }
        seen.push((call.kind, object));
    }
    let Some(patch) = model.patch(ended.patch) else {
        return Err("a transition of an unknown patch".to_owned());
    };
    let with = |kind: CallbackKind, until: usize| {
        let objects = patch.objects.iter().enumerate().take(until);
        let present = objects.filter(move |(_, object)| {
            let callbacks = &object.callbacks;
            libraries.is_there(object.name.as_deref(), object.loaded)
                && match kind {
                    CallbackKind::PrePatch => callbacks.pre_patch.is_some(),
                    CallbackKind::PostPatch => callbacks.post_patch.is_some(),
                    CallbackKind::PreUnpatch => callbacks.pre_unpatch.is_some(),
                    CallbackKind::PostUnpatch => callbacks.post_unpatch.is_some(),
                }
        });
        present.map(move |(index, _)| (kind, index))
    };
    let all = usize::MAX;
    let chain = |first, until_first, second, until_second| -> Vec<_> {
        with(first, until_first)
            .chain(with(second, until_second))
            .collect()
    };
    use CallbackKind::{PostPatch, PostUnpatch, PrePatch, PreUnpatch};
    let allowed: Vec<Vec<_>> = match (ended.initial, ended.target) {
        (Universe::Patched, Universe::Patched) => vec![chain(PrePatch, all, PostPatch, all)],
        (Universe::Unpatched, Universe::Unpatched) => {
            vec![chain(PreUnpatch, all, PostUnpatch, all)]
        }
        (Universe::Unpatched, Universe::Patched) => vec![chain(PreUnpatch, all, PostPatch, all)],
        // A state is asked before any object.
        (Universe::Patched, Universe::Unpatched) if refused => vec![Vec::new()],
        (Universe::Patched, Universe::Unpatched) => match vetoed {
            Some(object) => vec![chain(PrePatch, object + 1, PostUnpatch, object)],
            // a cancel may come between any two objects
            None => (0..=patch.objects.len())
                .map(|until| chain(PrePatch, until, PostUnpatch, until))
                .collect(),
        },
    };
    // With libraries that come and go meanwhile there are too many ways; each object is followed
    // by itself (`Process::note_ran`).
    if allowed.contains(&seen) || libraries.events != ended.events {
        return Ok(());
    }
    Err(format!("callbacks {seen:?}, allowed are {allowed:?}"))
}

/// What a transition leaves behind. A completed replace has moved the older patches off the
/// stack, in order; nothing else has changed in any other patch, and an enable that did not
/// come about has changed nothing at all. Patches may have been registered or unloaded
/// meanwhile.
pub(super) fn check_end(ended: &Running, before: &State, state: &State) -> Result<(), String> {
    let is_replace = before.patch(ended.patch).is_some_and(|p| p.replace);
    let came = ended.target == Universe::Patched;
    let mut stack: Vec<&Patch> = if came {
        before.stack.iter().collect()
    } else {
        let stays = |p: &&Patch| before.stack.iter().any(|other| other.id == p.id);
        let is_new = |p: &&Patch| ended.stack.iter().all(|other| other.id != p.id);
        let (old, new) = (ended.stack.iter(), before.stack.iter());
        old.filter(stays).chain(new.filter(is_new)).collect()
    };
    let mut replaced: Vec<&Patch> = before.replaced.iter().collect();
    if came && is_replace {
        let is_older = |p: &&Patch| ended.older.contains(&p.id);
        let (older, rest) = stack.into_iter().partition::<Vec<_>, _>(is_older);
        replaced.extend(older);
        stack = rest;
    }
    let ids = |patches: &[&Patch]| patches.iter().map(|p| p.id).collect::<Vec<_>>();
    let found: Vec<&Patch> = state.stack.iter().collect();
    if ids(&found) != ids(&stack) {
        return Err(format!(
            "the stack is {:?}, not {:?}",
            ids(&found),
            ids(&stack)
        ));
    }
    let gone: Vec<&Patch> = state.replaced.iter().collect();
    if ids(&gone) != ids(&replaced) {
        return Err(format!(
            "replaced are {:?}, not {:?}",
            ids(&gone),
            ids(&replaced)
        ));
    }
    for patch in found.into_iter().filter(|p| p.id != ended.patch) {
        let forced = patch.forced;
        let was = ended.stack.iter().find(|old| old.id == patch.id);
        if was.is_some_and(|was| {
            without_presence(patch)
                != without_presence(&Patch {
                    forced,
                    ..was.clone()
                })
        }) {
            return Err(format!("patch {} has changed", patch.name));
        }
    }
    Ok(())
}

/// Whether the patches are the same but for libraries' being there.
pub(super) fn are_same(one: &[Patch], other: &[Patch]) -> bool {
    let plain = |patches: &[Patch]| patches.iter().map(without_presence).collect::<Vec<_>>();
    plain(one) == plain(other)
}

/// A patch without what follows from libraries' being there.
fn without_presence(patch: &Patch) -> Patch {
    let mut patch = patch.clone();
    for object in patch.objects.iter_mut().filter(|o| o.name.is_some()) {
        (object.loaded, object.patched, object.settled) = (false, false, false);
        object.load = 0;
        object.funcs.retain(|func| !func.is_nop());
        object.post_unpatch_due = false;
        object.funcs.iter_mut().for_each(|func| func.old = None);
    }
    patch
}
