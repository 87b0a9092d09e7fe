//! What has become of the libraries, and taking over what the runtime has done about it.

use std::mem::offset_of;

use engraft_abi::{
    FunctionStatus, KlpObject, LibraryStatus, ModuleState, ObjectStatus, Redirect, identify,
};
use engraft_core::{Applied, Code, Func, Object, Patch, Range, Sighting, State};
use engraft_elf::{ReadMemory, SliceMemory, SymbolKind};

use super::{Known, Library, Load, PartRecord, is_as_known};
use crate::arena::Part;
use crate::database::Binding;
use crate::describe::locate_old;
use crate::error::Error;
use crate::live::Live;
use crate::objects::LoadedObject;
use crate::redirect::Overlay;
use crate::space::Span;

impl Live<'_> {
    /// Tells the runtime of libraries that patches have begun to name: from here on it follows
    /// them.
    pub(crate) fn watch_libraries(&mut self) -> Result<(), Error> {
        if self.records.watch.hook.is_none() {
            return Ok(());
        }
        let libraries: Vec<(String, Library)> = {
            let all = self.records.watch.libraries.iter();
            all.map(|(name, library)| (name.clone(), *library))
                .collect()
        };
        for (name, library) in libraries {
            if self.read_library(library)?.watched != 0 {
                continue;
            }
            let arena = self.arena_near(self.objects.main().span(), [0, 0, 4096])?;
            let text = self.take(arena, Part::Writable, name.len() as u64 + 1, 8)?;
            let bytes = name.bytes().chain([0]).collect::<Vec<u8>>();
            self.process.memory.write_bytes(text.start, &bytes)?;
            let sequence = self.next_command();
            let watch = self.records.runtime.watch;
            self.call(sequence, watch, &[library.status, text.start])?;
            self.give(text);
        }
        Ok(())
    }

    /// See [`engraft_core::Target::sight_objects`].
    pub(crate) fn sight(&mut self, state: &State) -> Result<Vec<Sighting>, Error> {
        let events = self.read_events()?;
        if events != self.sighted {
            self.refresh_objects()?;
            self.sighted = events;
        }
        let mut sightings = Vec::new();
        for patch in &state.stack {
            for (index, object) in patch.objects.iter().enumerate() {
                let Some(library) = object.name.as_deref().and_then(|name| self.library(name))
                else {
                    continue;
                };
                let status = self.read_library(library)?;
                if status.watched != 0 && !is_as_known(object, &status) {
                    match self.sight_object(patch, index, library, &status) {
                        Ok(sighting) => sightings.push(sighting),
                        // It has gone again: the next look will see that.
                        Err(error)
                            if !error.is_gone()
                                && self.read_library(library)?.load != status.load => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        if !sightings.is_empty() {
            self.drop_entries_of_former_loads();
        }
        Ok(sightings)
    }

    fn sight_object(
        &mut self,
        patch: &Patch,
        index: usize,
        library: Library,
        status: &LibraryStatus,
    ) -> Result<Sighting, Error> {
        let mut sighting = Sighting {
            patch: patch.id,
            object: index,
            loaded: None,
            load: 0,
            applied: None,
        };
        let object = &patch.objects[index];
        if status.load == 0 {
            self.tell_author(object, 0)?;
            return Ok(sighting);
        }
        let is_it = |o: &&LoadedObject| o.image.bias == status.bias && !o.is_main;
        if !self.objects.iter().any(|object| is_it(&object)) {
            // It came before it was followed.
            self.refresh_objects()?;
        }
        let objects = std::rc::Rc::clone(&self.objects);
        let found = objects.iter().find(is_it);
        if let Some(found) = found
            && self.bind_references(patch, index, found)?
        {
            sighting.loaded = self.locate_functions(patch, index, found);
        }
        if sighting.loaded.is_none() {
            return Ok(sighting);
        }
        sighting.load = status.load;
        self.tell_author(object, library.module)?;
        let state = offset_of!(engraft_abi::Module, state) as u64;
        let live = ModuleState::Live as u32;
        self.process.memory.write(library.module + state, &live)?;
        if let Some(part) = self.records.watch.part(patch.id.0, index) {
            let applied: ObjectStatus = self.process.memory.read(part.status())?;
            if applied.load == status.load {
                let settled = applied.settled != 0;
                sighting.applied = Some(Applied { settled });
                let load = Load {
                    status: library.status,
                    number: status.load,
                };
                self.adopt_redirects(object, part, load)?;
            }
        }
        Ok(sighting)
    }

    /// Where the functions of an object are, and notes it for its next load. `None` where they
    /// cannot be found, and for what was built for another file: that is matched with this one
    /// when it is loaded again.
    fn locate_functions(
        &mut self,
        patch: &Patch,
        index: usize,
        loaded: &LoadedObject,
    ) -> Option<Vec<Code>> {
        let object = &patch.objects[index];
        let bias = loaded.image.bias;
        let identity = loaded
            .image
            .build_id
            .as_ref()
            .map_or(0, |id| identify(id.as_bytes()));
        let known = self.records.watch.known(patch.id.0, index);
        let same = known.filter(|known| identity != 0 && known.identity == identity);
        let module = self.find_module(&patch.name);
        let is_built = module.is_some_and(|module| self.records.modules[module].built);
        let locate = |(index, func): (usize, &Func)| {
            let (name, sympos) = (&func.old_name, func.old_sympos);
            if let Some(code) = self.matches.code(loaded, name, sympos) {
                return Some(code.clone());
            }
            if let Some(code) = same.and_then(|known| known.functions.get(index)) {
                let distance = bias.wrapping_sub(same?.bias);
                return Some(shift(code, distance));
            }
            if is_built && !func.is_nop() {
                return None;
            }
            locate_old(loaded, &self.matches, name, sympos).ok()
        };
        let codes: Vec<Code> = object
            .funcs
            .iter()
            .enumerate()
            .map(locate)
            .collect::<Option<_>>()?;
        let known = Known {
            patch: patch.id.0,
            object: index as u32,
            bias,
            identity,
            functions: codes.clone(),
        };
        let all = &mut self.records.watch.known;
        all.retain(|other| (other.patch, other.object) != (known.patch, known.object));
        all.push(known);
        Some(codes)
    }

    /// Lets the patch's code refer to a load of a library. `false` where it cannot: a symbol is
    /// not there, or the code refers to the place where another load was.
    fn bind_references(
        &self,
        patch: &Patch,
        index: usize,
        loaded: &LoadedObject,
    ) -> Result<bool, Error> {
        let object = &patch.objects[index];
        let Some(module) = self.find_module(&patch.name).filter(|_| !object.dynamic) else {
            return Ok(true);
        };
        let module = &self.records.modules[module];
        let known = self.records.watch.known(patch.id.0, index);
        let stays = known.is_none_or(|known| known.bias == loaded.image.bias);
        let names = |list: &[String]| list.iter().any(|name| Some(name) == object.name.as_ref());
        if names(&module.fixed) && (!stays || known.is_none() && names(&module.absent)) {
            return Ok(false);
        }
        let own = |binding: &&Binding| Some(&binding.object) == object.name.as_ref();
        for binding in module.bindings.iter().filter(own) {
            match loaded.symbols().resolve(&binding.name, binding.sympos) {
                Ok(symbol) if symbol.kind != SymbolKind::Ifunc => {
                    let value = symbol.address.wrapping_add_signed(binding.addend);
                    self.process.memory.write(binding.place, &value)?;
                }
                // Matching has found it, or a resolver.
                _ if stays && !names(&module.absent) => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// `klp_object.mod`.
    fn tell_author(&self, object: &Object, module: u64) -> Result<(), Error> {
        if object.handle != 0 {
            let at = object.handle + offset_of!(KlpObject, module) as u64;
            self.process.memory.write(at, &module)?;
        }
        Ok(())
    }

    fn drop_entries_of_former_loads(&mut self) {
        let entries = std::mem::take(&mut self.records.entries);
        for (function, entry) in entries {
            if self.is_current(entry.load) {
                self.records.entries.insert(function, entry);
                continue;
            }
            // Nobody is in code of a library that is gone. What the runtime has mapped is its own.
            let copy = Span {
                size: entry.copy.size.next_multiple_of(16),
                ..entry.copy
            };
            let slot = Span {
                start: entry.slot,
                size: 8,
            };
            for span in [copy, entry.router, slot] {
                self.give(span);
            }
        }
    }

    /// Takes over the redirects that the runtime has installed.
    fn adopt_redirects(
        &mut self,
        object: &Object,
        part: PartRecord,
        load: Load,
    ) -> Result<(), Error> {
        for (index, func) in object.funcs.iter().enumerate() {
            let status: FunctionStatus = self.process.memory.read(part.function(index))?;
            let known = self.records.entries.get(&status.address);
            if status.redirect == 0 || known.is_some_and(|entry| entry.load == Some(load)) {
                continue;
            }
            let redirect: Redirect = self.process.memory.read(status.redirect)?;
            self.adopt_redirect(&func.old_name, &status, &redirect, load)?;
        }
        Ok(())
    }

    fn adopt_redirect(
        &mut self,
        name: &str,
        status: &FunctionStatus,
        redirect: &Redirect,
        load: Load,
    ) -> Result<(), Error> {
        let length = (redirect.original_length as usize).min(redirect.original.len());
        let original = SliceMemory {
            address: redirect.site,
            bytes: &redirect.original[..length],
        };
        let memory = Overlay {
            below: &self.process.memory,
            pieces: vec![original],
        };
        let function = Span {
            start: status.address,
            size: status.size,
        };
        // Filler may have been displaced with a short function.
        let end = function.end().max(redirect.site + length as u64);
        let mut code = Vec::new();
        for at in function.start..end {
            let mut byte = [0];
            memory
                .read(at, &mut byte)
                .map_err(|error| super::no_hook(&error.to_string()))?;
            code.extend(byte);
        }
        let read = |address: u64, buffer: &mut [u8]| memory.read(address, buffer).is_ok();
        let planned =
            engraft_arch::entry::plan_entry(function.start, &code, function.size as usize, &read);
        let planned = planned.map_err(|error| super::no_hook(&error.to_string()))?;
        self.adopt_entry(name, function.start, planned, redirect, load)
    }
}

/// The same code at a distance.
fn shift(code: &Code, distance: u64) -> Code {
    let shift = |range: Range| Range {
        start: range.start.wrapping_add(distance),
        ..range
    };
    Code {
        body: shift(code.body),
        cold: code.cold.iter().map(|range| shift(*range)).collect(),
    }
}
