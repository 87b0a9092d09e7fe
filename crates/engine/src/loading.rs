//! Loading a patch module: place it, run its init function, enable what it asks to enable.

use std::mem::offset_of;
use std::rc::Rc;
use std::time::Duration;

use engraft_abi::{KlpObject, UpcallKind};
use engraft_core::{Driver, Level, NewPatch, Order, State};
use engraft_module::{Layout, Linked, PatchModule, Placement, Region, Room};
use nix::errno::Errno;

use crate::arena::{Arena, Part};
use crate::bind::Binder;
use crate::database::{Binding, Function, Module, Stage};
use crate::describe::{WrittenPatch, describe_patch, read_patch};
use crate::error::{Error, Kind};
use crate::live::Live;
use crate::params::{Assignment, assign};
use crate::space::Span;

/// How often what a patch names is looked up anew.
const LOOKS: u32 = 5;

const PAUSE: Duration = Duration::from_millis(2);

/// Room that every patched object's arena should have before code runs in the target.
pub(crate) const REDIRECT_ROOM: [u64; 3] = [64 << 10, 128 << 10, 0];

/// A patch module to be loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadRequest<'a> {
    /// Bytes of the file.
    pub module: &'a [u8],
    /// Its name, for messages and for a module without a name of its own.
    pub file_name: &'a str,
    /// `NAME=VALUE` parameters.
    pub parameters: &'a [(String, String)],
    /// Whether `klp_enable_patch()` enables the patch, or only registers it.
    pub enable: bool,
}

impl Live<'_> {
    /// Loads a module; on failure nothing of it remains but retired memory.
    pub(crate) fn load_module(
        &mut self,
        state: &mut State,
        module: &PatchModule,
        request: &LoadRequest<'_>,
    ) -> Result<(), Error> {
        let index = self.place_module(module, request)?;
        self.save_records(state)?;
        self.prepare_arenas(module)?;
        self.save_records(state)?;
        let result = self.initialise(state, index);
        if result.is_err() && self.records.modules[index].stage != Stage::Live {
            self.abandon_module(state, index)?;
        }
        result
    }

    fn place_module(
        &mut self,
        module: &PatchModule,
        request: &LoadRequest<'_>,
    ) -> Result<usize, Error> {
        let fail = |error| Error::new(format!("load '{}'", module.name), Kind::Link(error));
        let layout = Layout::of(module);
        if let Some(index) = self.find_former_place(module)? {
            return self.fill_module(module, request, index);
        }
        let home = self.objects.home_of(module).span();
        let arena = self.arena_near(home, module_room(&layout))?;
        let spans = take_module(&mut self.records.arenas[arena], &layout).ok_or_else(|| {
            let message = "no room for the module in the memory mapped for patches";
            Error::other(format!("load '{}'", module.name), Errno::ENOMEM, message)
        })?;
        let [text, read_only, data] = spans;
        let placement = Placement {
            text: text.start,
            read_only: read_only.start,
            data: data.start,
        };
        let spans = [text, read_only, data];
        let linked = match engraft_module::link(module, &placement, &self.binder()) {
            Ok(linked) => linked,
            Err(error) => {
                spans.into_iter().for_each(|span| self.give(span));
                return Err(fail(error));
            }
        };
        let index = self.records.modules.len();
        self.records.modules.push(record_of(module, &linked, spans));
        let filled = self.fill_module(module, request, index);
        if filled.is_err() {
            self.records.modules.truncate(index);
            spans.into_iter().for_each(|span| self.give(span));
        }
        filled
    }

    /// The place of the same module, unloaded earlier: whatever still points into its old
    /// code finds the same code again.
    fn find_former_place(&self, module: &PatchModule) -> Result<Option<usize>, Error> {
        for (index, former) in self.records.modules.iter().enumerate() {
            if former.stage != Stage::Retired || former.name != module.name {
                continue;
            }
            let Ok(linked) = engraft_module::link(module, &placement_of(former), &self.binder())
            else {
                continue;
            };
            let same_size = linked.text.len() as u64 <= former.text.size
                && linked.read_only.len() as u64 <= former.read_only.size
                && linked.data.len() as u64 <= former.data.size
                && former.stubs.start - former.text.start
                    == linked.stubs.start - linked.placement.text;
            if !same_size {
                continue;
            }
            let mut text = vec![0; linked.text.len()];
            let mut read_only = vec![0; linked.read_only.len()];
            self.process
                .memory
                .read_bytes(former.text.start, &mut text)?;
            self.process
                .memory
                .read_bytes(former.read_only.start, &mut read_only)?;
            for fixup in &linked.ifuncs {
                let at = fixup.address.wrapping_sub(former.read_only.start) as usize;
                if let Some(place) = read_only.get_mut(at..at + 8) {
                    place.fill(0);
                }
            }
            if text == linked.text && read_only == linked.read_only {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Writes a module's bytes and parameters to its place.
    fn fill_module(
        &mut self,
        module: &PatchModule,
        request: &LoadRequest<'_>,
        index: usize,
    ) -> Result<usize, Error> {
        let spans = {
            let record = &self.records.modules[index];
            [record.text, record.read_only, record.data]
        };
        let placement = placement_of(&self.records.modules[index]);
        let linked = engraft_module::link(module, &placement, &self.binder())
            .map_err(|error| Error::new(format!("load '{}'", module.name), Kind::Link(error)))?;
        let assignments = assign(&module.name, &linked, request.parameters)?;
        let examined: Vec<u64> = linked
            .functions
            .iter()
            .map(|function| function.address)
            .collect();
        let memory = &self.process.memory;
        memory.write_bytes(placement.text, &linked.text)?;
        memory.write_bytes(placement.read_only, &linked.read_only)?;
        memory.write_bytes(placement.data, &linked.data)?;
        for assignment in assignments {
            match assignment {
                Assignment::Bytes(at, bytes) => self.process.memory.write_bytes(at, &bytes)?,
                Assignment::Pointer(at, text) => {
                    let copy = self.store_text(&text)?;
                    self.process.memory.write(at, &copy)?;
                }
            }
        }
        let mut record = record_of(module, &linked, spans);
        record.enable = request.enable;
        record.ifuncs = linked
            .ifuncs
            .iter()
            .map(|f| (f.address, f.resolver, f.addend))
            .collect();
        self.records.modules[index] = record;
        // Another module may have lain here: what was found out about it is void.
        for entry in self.records.entries.values_mut() {
            entry.forget(&examined);
        }
        Ok(index)
    }

    fn store_text(&mut self, text: &str) -> Result<u64, Error> {
        let arena = self.arena_near(self.objects.main().span(), [0, 0, text.len() as u64 + 1])?;
        let span = self.take(arena, Part::Writable, text.len() as u64 + 1, 8)?;
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.process.memory.write_bytes(span.start, &bytes)?;
        Ok(span.start)
    }

    fn binder(&self) -> Binder<'_> {
        Binder {
            process: self.process,
            objects: &self.objects,
            exports: &self.records.runtime.exports,
            matches: &self.matches,
        }
    }

    /// Maps memory near every object that the module says it patches, while no thread is
    /// borrowed yet.
    fn prepare_arenas(&mut self, module: &PatchModule) -> Result<(), Error> {
        let declared = module.declared_patches();
        // What an init function fills in is not known yet.
        let names_libraries = declared.iter().any(|patch| {
            !patch.settled || patch.objects.iter().any(|object| object.name.is_some())
        });
        if names_libraries {
            self.prepare_hook()?;
        }
        let objects = Rc::clone(&self.objects);
        for object in module.patched_objects() {
            if let Some(loaded) = objects.find(object.as_deref())? {
                self.arena_near(loaded.span(), REDIRECT_ROOM)?;
            }
        }
        Ok(())
    }

    /// Runs everything that runs before the patch is live.
    fn initialise(&mut self, state: &mut State, index: usize) -> Result<(), Error> {
        let name = self.records.modules[index].name.clone();
        let init = self.records.modules[index].init.ok_or_else(|| {
            Error::other(
                format!("load '{name}'"),
                Errno::ENOEXEC,
                "it has no init function",
            )
            .with_help("declare one with module_init()")
        })?;
        self.fill_ifuncs(index)?;
        if let Some(eh_frame) = self.records.modules[index].eh_frame {
            self.add_frames(eh_frame);
            self.announce_frames(state)?;
        }
        let sequence = self.next_command();
        self.set_stage(index, Stage::Initialising(sequence))?;
        self.save_records(state)?;
        let (mut refusal, mut unfollowed) = (None, Ok(()));
        let mut upcall = self.start_call(sequence, init, &[])?;
        while upcall.kind == UpcallKind::EnablePatch {
            self.in_init = Some(name.clone());
            let is_enabled = |state: &State| state.find(&name).is_some_and(|p| p.enabled);
            let enabled_before = is_enabled(state);
            let outcome = self.enable_from_init(state, index, upcall.argument);
            self.in_init = None;
            let begun = !enabled_before && is_enabled(state);
            let errno = match outcome {
                Ok(()) => 0,
                Err(error) if error.is_gone() => return Err(error),
                // It goes on, although this tool could not follow it.
                Err(error) if begun => {
                    unfollowed = Err(error);
                    0
                }
                Err(error) => {
                    let errno = error.errno() as i32;
                    refusal = Some(error);
                    errno
                }
            };
            upcall = self.answer(errno)?;
        }
        match self.result_of(sequence)? as i32 {
            0 => {
                self.set_stage(index, Stage::Live)?;
                self.save_records(state)?;
                unfollowed
            }
            value => Err(refusal.unwrap_or_else(|| {
                let context = format!("load '{name}'");
                Error::new(context, Kind::Init(value))
            })),
        }
    }

    /// `klp_enable_patch()`, called by the module's init function.
    fn enable_from_init(
        &mut self,
        state: &mut State,
        index: usize,
        patch: u64,
    ) -> Result<(), Error> {
        let module = self.records.modules[index].clone();
        let written = read_patch(&self.process.memory, &module, patch)?;
        if !module.livepatch {
            let error = Error::new("klp_enable_patch()", Kind::Unmarked(module.name));
            if let Some(line) = kernel_line(&error) {
                Driver::new(state, self).log(Level::Err, line)?;
            }
            return Err(error);
        }
        if module.enable {
            Driver::new(state, self).admit(&written.patch)?;
        }
        let described = match self.describe(&module, &written) {
            Ok(described) => described,
            Err(error) => {
                if let Some(line) = kernel_line(&error) {
                    Driver::new(state, self).log(Level::Err, line)?;
                }
                return Err(error);
            }
        };
        for object in &described.objects {
            if let Some(name) = object.name.as_deref() {
                self.refuse_namespace(name)?;
                self.ensure_hook(state)?;
                let module = self.ensure_library(name)?.module;
                if object.loaded {
                    self.process.memory.write(
                        object.handle + offset_of!(KlpObject, module) as u64,
                        &module,
                    )?;
                }
            }
        }
        let enable = module.enable;
        Driver::new(state, self).register(described)?;
        if let Err(error) = self.watch_libraries() {
            Driver::new(state, self).unload(&module.name)?;
            return Err(error);
        }
        let mut driver = Driver::new(state, self);
        if !enable {
            return Ok(());
        }
        match driver.enable(&module.name, Order::Reverse) {
            Ok(_) => Ok(()),
            Err(engraft_core::Error::Refused(refusal)) => {
                driver.unload(&module.name)?;
                Err(Error::new(format!("load '{}'", module.name), refusal))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Looks up what a patch names. A library may go, or come, while it is looked at.
    fn describe(&mut self, module: &Module, written: &WrittenPatch) -> Result<NewPatch, Error> {
        let mut attempts = if written.names_libraries() { LOOKS } else { 0 };
        loop {
            let (memory, matches) = (&self.process.memory, &self.matches);
            let described = describe_patch(memory, &self.objects, matches, module, written.clone());
            if described.is_ok() || attempts == 0 {
                return described;
            }
            attempts -= 1;
            std::thread::sleep(PAUSE);
            self.refresh_objects()?;
        }
    }

    /// Asks the resolvers of ifuncs which implementation they choose.
    fn fill_ifuncs(&mut self, index: usize) -> Result<(), Error> {
        for (address, resolver, addend) in self.records.modules[index].ifuncs.clone() {
            let sequence = self.next_command();
            let value = self.call(sequence, resolver, &[])?;
            self.process
                .memory
                .write(address, &value.wrapping_add_signed(addend))?;
        }
        Ok(())
    }
}

fn placement_of(module: &Module) -> Placement {
    Placement {
        text: module.text.start,
        read_only: module.read_only.start,
        data: module.data.start,
    }
}

/// Room that an arena must have for a module, some of it for what else the module needs.
pub(crate) fn module_room(layout: &Layout) -> [u64; 3] {
    [layout.read_only, layout.text, layout.data].map(|room| room.size + 8192)
}

/// Takes the three regions of a module from an arena: text, read-only, data.
pub(crate) fn take_module(arena: &mut Arena, layout: &Layout) -> Option<[Span; 3]> {
    let mut take = |part, room: &Room| arena.part(part).take(room.size, room.alignment.max(16));
    Some([
        take(Part::Executable, &layout.text)?,
        take(Part::ReadOnly, &layout.read_only)?,
        take(Part::Writable, &layout.data)?,
    ])
}

pub(crate) fn record_of(
    module: &PatchModule,
    linked: &Linked,
    [text, read_only, data]: [Span; 3],
) -> Module {
    let span = |range: &std::ops::Range<u64>| Span {
        start: range.start,
        size: range.end - range.start,
    };
    Module {
        name: module.name.clone(),
        stage: Stage::Placed,
        livepatch: module.is_livepatch(),
        enable: true,
        built: module.pre_code.is_some(),
        text,
        read_only,
        data,
        init: linked.init,
        exit: linked.exit,
        this_module: linked.this_module,
        eh_frame: linked.eh_frame.as_ref().map(span),
        ifuncs: Vec::new(),
        functions: linked
            .functions
            .iter()
            .map(|function| Function {
                name: function.name.clone(),
                span: Span {
                    start: function.address,
                    size: function.size,
                },
            })
            .collect(),
        stubs: span(&linked.stubs),
        bindings: linked
            .bindings
            .iter()
            .map(|binding| Binding {
                object: binding.object.clone(),
                name: binding.name.clone(),
                sympos: binding.sympos,
                place: binding.place,
                addend: binding.addend,
                protected: binding.region != Region::Data,
            })
            .collect(),
        fixed: linked.fixed.clone(),
        absent: linked.absent.clone(),
    }
}

/// The kernel's log line for a refusal, where it has one (spec section 13).
pub(crate) fn kernel_line(error: &Error) -> Option<String> {
    use engraft_elf::SymbolErrorKind as K;
    let symbol = match error.kind() {
        Kind::Symbol(symbol) => symbol,
        Kind::Refused(refusal) => return refusal.log_line(),
        Kind::Unmarked(name) => {
            return Some(format!("module {name} is not marked as a livepatch module"));
        }
        Kind::OldSize(name) => return Some(format!("kallsyms size lookup failed for '{name}'")),
        Kind::NewSize(name) => {
            let line = format!("kallsyms size lookup failed for '{name}' replacement");
            return Some(line);
        }
        _ => return None,
    };
    let (name, object) = (&symbol.name, &symbol.object);
    Some(match &symbol.kind {
        K::NotFound { .. } => format!("symbol '{name}' not found in symbol table"),
        K::Ambiguous { .. } => {
            format!("unresolvable ambiguity for symbol '{name}' in object '{object}'")
        }
        K::PositionNotFound { position, .. } => {
            format!("symbol position {position} for symbol '{name}' in object '{object}' not found")
        }
    })
}
