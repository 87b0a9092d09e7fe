//! Atomic replace: nops and dynamic objects, and what becomes of replaced patches.

use crate::coverage::Coverage;
use crate::patch::{Callbacks, Func, Object, Patch, PatchId, Replacement};
use crate::state::State;

impl State {
    /// Gives a replacing patch a nop for every function of a patch that it replaces and that it
    /// lacks, and a dynamic object for every object that it lacks. Patches that are not enabled
    /// count too: they leave the stack with the others.
    pub(crate) fn create_nops(&mut self, id: PatchId) {
        let replaced = self.replaced_in_transition(id);
        let Some(position) = self.position(id) else {
            return;
        };
        let (older, rest) = self.stack.split_at_mut(position);
        let Some(patch) = rest.first_mut() else {
            return;
        };
        let mut coverage = Coverage::of(patch);
        let replaced = older.iter().filter(|old| replaced.contains(&old.id));
        for object in replaced.flat_map(|old| &old.objects) {
            add_nops(patch, &mut coverage, object);
        }
    }

    /// The patches that one replaces from its place on the stack.
    fn replaced_in_transition(&self, id: PatchId) -> Vec<PatchId> {
        let patch = self.patch(id);
        patch.map_or(Vec::new(), |patch| self.replaced_by(patch, false))
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

    /// Takes the patches that this one replaces off their function stacks. No callback of their
    /// objects runs.
    pub(crate) fn pop_replaced(&mut self, by: PatchId) {
        let replaced = self.replaced_in_transition(by);
        for patch in self.stack.iter_mut().filter(|p| replaced.contains(&p.id)) {
            patch.leaving = patch.enabled;
            patch.enabled = false;
            for object in &mut patch.objects {
                object.patched = false;
                object.settled = false;
            }
        }
    }

    /// Takes them off the stack.
    pub(crate) fn retire_replaced(&mut self, by: PatchId) {
        let replaced = self.replaced_in_transition(by);
        for mut patch in self.stack.extract_if(.., |p| replaced.contains(&p.id)) {
            patch.leaving = false;
            self.replaced.push(patch);
        }
    }

    /// Marks those of them that threads are in force to be moved out of.
    pub(crate) fn mark_replaced_forced(&mut self, by: PatchId) {
        let replaced = self.replaced_in_transition(by);
        let is_left = |p: &&mut Patch| p.enabled && replaced.contains(&p.id);
        for patch in self.stack.iter_mut().filter(is_left) {
            patch.forced = true;
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
