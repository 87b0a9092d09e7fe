//! Placing what a redirect needs: router, slot, displaced prologue, thunks. The function
//! itself is not touched.

use std::rc::Rc;

use engraft_abi::Redirect;
use engraft_arch::RegisterSet;
use engraft_arch::relocate::relocate_entry;
use engraft_arch::stub::{encode_preserve_thunk, encode_router};
use engraft_core::{Route, RouteFailure};
use nix::errno::Errno;

use super::plan::Unfit;
use super::{Entry, Thunk, rows_of};
use crate::arena::Part;
use crate::arrivals::Load;
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
    /// Places router, slot and displaced prologue of a function, which `load` tells from the one
    /// of another load of its library.
    pub(super) fn place_entry(
        &mut self,
        route: &Route,
        planned: engraft_arch::entry::Entry,
        load: Option<Load>,
    ) -> Result<Result<(), RouteFailure>, Error> {
        let function = route.old.entry();
        let arena = self.arena_for(function, route.old.body.len)?;
        let router = self.take(arena, Part::Executable, 8, 8)?;
        let slot = self.take(arena, Part::ReadOnly, SLOT_SIZE, SLOT_SIZE)?;
        let stub = match encode_router(router.start, slot.start) {
            Ok(stub) => stub,
            Err(error) => return Ok(Err(fail(route, Errno::ENOMEM, error))),
        };
        self.process.memory.write_bytes(router.start, &stub.code)?;
        let place = (router, slot.start);
        let entry = match self.build_entry(&route.old_name, function, planned, place)? {
            Ok(entry) => entry,
            Err(unfit) => {
                let object = route.object.as_deref();
                return Ok(Err(unfit.of_function(object, &route.old_name)));
            }
        };
        self.process.memory.write(slot.start, &entry.copy.start)?;
        self.records
            .entries
            .insert(function, Entry { load, ..entry });
        Ok(Ok(()))
    }

    /// Takes over a redirect that is in force, with its router and slot.
    pub(crate) fn adopt_entry(
        &mut self,
        name: &str,
        function: u64,
        planned: engraft_arch::entry::Entry,
        redirect: &Redirect,
        load: Load,
    ) -> Result<(), Error> {
        let router = Span {
            start: redirect.router,
            size: 8,
        };
        let place = (router, redirect.slot);
        match self.build_entry(name, function, planned, place)? {
            Ok(entry) => {
                let load = Some(load);
                self.records
                    .entries
                    .insert(function, Entry { load, ..entry });
                Ok(())
            }
            Err(unfit) => {
                let context = format!("take over the redirect of '{name}'");
                Err(Error::new(context, unfit.of_function(None, name)))
            }
        }
    }

    /// An arena for the whole object, so that its other functions find room there, too.
    fn arena_for(&mut self, function: u64, size: u64) -> Result<usize, Error> {
        let objects = Rc::clone(&self.objects);
        let near = objects.containing(function).map_or(
            Span {
                start: function,
                size,
            },
            LoadedObject::span,
        );
        self.arena_near(near, [SLOT_SIZE, 2 * COPY_ROOM, 0])
    }

    /// Places the displaced prologue; router and slot are there.
    fn build_entry(
        &mut self,
        name: &str,
        function: u64,
        planned: engraft_arch::entry::Entry,
        (router, slot): (Span, u64),
    ) -> Result<Result<Entry, Unfit>, Error> {
        let arena = self.arena_for(function, 1)?;
        let copy_room = self.take(arena, Part::Executable, COPY_ROOM, 16)?;
        let relocated = match relocate_entry(&planned, copy_room.start) {
            Ok(relocated) if relocated.code.len() as u64 <= copy_room.size => relocated,
            Ok(_) => {
                let reason = "its displaced prologue is too long";
                return Ok(Err(Unfit::new(Errno::EINVAL, reason)));
            }
            Err(error) => return Ok(Err(Unfit::new(Errno::EINVAL, error.kind))),
        };
        let length = (relocated.code.len() as u64).next_multiple_of(16);
        let end = copy_room.start + length;
        self.give(Span {
            start: end,
            size: copy_room.size - length,
        });
        self.process
            .memory
            .write_bytes(copy_room.start, &relocated.code)?;
        let boundaries = relocated.boundaries.iter();
        let calls = relocated.calls.iter();
        Ok(Ok(Entry {
            name: name.to_owned(),
            function,
            site: planned.site,
            original: planned.original,
            interior: planned.interior,
            router,
            slot,
            copy: Span {
                start: copy_room.start,
                size: relocated.code.len() as u64,
            },
            boundaries: boundaries.map(|b| (b.original, b.copy)).collect(),
            calls: calls
                .map(|call| Span {
                    start: call.start,
                    size: call.end - call.start,
                })
                .collect(),
            thunks: Vec::new(),
            examined: Vec::new(),
            load: None,
        }))
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
