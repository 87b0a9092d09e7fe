//! A live process as the rules see it.

use std::mem::offset_of;
use std::rc::Rc;

use engraft_abi::{KlpPatch, LibraryStatus, MAX_PATCHES, PatchTable, RingHeader};
use engraft_core::{
    CallbackCall, Pass, Phase, RouteFailure, Sighting, State, Subject, Switch, Target,
};
use engraft_process::{Borrowed, RuntimePlaces};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::arena::{ARENA_NAME, Part, find_room, roomy};
use crate::attached::Attached;
use crate::database::{self, Records};
use crate::error::Error;
use crate::log::MAX_POSITION;
use crate::matching::Matches;
use crate::migrate::Visited;
use crate::objects::Objects;
use crate::space::Span;
use crate::timeline::Timeline;

/// How often routes are looked at anew while libraries come and go.
const ATTEMPTS: u32 = 20;

/// One operation on a live process.
pub(crate) struct Live<'e> {
    pub(crate) process: &'e Attached,
    pub(crate) objects: Rc<Objects>,
    /// Loads and unloads of libraries that the state and `objects` know of.
    pub(crate) sighted: u64,
    /// What must be so for the callback to be run that the state names.
    pub(crate) guard: Option<Guard>,
    pub(crate) places: &'e RuntimePlaces,
    pub(crate) records: &'e mut Records,
    pub(crate) visited: &'e mut Visited,
    /// What happens to threads, if somebody wants to know.
    pub(crate) timeline: Option<&'e mut Timeline>,
    /// The thread that runs code for us, while there is one.
    pub(crate) session: Option<Borrowed<'e>>,
    /// The module whose init function the borrowed thread is inside.
    pub(crate) in_init: Option<String>,
    /// What matching has found for the module that is being loaded.
    pub(crate) matches: Matches,
}

/// A callback of a library's object, and the load of the library that it is meant for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    pub(crate) sequence: u64,
    /// Address of the number of the load that is there.
    pub(crate) place: u64,
    pub(crate) load: u64,
}

/// Number of the command that runs a callback. Odd numbers are callbacks', even ones all other
/// commands'.
pub(crate) fn command_of(call: &CallbackCall) -> u64 {
    call.sequence * 2 + 1
}

impl Live<'_> {
    /// What must be so for the next callback, if it concerns a library.
    fn find_guard(&self, state: &State) -> Result<Option<Guard>, Error> {
        let Some(Phase::Calling(call)) = state.transition.as_ref().map(|t| &t.phase) else {
            return Ok(None);
        };
        let patch = state.patch(call.patch);
        let object = patch.and_then(|patch| patch.objects.get(call.object()?));
        let Some((object, name)) = object.and_then(|o| Some((o, o.name.as_deref()?))) else {
            return Ok(None);
        };
        let Some(library) = self.library(name) else {
            return Ok(None);
        };
        if self.read_library(library)?.watched == 0 {
            return Ok(None);
        }
        Ok(Some(Guard {
            sequence: call.sequence,
            place: library.status + offset_of!(LibraryStatus, load) as u64,
            load: object.load,
        }))
    }

    /// Reads again what is mapped.
    pub(crate) fn refresh_objects(&mut self) -> Result<(), Error> {
        self.objects = Rc::new(Objects::read(self.process)?.0);
        Ok(())
    }

    /// Commits state and records, and tells the runtime which patches there are.
    pub(crate) fn save_records(&mut self, state: &State) -> Result<(), Error> {
        let plan = self.write_plan(state)?;
        database::save(&self.process.memory, state, self.records)?;
        self.write_patch_table(state)?;
        match plan {
            Some(plan) => self.publish_plan(plan),
            None => Ok(()),
        }
    }

    /// Brings what the runtime knows of the patches in line with the state.
    pub(crate) fn write_patch_table(&self, state: &State) -> Result<(), Error> {
        let memory = &self.process.memory;
        let listed = state.listed();
        let mut table = PatchTable {
            count: listed.patches.len().min(MAX_PATCHES) as u32,
            transition: listed.transition.map_or(u32::MAX, |index| index as u32),
            patches: [0; MAX_PATCHES],
        };
        for (place, id) in table.patches.iter_mut().zip(&listed.patches) {
            *place = state.patch(*id).map_or(0, |patch| patch.handle);
        }
        memory.write(self.records.runtime.patch_table, &table)?;
        for patch in state.patches().filter(|patch| patch.handle != 0) {
            let at = patch.handle + offset_of!(KlpPatch, enabled) as u64;
            if memory.read::<u8>(at)? != u8::from(patch.enabled) {
                memory.write(at, &u8::from(patch.enabled))?;
            }
        }
        Ok(())
    }

    /// Index of an arena that reaches `target` and has room; a new one is mapped if need be.
    /// A borrowed thread is given back for that, unless it is in the middle of an init function.
    pub(crate) fn arena_near(&mut self, target: Span, room: [u64; 3]) -> Result<usize, Error> {
        if let Some(index) = find_room(&self.records.arenas, target, room) {
            return Ok(index);
        }
        if self.in_init.is_none() {
            self.end_session()?;
        }
        let arena = crate::control::map_arena(
            self.process,
            &self.objects,
            Some(self.records),
            target,
            ARENA_NAME,
            roomy(room),
            self.session.as_ref().map(Borrowed::tid),
        )?;
        self.records.arenas.push(arena);
        Ok(self.records.arenas.len() - 1)
    }

    /// Takes memory from an arena.
    pub(crate) fn take(
        &mut self,
        arena: usize,
        part: Part,
        size: u64,
        alignment: u64,
    ) -> Result<Span, Error> {
        self.records.arenas[arena]
            .part(part)
            .take(size, alignment)
            .ok_or_else(|| {
                let message = format!("no room for {size} bytes in the memory mapped for patches");
                Error::other("place code in the target", Errno::ENOMEM, message)
            })
    }

    /// Gives memory back to the arena it came from.
    pub(crate) fn give(&mut self, span: Span) {
        for arena in &mut self.records.arenas {
            for part in [Part::ReadOnly, Part::Executable, Part::Writable] {
                let space = arena.part(part);
                if space.contains(span.start) {
                    space.give(span);
                    return;
                }
            }
        }
    }

    /// What lies at an address, for people.
    pub(crate) fn name_of(&self, address: u64) -> String {
        for module in &self.records.modules {
            if let Some(function) = module.functions.iter().find(|f| f.span.contains(address)) {
                let offset = address - function.span.start;
                return format!("{}+{offset:#x} [{}]", function.name, module.name);
            }
        }
        if self.records.runtime.text.contains(address) {
            return format!("{address:#x} [engraft]");
        }
        self.objects
            .describe(address)
            .unwrap_or_else(|| format!("{address:#x}"))
    }
}

impl Target for Live<'_> {
    type Error = Error;

    fn save(&mut self, state: &State) -> Result<(), Error> {
        // From here on the patch stays, whatever becomes of this tool: its init function must
        // not tidy up as if it had been refused.
        let stays = |name: &String| state.find(name).is_some_and(|patch| patch.enabled);
        if self.in_init.as_ref().is_some_and(stays)
            && let Some(session) = &self.session
        {
            session.set_unanswered(0)?;
        }
        self.guard = self.find_guard(state)?;
        self.save_records(state)
    }

    fn run_callback(&mut self, call: &CallbackCall) -> Result<i32, Error> {
        let (sequence, [handle, _]) = (command_of(call), call.arguments);
        let value = match call.subject {
            Subject::Object(_) => {
                let guard = self.guard.filter(|guard| guard.sequence == call.sequence);
                self.call_guarded(sequence, call.address, handle, guard)?
            }
            Subject::State(_) => self.call(sequence, call.address, &call.arguments)?,
            Subject::Shadows(_) => {
                let free_all = self.records.runtime.exports.get("klp_shadow_free_all");
                let free_all = *free_all.ok_or_else(|| {
                    let message = "the runtime in the target does not know klp_shadow_free_all()";
                    Error::other("free shadow variables", Errno::ENOSYS, message)
                })?;
                self.call(sequence, free_all, &call.arguments)?
            }
        };
        Ok(value as i32)
    }

    fn sight_objects(&mut self, state: &State) -> Result<Vec<Sighting>, Error> {
        self.guard = self.find_guard(state)?;
        self.sight(state)
    }

    fn apply_routes(&mut self, state: &State) -> Result<Result<(), RouteFailure>, Error> {
        // A library that goes meanwhile takes with it what is being looked at, and is none of this
        // tool's business any more.
        for _ in 0..ATTEMPTS {
            match self.match_routes(state) {
                Err(error) if !error.is_gone() && !self.is_in_line()? => self.refresh_objects()?,
                Ok(Err(_)) if !self.is_in_line()? => self.refresh_objects()?,
                result => return result,
            }
        }
        self.match_routes(state)
    }

    fn switch_threads(&mut self, state: &State, how: Switch) -> Result<Pass, Error> {
        self.pass_over_threads(state, how)
    }

    fn now(&self) -> u64 {
        now()
    }

    fn log_position(&self) -> u64 {
        let header = self
            .process
            .memory
            .read::<RingHeader>(self.records.runtime.ring);
        header.map_or(0, |header| header.head.min(MAX_POSITION))
    }
}

/// Nanoseconds since boot, suspended time included, as the kernel's log counts.
pub(crate) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}
