//! What a patch has to look like to be registered.

use std::collections::{HashMap, HashSet};

use crate::coverage::Coverage;
use crate::error::{Refusal, RefusalKind};
use crate::patch::{
    Code, Func, NewPatch, Object, Patch, PatchId, Replacement, SystemState, Upkeep,
};
use crate::state::{MAX_PATCHES, State, reload_advice};

/// Longest patch or object name in bytes (kernel: MODULE_NAME_LEN - 1 on 64 bits).
/// Function names have no such limit here: mangled C++ names exceed the kernel's 511.
const MAX_NAME: usize = 55;

impl State {
    /// Whether a patch could be registered now and, if asked for, enabled: what
    /// [`crate::Driver::register`] and [`crate::Driver::enable`] would refuse is refused
    /// here, before its module is in the target.
    ///
    /// # Errors
    /// Theirs, except for what only shows when callbacks run and functions are redirected.
    pub fn check_loadable(&self, patch: NewPatch, enable: bool) -> Result<(), Refusal> {
        let id = PatchId(self.next_patch);
        let patch = Patch {
            id,
            ..Patch::from(patch)
        };
        self.check_new(&patch)?;
        if enable {
            self.check_compatible(&patch, &self.replaced_by(&patch, true))?;
            self.check_idle(&patch)?;
        }
        Ok(())
    }

    /// Everything that makes a patch unfit, whatever the state of the transition.
    pub(crate) fn check_new(&self, patch: &Patch) -> Result<(), Refusal> {
        self.find_fault(patch)
            .map_or(Ok(()), |kind| Err(Refusal::new(&patch.name, kind)))
    }

    /// Refuses a name that a registered patch has.
    ///
    /// # Errors
    /// EEXIST, with what can be done about that patch.
    pub fn check_name(&self, name: &str) -> Result<(), Refusal> {
        let Some(loaded) = self.find(name) else {
            return Ok(());
        };
        let replaced = self.position(loaded.id).is_none();
        let way_out = match (replaced, loaded.forced) {
            (true, _) => format!("it was replaced: {}", reload_advice(loaded)),
            (false, true) => "enable it again, or load under another name".to_owned(),
            (false, false) => "enable it, or unload it first".to_owned(),
        };
        let kind = RefusalKind::AlreadyRegistered { way_out };
        Err(Refusal::new(name, kind))
    }

    fn find_fault(&self, patch: &Patch) -> Option<RefusalKind> {
        if patch.objects.is_empty() {
            return Some(RefusalKind::NoObjects);
        }
        if !is_fit_name(&patch.name) {
            return Some(RefusalKind::BadName(patch.name.clone()));
        }
        if let Err(refusal) = self.check_name(&patch.name) {
            return Some(refusal.kind);
        }
        if self.patches().count() >= MAX_PATCHES {
            return Some(RefusalKind::TooMany);
        }
        find_bad_state(patch)
            .or_else(|| self.find_bad_object(patch))
            .or_else(|| self.find_duplicate(patch))
            .or_else(|| self.find_foreign(patch))
            .or_else(|| self.find_disagreement(patch))
    }

    fn find_bad_object(&self, patch: &Patch) -> Option<RefusalKind> {
        for object in &patch.objects {
            if let Some(name) = object.name.as_deref().filter(|name| !is_fit_name(name)) {
                return Some(RefusalKind::BadName(name.to_owned()));
            }
            let shown = self.display_name(object.name.as_deref()).to_owned();
            if object.funcs.is_empty() && object.callbacks == crate::Callbacks::default() {
                return Some(RefusalKind::EmptyObject(shown));
            }
            for func in &object.funcs {
                if let Some(reason) = find_bad_func(object, func) {
                    return Some(RefusalKind::BadFunc {
                        object: shown,
                        function: func.old_name.clone(),
                        reason: reason.to_owned(),
                    });
                }
            }
        }
        None
    }

    fn find_duplicate(&self, patch: &Patch) -> Option<RefusalKind> {
        let mut names = HashSet::new();
        let mut coverage = Coverage::default();
        for object in &patch.objects {
            let name = object.name.as_deref();
            let shown = self.display_name(name);
            if !names.insert(name) {
                return Some(RefusalKind::DuplicateObject(shown.to_owned()));
            }
            if let Some(func) = object.funcs.iter().find(|f| !coverage.add(name, f)) {
                return Some(RefusalKind::DuplicateFunc {
                    object: shown.to_owned(),
                    function: func.old_name.clone(),
                });
            }
        }
        None
    }

    /// Sets are kept apart so that a replace in one cannot take back what another has changed.
    fn find_foreign(&self, patch: &Patch) -> Option<RefusalKind> {
        let coverage = Coverage::of(patch);
        let others = self.stack.iter();
        let mut others = others.filter(|other| other.replace_set != patch.replace_set);
        others.find_map(|other| {
            let function = coverage.first_shared(other);
            let mut states = other.states.iter();
            let what = match function {
                Some(function) => format!("function '{function}'"),
                None => {
                    let shared = |state: &&SystemState| patch.state(state.id).is_some();
                    format!("state {}", states.find(shared)?.id)
                }
            };
            Some(RefusalKind::ForeignSet {
                what,
                other: other.name.clone(),
                set: other.replace_set,
            })
        })
    }

    /// Nops and stack checks of one patch rely on what another one resolved, so all patches
    /// on the stack must agree about what lies where.
    fn find_disagreement(&self, patch: &Patch) -> Option<RefusalKind> {
        for other in &self.stack {
            for theirs in &other.objects {
                let Some(ours) = patch.objects.iter().find(|o| o.name == theirs.name) else {
                    continue;
                };
                // What speaks of another load, or of none, is about to learn of the one there is.
                let known = ours.loaded && theirs.loaded && ours.load == theirs.load;
                let what = if let Some(func) = find_moved(ours, theirs).filter(|_| known) {
                    func.old_name.clone()
                } else {
                    continue;
                };
                let other = other.name.clone();
                return Some(RefusalKind::Disagrees { what, other });
            }
        }
        None
    }
}

fn find_moved<'a>(ours: &'a Object, theirs: &Object) -> Option<&'a Func> {
    let entries = theirs.funcs.iter().map(|f| (f.symbol(), f.entry()));
    let entries: HashMap<_, _> = entries.collect();
    let is_moved = |func: &&Func| {
        let entry = entries.get(&func.symbol());
        entry.is_some_and(|entry| *entry != func.entry())
    };
    ours.funcs.iter().find(is_moved)
}

fn find_bad_state(patch: &Patch) -> Option<RefusalKind> {
    let mut ids = HashSet::new();
    for state in &patch.states {
        let no_owner = |u: &Upkeep| u.shadow_dtor.is_some() && !u.owns_shadows;
        let reason = if state.id == 0 {
            "is no id; give every state one from 1 up"
        } else if !ids.insert(state.id) {
            "is listed twice; give every state its own id"
        } else if state.upkeep.as_ref().is_some_and(no_owner) {
            "has a shadow_dtor but owns no shadow variables; set is_shadow"
        } else {
            continue;
        };
        return Some(RefusalKind::BadState {
            id: state.id,
            reason: reason.to_owned(),
        });
    }
    None
}

fn is_fit_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

fn find_bad_func(object: &Object, func: &Func) -> Option<&'static str> {
    let is_sound = |code: &Code| code.parts().all(crate::Range::is_sound);
    let Replacement::New(new) = &func.replacement else {
        return Some("is a nop; only a replace makes those, give it a new function");
    };
    if func.old_name.is_empty() {
        return Some("has no old_name; set it in klp_func");
    }
    if func.old_name.chars().any(char::is_control) {
        return Some("has control characters in its name; correct old_name");
    }
    if !is_sound(new) {
        return Some("has a new function of no size; give its symbol a size (.size)");
    }
    match &func.old {
        None if object.loaded => Some("was not resolved although its object is loaded"),
        Some(_) if !object.loaded => Some("was resolved although its object is not loaded"),
        Some(old) if !is_sound(old) => Some("has no size; its symbol lacks one in the target"),
        _ => None,
    }
}
