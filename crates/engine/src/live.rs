//! A live process as the rules see it.

use std::mem::offset_of;

use engraft_abi::{KlpPatch, MAX_PATCHES, PatchTable, RingHeader};
use engraft_core::{CallbackCall, Pass, RouteFailure, State, Switch, Target};
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

/// One operation on a live process.
pub(crate) struct Live<'e> {
    pub(crate) process: &'e Attached,
    pub(crate) objects: &'e Objects,
    pub(crate) places: &'e RuntimePlaces,
    pub(crate) records: &'e mut Records,
    pub(crate) visited: &'e mut Visited,
    /// The thread that runs code for us, while there is one.
    pub(crate) session: Option<Borrowed<'e>>,
    /// The module whose init function the borrowed thread is inside.
    pub(crate) in_init: Option<String>,
    /// What matching has found for the module that is being loaded.
    pub(crate) matches: Matches,
}

impl Live<'_> {
    /// Commits state and records, and tells the runtime which patches there are.
    pub(crate) fn save_records(&mut self, state: &State) -> Result<(), Error> {
        database::save(&self.process.memory, state, self.records)?;
        self.write_patch_table(state)
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
            self.objects,
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
        self.save_records(state)
    }

    fn run_callback(&mut self, call: &CallbackCall) -> Result<i32, Error> {
        // Odd numbers are callbacks', even ones all other commands'.
        let value = self.call(call.sequence * 2 + 1, call.address, &[call.handle])?;
        Ok(value as i32)
    }

    fn apply_routes(&mut self, state: &State) -> Result<Result<(), RouteFailure>, Error> {
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
