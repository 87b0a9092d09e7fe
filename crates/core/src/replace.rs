//! Atomic replace: nops and dynamic objects, and what becomes of replaced patches.

use crate::coverage::Coverage;
use crate::patch::{Callbacks, Func, Object, Patch, PatchId, Replacement};
use crate::state::State;

impl State {
    /// Gives a replacing patch a nop for every function of an older patch that it lacks,
    /// and a dynamic object for every object that it lacks. Patches that are not enabled
    /// count too: they leave the stack with the others.
    pub(crate) fn create_nops(&mut self, id: PatchId) {
        let Some(position) = self.position(id) else {
            return;
        };
        let (older, rest) = self.stack.split_at_mut(position);
        let Some(patch) = rest.first_mut().filter(|patch| patch.replace) else {
            return;
        };
        let mut coverage = Coverage::of(patch);
        for object in older.iter().flat_map(|old| &old.objects) {
            add_nops(patch, &mut coverage, object);
        }
    }

    /// Drops the nops and dynamic objects of a patch. Objects of the author's own stay as
    /// they are, `patched` included, whatever remains in them: a callback-only object, or
    /// one that held only nops, is as patched as any other.
    pub(crate) fn drop_nops(&mut self, id: PatchId) {
        if let Some(patch) = self.stacked_mut(id) {
            patch.objects.retain(|object| !object.dynamic);
            for object in &mut patch.objects {
                object.funcs.retain(|func| !func.is_nop());
            }
        }
    }

    /// Takes all older patches off their function stacks. No callback of theirs runs.
    pub(crate) fn pop_replaced(&mut self, by: PatchId) {
        let position = self.position(by).unwrap_or(0);
        for patch in &mut self.stack[..position] {
            patch.leaving = patch.enabled;
            patch.enabled = false;
            for object in &mut patch.objects {
                object.patched = false;
                object.settled = false;
            }
        }
    }

    /// Takes all older patches off the stack.
    pub(crate) fn retire_replaced(&mut self, by: PatchId) {
        let position = self.position(by).unwrap_or(0);
        for mut patch in self.stack.drain(..position) {
            patch.leaving = false;
            self.replaced.push(patch);
        }
    }
}

fn add_nops(patch: &mut Patch, coverage: &mut Coverage, object: &Object) {
    let name = object.name.as_deref();
    let funcs = object.funcs.iter();
    let missing = funcs.filter(|func| coverage.add(name, func));
    let missing: Vec<Func> = missing.map(nop_for).collect();
    match patch.objects.iter_mut().find(|own| own.name == object.name) {
        Some(own) => own.funcs.extend(missing),
        None => patch.objects.push(dynamic_object(object, missing)),
    }
}

fn nop_for(func: &Func) -> Func {
    Func {
        replacement: Replacement::Nop,
        ..func.clone()
    }
}

fn dynamic_object(object: &Object, funcs: Vec<Func>) -> Object {
    Object {
        name: object.name.clone(),
        loaded: object.loaded,
        load: object.load,
        patched: false,
        settled: false,
        post_unpatch_due: false,
        dynamic: true,
        funcs,
        callbacks: Callbacks::default(),
        handle: 0,
    }
}
