//! Writing down what the runtime is to do when a library comes or goes.
//!
//! One plan follows another; a thread that acts by an older one is waited for, so that what it
//! has done is known before anybody relies on the new one.

use std::mem::offset_of;
use std::time::{Duration, Instant};

use engraft_abi::{
    Arrivals, FunctionStatus, ObjectStatus, PLAN_AWAITED, PLAN_BUILT, PLAN_FIXED,
    PLAN_IN_TRANSITION, PLAN_POST_UNPATCH_DUE, PLAN_SETTLED, Plan, PlanBinding, PlanFunction,
    PlanObject, RuntimeConfig,
};
use engraft_core::{CallbackKind, Code, Phase, Replacement, State, Universe, Watched};
use engraft_process::bytes_of;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Known, Library};
use crate::arena::Part;
use crate::database::{Module, checksum};
use crate::error::Error;
use crate::live::Live;
use crate::space::Span;

/// How long callbacks of a library that is being loaded may take.
const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_micros(200);

/// Where the runtime notes what it has done with one object of one patch: an [`ObjectStatus`],
/// then a [`FunctionStatus`] for each of its functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    pub(crate) patch: u32,
    pub(crate) object: u32,
    pub(crate) functions: u32,
    pub(crate) place: Span,
}

/// The plan in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanRecord {
    place: Span,
    /// Its bytes but for the number, to see whether anything has changed.
    checksum: u64,
}

impl PlanRecord {
    pub(crate) fn place(&self) -> Span {
        self.place
    }

    /// One at that place, for tests.
    #[cfg(test)]
    pub(crate) fn sample(place: Span) -> Self {
        Self { place, checksum: 7 }
    }
}

impl PartRecord {
    /// Whether its place has room for what it is to hold.
    pub(crate) fn is_sound(&self) -> bool {
        let functions = u64::from(self.functions) * size_of::<FunctionStatus>() as u64;
        self.place.size >= size_of::<ObjectStatus>() as u64 + functions
    }

    pub(crate) fn status(&self) -> u64 {
        self.place.start
    }

    pub(crate) fn function(&self, index: usize) -> u64 {
        let first = self.place.start + size_of::<ObjectStatus>() as u64;
        first + (index * size_of::<FunctionStatus>()) as u64
    }
}

impl Live<'_> {
    /// Brings the plan in line with the state, in memory that is recorded, and returns what to
    /// put in force once the records are saved.
    pub(crate) fn write_plan(&mut self, state: &State) -> Result<Option<(u64, u64)>, Error> {
        if self.records.watch.hook.is_none() {
            return Ok(None);
        }
        self.release_parts(state);
        let mut draft = Draft::default();
        for watched in state.watched() {
            let name = watched.object().name.as_deref().unwrap_or_default();
            if let Some(library) = self.library(name) {
                let part = self.ensure_part(&watched)?;
                let known = self.records.watch.known(watched.patch.id.0, watched.index);
                let module = self.find_module(&watched.patch.name);
                let module = module.map(|index| &self.records.modules[index]);
                draft.add(state, &watched, (library, part), (known, module));
            }
        }
        let transition = state.transition.as_ref();
        let mut plan = Plan {
            generation: 0,
            token: transition.map_or(0, |t| t.token.value()),
            patching: transition.map_or(0, |t| u64::from(t.initial_target == Universe::Patched)),
            count: draft.objects.len() as u64,
        };
        let length = draft.length();
        let checksum = checksum(plan.generation, &draft.encode(&plan, 0));
        let known = self.records.watch.plan.as_ref();
        if let Some(known) = known.filter(|known| known.checksum == checksum) {
            let place = known.place.start;
            let config = self.records.runtime.config + offset_of!(RuntimeConfig, plan) as u64;
            let in_force: u64 = self.process.memory.read(config)?;
            let pending = (place, self.records.watch.generation);
            return Ok((in_force != place).then_some(pending));
        }
        let place = self.take_existing(Part::ReadOnly, length)?;
        self.records.watch.generation += 1;
        plan.generation = self.records.watch.generation;
        let bytes = draft.encode(&plan, place.start);
        self.process.memory.write_bytes(place.start, &bytes)?;
        let record = PlanRecord { place, checksum };
        if let Some(old) = self.records.watch.plan.replace(record) {
            self.records.watch.retired.push(old.place);
        }
        Ok(Some((place.start, plan.generation)))
    }

    /// Puts the recorded plan in force, which a killed tool may not have done.
    pub(crate) fn republish_plan(&mut self) -> Result<(), Error> {
        let Some(plan) = &self.records.watch.plan else {
            return Ok(());
        };
        let plan = (plan.place.start, self.records.watch.generation);
        self.publish_plan(plan)
    }

    /// Puts a plan in force and waits until nobody acts by another one.
    pub(crate) fn publish_plan(&mut self, (address, generation): (u64, u64)) -> Result<(), Error> {
        let process = self.process;
        let memory = &process.memory;
        let config = self.records.runtime.config + offset_of!(RuntimeConfig, plan) as u64;
        memory.write(config, &address)?;
        let working = self.records.runtime.arrivals + offset_of!(Arrivals, working) as u64;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now: u64 = memory.read(working)?;
            if now == 0 || now == generation {
                break;
            }
            if Instant::now() > deadline {
                let message = "a thread is in the middle of loading or unloading a library, in \
                               a callback that does not return or stopped";
                return Err(Error::other("change patches", Errno::EBUSY, message)
                    .with_help("let it go on and repeat the command"));
            }
            // It may have stopped late, and waits for us.
            self.process.tracer.reap()?;
            std::thread::sleep(PAUSE);
        }
        for span in std::mem::take(&mut self.records.watch.retired) {
            self.give(span);
        }
        Ok(())
    }

    fn take_existing(&mut self, part: Part, size: u64) -> Result<Span, Error> {
        let mut arenas = self.records.arenas.iter_mut();
        let span = arenas.find_map(|arena| arena.part(part).take(size, 64));
        span.ok_or_else(|| {
            let message = format!("no room for {size} bytes in the target");
            Error::other(
                "write down what libraries are waited for",
                Errno::ENOMEM,
                message,
            )
            .with_help("unload patches that were replaced")
        })
    }

    fn ensure_part(&mut self, watched: &Watched<'_>) -> Result<PartRecord, Error> {
        if let Some(known) = self.records.watch.part(watched.patch.id.0, watched.index)
            && known.functions as usize == watched.object().funcs.len()
        {
            return Ok(known);
        }
        let functions = watched.object().funcs.len();
        let size = size_of::<ObjectStatus>() + functions * size_of::<FunctionStatus>();
        let place = self.take_existing(Part::Writable, size as u64)?;
        self.process
            .memory
            .write_bytes(place.start, &vec![0; size])?;
        let record = PartRecord {
            patch: watched.patch.id.0,
            object: watched.index as u32,
            functions: functions as u32,
            place,
        };
        let parts = &mut self.records.watch.parts;
        let is_same = |p: &PartRecord| (p.patch, p.object) == (record.patch, record.object);
        let (former, rest) = std::mem::take(parts).into_iter().partition(is_same);
        *parts = rest;
        let former: Vec<PartRecord> = former;
        parts.push(record);
        let places = former.into_iter().map(|part| part.place);
        self.records.watch.retired.extend(places);
        Ok(record)
    }

    /// Statuses of patches that are not on the stack any more.
    fn release_parts(&mut self, state: &State) {
        let stays = |part: &PartRecord| {
            let patch = state.stack.iter().find(|patch| patch.id.0 == part.patch);
            patch.is_some_and(|patch| (part.object as usize) < patch.objects.len())
        };
        let watch = &mut self.records.watch;
        let (stay, gone) = std::mem::take(&mut watch.parts)
            .into_iter()
            .partition(stays);
        watch.parts = stay;
        watch.known.retain(|known| {
            let patch = state.stack.iter().find(|patch| patch.id.0 == known.patch);
            patch.is_some_and(|patch| (known.object as usize) < patch.objects.len())
        });
        let gone: Vec<PartRecord> = gone;
        watch
            .retired
            .extend(gone.into_iter().map(|part| part.place));
    }
}

/// A plan being put together: texts are offsets until it is known where it will lie.
#[derive(Default)]
struct Draft {
    objects: Vec<(PlanObject, Vec<PlanFunction>, Vec<PlanBinding>)>,
    texts: Vec<u8>,
}

impl Draft {
    fn add_text(&mut self, text: &str) -> u64 {
        let offset = self.texts.len() as u64;
        self.texts.extend(text.bytes());
        self.texts.push(0);
        offset
    }

    fn add(
        &mut self,
        state: &State,
        watched: &Watched<'_>,
        (library, part): (Library, PartRecord),
        (known, module): (Option<&Known>, Option<&Module>),
    ) {
        let object = watched.object();
        let name = object.name.as_deref().unwrap_or_default();
        let bindings = module.map_or(&[][..], |module| &module.bindings);
        let bindings = bindings
            .iter()
            .filter(|binding| binding.object == name && !object.dynamic);
        let bindings: Vec<PlanBinding> = bindings
            .map(|binding| PlanBinding {
                name: self.add_text(&binding.name),
                position: binding.sympos,
                place: binding.place,
                addend: binding.addend,
                protected: u64::from(binding.protected),
            })
            .collect();
        let built = module.is_some_and(|module| module.built) && !object.dynamic;
        let fixed = module.is_some_and(|module| module.fixed.iter().any(|fixed| fixed == name));
        let mut functions = Vec::new();
        for (index, func) in object.funcs.iter().enumerate() {
            functions.push(PlanFunction {
                name: self.add_text(&func.old_name),
                position: func.old_sympos,
                replacement: match &func.replacement {
                    Replacement::New(code) => code.entry(),
                    Replacement::Nop => 0,
                },
                status: part.function(index),
                known: known
                    .and_then(|k| k.functions.get(index))
                    .map_or(0, Code::entry),
                known_size: known
                    .and_then(|k| k.functions.get(index))
                    .map_or(0, |code| code.body.len),
            });
        }
        let flags = [
            (watched.awaited, PLAN_AWAITED),
            (watched.in_transition, PLAN_IN_TRANSITION),
            (built, PLAN_BUILT),
            (fixed && !object.dynamic, PLAN_FIXED),
            (object.settled, PLAN_SETTLED),
            (object.post_unpatch_due, PLAN_POST_UNPATCH_DUE),
        ];
        let (calling, calling_kind) = find_call(state, watched);
        let callbacks = &object.callbacks;
        let entry = PlanObject {
            patch: self.add_text(&watched.patch.name),
            name: self.add_text(object.name.as_deref().unwrap_or_default()),
            object: object.handle,
            callbacks: [
                callbacks.pre_patch,
                callbacks.post_patch,
                callbacks.pre_unpatch,
                callbacks.post_unpatch,
            ]
            .map(Option::unwrap_or_default),
            module: library.module,
            library: library.status,
            status: part.status(),
            load: if object.loaded { object.load } else { 0 },
            flags: flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, bit)| bit)
                .sum(),
            calling,
            calling_kind,
            functions: 0,
            function_count: functions.len() as u64,
            bindings: 0,
            binding_count: bindings.len() as u64,
            bias: known.map_or(0, |known| known.bias),
            identity: known.map_or(0, |known| known.identity),
        };
        self.objects.push((entry, functions, bindings));
    }

    fn functions_offset(&self) -> u64 {
        (size_of::<Plan>() + self.objects.len() * size_of::<PlanObject>()) as u64
    }

    fn texts_offset(&self) -> u64 {
        let bindings: usize = self
            .objects
            .iter()
            .map(|(.., bindings)| bindings.len())
            .sum();
        self.bindings_offset() + (bindings * size_of::<PlanBinding>()) as u64
    }

    fn bindings_offset(&self) -> u64 {
        let functions: usize = self
            .objects
            .iter()
            .map(|(_, functions, _)| functions.len())
            .sum();
        self.functions_offset() + (functions * size_of::<PlanFunction>()) as u64
    }

    fn length(&self) -> u64 {
        self.texts_offset() + self.texts.len() as u64
    }

    /// The bytes, to lie at `start`.
    fn encode(&self, plan: &Plan, start: u64) -> Vec<u8> {
        let texts = start + self.texts_offset();
        let mut functions_at = start + self.functions_offset();
        let mut bindings_at = start + self.bindings_offset();
        let mut bytes = bytes_of(plan).to_vec();
        for (object, functions, bindings) in &self.objects {
            let object = PlanObject {
                patch: texts + object.patch,
                name: texts + object.name,
                functions: functions_at,
                bindings: bindings_at,
                ..*object
            };
            bytes.extend(bytes_of(&object));
            bindings_at += (bindings.len() * size_of::<PlanBinding>()) as u64;
            functions_at += (functions.len() * size_of::<PlanFunction>()) as u64;
        }
        for function in self.objects.iter().flat_map(|(_, functions, _)| functions) {
            let name = texts + function.name;
            bytes.extend(bytes_of(&PlanFunction { name, ..*function }));
        }
        for binding in self.objects.iter().flat_map(|(.., bindings)| bindings) {
            let name = texts + binding.name;
            bytes.extend(bytes_of(&PlanBinding { name, ..*binding }));
        }
        bytes.extend(&self.texts);
        bytes
    }
}

/// The command by which a callback of the object is run, if that is what is to be done next.
fn find_call(state: &State, watched: &Watched<'_>) -> (u64, u64) {
    let phase = state.transition.as_ref().map(|t| &t.phase);
    match phase {
        Some(Phase::Calling(call))
            if call.patch == watched.patch.id && call.object() == Some(watched.index) =>
        {
            let kind = match call.kind {
                CallbackKind::PrePatch => 0,
                CallbackKind::PostPatch => 1,
                CallbackKind::PreUnpatch => 2,
                CallbackKind::PostUnpatch => 3,
            };
            (crate::live::command_of(call), kind)
        }
        _ => (0, 0),
    }
}
