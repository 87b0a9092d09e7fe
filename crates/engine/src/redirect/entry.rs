//! Placing what a redirect needs: router, slot, displaced prologue, thunks. The function
//! itself is not touched.

use engraft_arch::RegisterSet;
use engraft_arch::relocate::relocate_entry;
use engraft_arch::stub::{encode_preserve_thunk, encode_router};
use engraft_core::{Route, RouteFailure};
use nix::errno::Errno;

use super::plan::Unfit;
use super::{Entry, Thunk, rows_of};
use crate::arena::Part;
use crate::error::Error;
use crate::live::Live;
use crate::objects::LoadedObject;
use crate::space::Span;

const SLOT_SIZE: u64 = 8;

/// Room for the call frame information of a thunk.
const FRAMES_ROOM: u64 = 512;

/// More than any displaced prologue needs.
const COPY_ROOM: u64 = 128;

pub(super) fn fail(route: &Route, errno: Errno, reason: impl ToString) -> RouteFailure {
    Unfit::new(errno, reason).of_function(route.object.as_deref(), &route.old_name)
}

impl Live<'_> {
    /// Places router, slot and displaced prologue of a function.
    pub(super) fn place_entry(
        &mut self,
        route: &Route,
        planned: engraft_arch::entry::Entry,
    ) -> Result<Result<(), RouteFailure>, Error> {
        let function = route.old.entry();
        // An arena for the whole object, so that its other functions find room there, too.
        let near = self.objects.containing(function).map_or(
            Span {
                start: function,
                size: route.old.body.len,
            },
            LoadedObject::span,
        );
        let room = [SLOT_SIZE, 2 * COPY_ROOM, 0];
        let arena = self.arena_near(near, room)?;
        let router = self.take(arena, Part::Executable, 8, 8)?;
        let slot = self.take(arena, Part::ReadOnly, SLOT_SIZE, SLOT_SIZE)?;
        let copy_room = self.take(arena, Part::Executable, COPY_ROOM, 16)?;
        let relocated = match relocate_entry(&planned, copy_room.start) {
            Ok(relocated) if relocated.code.len() as u64 <= copy_room.size => relocated,
            Ok(_) => {
                return Ok(Err(fail(
                    route,
                    Errno::EINVAL,
                    "its displaced prologue is too long",
                )));
            }
            Err(error) => return Ok(Err(fail(route, Errno::EINVAL, error.kind))),
        };
        let length = (relocated.code.len() as u64).next_multiple_of(16);
        let copy = Span {
            start: copy_room.start,
            size: length,
        };
        self.give(Span {
            start: copy.end(),
            size: copy_room.size - length,
        });
        let stub = match encode_router(router.start, slot.start) {
            Ok(stub) => stub,
            Err(error) => return Ok(Err(fail(route, Errno::ENOMEM, error))),
        };
        let memory = &self.process.memory;
        memory.write_bytes(copy.start, &relocated.code)?;
        memory.write_bytes(router.start, &stub.code)?;
        memory.write(slot.start, &copy.start)?;
        let entry = Entry {
            name: route.old_name.clone(),
            function,
            site: planned.site,
            original: planned.original,
            interior: planned.interior,
            router,
            slot: slot.start,
            copy: Span {
                start: copy.start,
                size: relocated.code.len() as u64,
            },
            boundaries: relocated
                .boundaries
                .iter()
                .map(|b| (b.original, b.copy))
                .collect(),
            calls: relocated
                .calls
                .iter()
                .map(|call| Span {
                    start: call.start,
                    size: call.end - call.start,
                })
                .collect(),
            thunks: Vec::new(),
            examined: Vec::new(),
        };
        self.records.entries.insert(function, entry);
        Ok(Ok(()))
    }

    /// Places a thunk that preserves registers around an implementation of a function.
    pub(super) fn place_thunk(
        &mut self,
        route: &Route,
        implementation: u64,
        registers: RegisterSet,
    ) -> Result<Result<Thunk, RouteFailure>, Error> {
        let stub = match encode_preserve_thunk(registers, implementation) {
            Ok(stub) => stub,
            Err(error) => return Ok(Err(fail(route, Errno::EINVAL, error))),
        };
        let near = self.records.entries[&route.old.entry()].router;
        let size = stub.code.len() as u64;
        let arena = self.arena_near(near, [FRAMES_ROOM, size, 0])?;
        let span = self.take(arena, Part::Executable, size, 16)?;
        self.process.memory.write_bytes(span.start, &stub.code)?;
        let thunk = Thunk {
            implementation,
            span,
            rows: rows_of(&stub),
        };
        // Exceptions pass through it, too.
        let bytes = thunk.layout(&route.old_name).encode_eh_frame();
        let frames = self.take(arena, Part::ReadOnly, bytes.len() as u64, 8)?;
        self.process.memory.write_bytes(frames.start, &bytes)?;
        self.add_frames(frames);
        Ok(Ok(thunk))
    }
}
