//! Libraries that the simulated process loads and unloads, and what the code inside it does
//! then, without a tool (spec section 9).

use std::collections::BTreeMap;
use std::ops::Range;

use super::process::Process;
use super::{number_of, original};
use crate::arrival::drop_aliases;
use crate::{
    Applied, CallbackCall, CallbackKind, Callbacks, Code, Func, Object, PatchId, Phase, RouteKind,
    Sighting, State, Subject, routes,
};

/// One object of one patch.
type Part = (PatchId, usize);

/// The libraries that may come and go. What other libraries are never changes.
#[derive(Clone, Debug, Default)]
pub struct Libraries {
    /// By name: number of the load, 0 while it is not there.
    there: BTreeMap<String, u64>,
    functions: BTreeMap<String, Range<usize>>,
    /// Loads and unloads so far.
    pub(super) events: u64,
    /// Those that the tool had asked for when it last did.
    pub(super) events_sighted: u64,
    loads: u64,
    /// Parts to which a patch was applied when they came, by that load.
    applied: BTreeMap<Part, (u64, Applied)>,
}

/// How far the callbacks of an object are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Idle,
    Prepared,
    Settled,
}

/// A callback that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ran {
    pub(super) patch: PatchId,
    pub(super) object: usize,
    pub(super) kind: CallbackKind,
    /// What it returned.
    pub(super) value: i32,
}

impl Libraries {
    /// Whether a library is there; `otherwise` for those that never change.
    #[must_use]
    pub fn is_there(&self, name: Option<&str>, otherwise: bool) -> bool {
        match name.and_then(|name| self.there.get(name)) {
            Some(load) => *load != 0,
            None => otherwise,
        }
    }

    /// Whether a function is one of a library that may come and go.
    pub(super) fn holds(&self, function: usize) -> bool {
        self.functions
            .values()
            .any(|functions| functions.contains(&function))
    }

    fn load_of(&self, object: &Object) -> Option<u64> {
        self.there.get(object.name.as_deref()?).copied()
    }

    /// Number of the load of a library, 0 while it is not there.
    pub(super) fn load(&self, name: &str) -> u64 {
        self.there.get(name).copied().unwrap_or(0)
    }

    pub(super) fn sight(&mut self, state: &State) -> Vec<Sighting> {
        self.events_sighted = self.events;
        let mut sightings = Vec::new();
        for patch in &state.stack {
            for (index, object) in patch.objects.iter().enumerate() {
                let Some(load) = self.load_of(object) else {
                    continue;
                };
                if load == noted(object) {
                    continue;
                }
                let part = (patch.id, index);
                let applied = self.applied.get(&part).filter(|(at, _)| *at == load);
                sightings.push(Sighting {
                    patch: patch.id,
                    object: index,
                    loaded: (load != 0).then(|| codes_of(object)),
                    load,
                    applied: applied.map(|(_, applied)| *applied),
                });
            }
        }
        sightings
    }

    /// Whether a function's library came or went since the state was brought in line: its code
    /// is then none of the tool's business yet.
    pub(super) fn is_unsighted(&self, state: &State, entry: u64) -> bool {
        state.stack.iter().any(|patch| {
            patch.objects.iter().any(|object| {
                let load = self.load_of(object);
                let differs = load.is_some_and(|load| load != noted(object));
                differs && codes_of(object).iter().any(|code| code.entry() == entry)
            })
        })
    }
}

/// The load that the state speaks of, 0 for none.
fn noted(object: &Object) -> u64 {
    if object.loaded { object.load } else { 0 }
}

fn codes_of(object: &Object) -> Vec<Code> {
    let numbers = object.funcs.iter().map(|f| number_of(&f.old_name));
    numbers.map(|n| original(n.unwrap_or(0))).collect()
}

impl Process {
    /// From now on this library, which holds these functions, may come and go.
    pub fn add_library(&mut self, name: &str, functions: Range<usize>, loaded: bool) {
        let libraries = &mut self.libraries;
        libraries.functions.insert(name.to_owned(), functions);
        self.libraries.loads += 1;
        let load = if loaded { self.libraries.loads } else { 0 };
        self.libraries.there.insert(name.to_owned(), load);
    }

    /// A thread loads the library. `false` when a patch refuses it.
    pub fn come(&mut self, name: &str) -> bool {
        if self.libraries.is_there(Some(name), true) {
            return true;
        }
        self.libraries.events += 1;
        self.libraries.loads += 1;
        let load = self.libraries.loads;
        let mut state = self.saved.clone();
        let parts: Vec<(Part, bool)> = state
            .watched()
            .filter(|w| w.awaited && w.object().name.as_deref() == Some(name))
            .map(|w| ((w.patch.id, w.index), w.in_transition))
            .collect();
        // What the state says of an earlier load is over.
        for patch in &mut state.stack {
            let named = |o: &&mut Object| o.name.as_deref() == Some(name);
            for object in patch.objects.iter_mut().filter(named) {
                (object.loaded, object.patched) = (false, false);
            }
        }
        for (position, (part, in_transition)) in parts.iter().enumerate() {
            let fine = self.call_inside(*part, CallbackKind::PrePatch) == 0;
            let object = object_of(&mut state, *part);
            (object.loaded, object.patched) = (true, true);
            let codes = codes_of(object);
            for (func, code) in object.funcs.iter_mut().zip(codes) {
                func.old = Some(code);
            }
            drop_aliases(object);
            let mut entries = object.funcs.iter().filter_map(Func::entry);
            let free = entries.all(|entry| !self.taken.contains_key(&entry));
            if !fine || !free {
                if fine {
                    self.call_inside(*part, CallbackKind::PostUnpatch);
                }
                self.take_back(name, &parts[..position], Some(load));
                return false;
            }
            self.push_routes(&state, name);
            let settled = !in_transition;
            if settled {
                self.call_inside(*part, CallbackKind::PostPatch);
            }
            let applied = Applied { settled };
            self.libraries.applied.insert(*part, (load, applied));
        }
        self.libraries.there.insert(name.to_owned(), load);
        true
    }

    /// A thread unloads the library, unless somebody is in it.
    pub fn go(&mut self, name: &str) {
        let functions = self.libraries.functions.get(name).cloned();
        let functions = functions.unwrap_or_default();
        let mut frames = self.threads.iter().flat_map(|t| &t.stack);
        let in_use = frames.any(|frame| functions.contains(&frame.function));
        if in_use || !self.libraries.is_there(Some(name), false) {
            return;
        }
        self.libraries.events += 1;
        let parts: Vec<(Part, bool)> = self
            .saved
            .watched()
            .filter(|w| w.object().name.as_deref() == Some(name))
            .map(|w| ((w.patch.id, w.index), w.in_transition))
            .collect();
        self.take_back(name, &parts, None);
        self.libraries.there.insert(name.to_owned(), 0);
    }

    /// Pops a library's funcs with their callbacks; `refused` is the load that did not come
    /// about, if it is one.
    fn take_back(&mut self, name: &str, parts: &[(Part, bool)], refused: Option<u64>) {
        for (part, _) in parts {
            let (settled, due) = match refused {
                Some(load) => self.applied_at(*part, load),
                None => self.owed(*part),
            };
            if settled {
                self.call_inside(*part, CallbackKind::PreUnpatch);
            }
            if due {
                self.call_inside(*part, CallbackKind::PostUnpatch);
            }
            self.libraries.applied.remove(part);
        }
        let mut state = self.saved.clone();
        let objects = state.stack.iter_mut().flat_map(|p| &mut p.objects);
        let entries: Vec<u64> = objects
            .filter(|o| o.name.as_deref() == Some(name))
            .flat_map(|o| codes_of(o))
            .map(|code| code.entry())
            .collect();
        self.code.retain(|entry, _| !entries.contains(entry));
    }

    /// Whether pre_unpatch and post_unpatch are owed to an object: what was done without the
    /// tool counts, and a callback that the tool has run counts though it was not recorded yet.
    fn owed(&self, part: Part) -> (bool, bool) {
        let Some(patch) = self.saved.patch(part.0) else {
            return (false, false);
        };
        let Some(object) = patch.objects.get(part.1) else {
            return (false, false);
        };
        let Some(load) = self.libraries.load_of(object) else {
            return (false, false);
        };
        if noted(object) != load {
            return self.applied_at(part, load);
        }
        let (mut settled, mut due) = (object.settled, object.post_unpatch_due);
        if let Some(Phase::Calling(call)) = self.saved.transition.as_ref().map(|t| &t.phase)
            && (call.patch, call.subject) == (part.0, Subject::Object(part.1))
            && let Some(value) = self.results.get(&call.sequence)
        {
            match call.kind {
                CallbackKind::PrePatch => due = *value == 0,
                CallbackKind::PostPatch => settled = true,
                CallbackKind::PreUnpatch => settled = false,
                CallbackKind::PostUnpatch => due = false,
            }
        }
        (settled, due)
    }

    fn applied_at(&self, part: Part, load: u64) -> (bool, bool) {
        let applied = self.libraries.applied.get(&part);
        let applied = applied.filter(|(at, _)| *at == load);
        applied.map_or((false, false), |(_, applied)| (applied.settled, true))
    }

    /// Whether a callback is for an object that is not there any more, or again.
    pub(super) fn is_void(&self, call: &CallbackCall) -> bool {
        let patch = self.saved.patch(call.patch);
        let Some(object) = patch.and_then(|p| p.objects.get(call.object()?)) else {
            return false;
        };
        let load = self.libraries.load_of(object);
        load.is_some_and(|load| load == 0 || load != noted(object))
    }

    /// Every object goes round: pre_patch, post_patch, pre_unpatch, post_unpatch; from the third
    /// a reversal leads back to the second.
    pub(super) fn note_ran(&mut self, ran: Ran) {
        use CallbackKind::{PostPatch, PostUnpatch, PrePatch, PreUnpatch};
        let Ran {
            patch,
            object,
            kind,
            value,
        } = ran;
        let stage = self
            .stages
            .get(&(patch, object))
            .copied()
            .unwrap_or_default();
        let next = match (stage, kind) {
            (Stage::Idle, PrePatch) if value != 0 => Stage::Idle,
            (Stage::Idle, PrePatch) => Stage::Prepared,
            (Stage::Prepared, PostPatch) => Stage::Settled,
            (Stage::Settled, PreUnpatch) => Stage::Prepared,
            (Stage::Prepared, PostUnpatch) => Stage::Idle,
            _ if !self.has_all(patch, object) => stage,
            (stage, kind) => {
                self.report(format!(
                    "{kind:?} of object {object} of {patch:?} when {stage:?}"
                ));
                return;
            }
        };
        self.stages.insert((patch, object), next);
    }

    fn has_all(&self, patch: PatchId, object: usize) -> bool {
        let object = self.saved.patch(patch).and_then(|p| p.objects.get(object));
        object.is_some_and(|o| {
            let c = &o.callbacks;
            [c.pre_patch, c.post_patch, c.pre_unpatch, c.post_unpatch]
                .iter()
                .all(Option::is_some)
        })
    }

    /// With no transition running, every object of an enabled patch has settled, and nothing is
    /// owed to any other.
    pub(super) fn check_stages(&self) -> Result<(), String> {
        for patch in &self.saved.stack {
            for (index, object) in patch.objects.iter().enumerate() {
                if !self.has_all(patch.id, index) {
                    continue;
                }
                let there = self
                    .libraries
                    .is_there(object.name.as_deref(), object.loaded);
                let expected = match there && patch.enabled {
                    true => Stage::Settled,
                    false => Stage::Idle,
                };
                let stage = self
                    .stages
                    .get(&(patch.id, index))
                    .copied()
                    .unwrap_or_default();
                if stage != expected {
                    let name = &patch.name;
                    return Err(format!(
                        "object {index} of {name} is {stage:?}, not {expected:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Runs a callback as the code inside the process does; 0 when there is none.
    fn call_inside(&mut self, part: Part, kind: CallbackKind) -> i32 {
        let object = self.saved.patch(part.0).and_then(|p| p.objects.get(part.1));
        let callbacks = object.map_or(Callbacks::default(), |o| o.callbacks);
        let Some(address) = callbacks.address(kind) else {
            return 0;
        };
        let value = match kind {
            CallbackKind::PrePatch => self.returns.get(&address).copied().unwrap_or(0),
            _ => 0,
        };
        self.note_ran(Ran {
            patch: part.0,
            object: part.1,
            kind,
            value,
        });
        value
    }

    /// The library's functions lead where the state says.
    fn push_routes(&mut self, state: &State, name: &str) {
        let token = state.transition.as_ref().map_or(0, |t| t.token.value());
        for route in routes(state) {
            if route.object.as_deref() == Some(name) {
                let kind: RouteKind = route.kind;
                self.code.insert(route.old.entry(), (kind, token));
            }
        }
    }
}

fn object_of(state: &mut State, part: Part) -> &mut Object {
    let patch = state.stack.iter_mut().find(|p| p.id == part.0);
    &mut patch.expect("a watched patch is on the stack").objects[part.1]
}
