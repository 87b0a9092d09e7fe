//! Redirecting the dynamic linker's notification (`r_debug.r_brk`, link.h) to the runtime.
//!
//! It is an empty function, which exists for debuggers to stop at, so nothing of it has to be
//! kept: the runtime returns in its place.

use std::time::Duration;

use engraft_abi::{LibraryStatus, RuntimeConfig};
use engraft_arch::stub::{encode_jump, encode_router};
use engraft_core::State;
use serde::{Deserialize, Serialize};

use super::{Library, no_hook};
use crate::arena::Part;
use crate::error::Error;
use crate::live::Live;
use crate::loader;
use crate::objects::LoadedObject;
use crate::redirect::Edit;
use crate::space::Span;

/// `ret`, and `endbr64; ret`.
const EMPTY: [&[u8]; 2] = [&[0xc3], &[0xf3, 0x0f, 0x1e, 0xfa, 0xc3]];

/// Bytes behind the function that are looked at.
const TAIL: usize = 24;

const ENDBR: u64 = 4;

/// How often a library is looked for in the dynamic linker's list.
const LOOKS: u32 = 20;

const PAUSE: Duration = Duration::from_millis(1);

/// A slot and a router.
const HOOK_ROOM: [u64; 3] = [64, 64, 0];

/// The redirected notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hook {
    /// Address of the jump.
    pub(crate) site: u64,
    /// Bytes that it has overwritten.
    pub(crate) original: [u8; 5],
    /// `jmp *slot`.
    pub(crate) router: Span,
    /// Address of the slot.
    pub(crate) slot: u64,
}

impl Hook {
    fn jump(&self) -> Result<[u8; 5], Error> {
        encode_jump(self.site, self.router.start).map_err(|error| no_hook(&error.to_string()))
    }
}

impl Live<'_> {
    /// Lets the runtime know of libraries that come and go, if the target has a dynamic linker.
    pub(crate) fn ensure_hook(&mut self, state: &State) -> Result<(), Error> {
        if self.records.watch.hook.is_none() {
            let debug = self.objects.main().image.debug;
            let Some(debug) = debug.filter(|debug| *debug != 0) else {
                return Ok(());
            };
            let hook = self.place_hook(debug)?;
            // It is known before it is there: whoever comes after a killed tool finds it.
            self.records.watch.hook = Some(hook);
            self.save_records(state)?;
        }
        let Some(hook) = self.records.watch.hook else {
            return Ok(());
        };
        let mut found = [0; 5];
        self.process.memory.read_bytes(hook.site, &mut found)?;
        if found == hook.jump()? {
            return Ok(());
        }
        if found != hook.original || !self.rewrite_hook(&hook, hook.original, hook.jump()?)? {
            let reason = "the dynamic linker's notification cannot be redirected now: a thread does \
                          not stop, or somebody has set a breakpoint there; try again";
            return Err(no_hook(reason));
        }
        Ok(())
    }

    fn place_hook(&mut self, debug: u64) -> Result<Hook, Error> {
        let notify = loader::read_notify(&self.process.memory, debug)?;
        let code = self.read_notify_code(notify)?;
        let site = notify + if code[0] == 0xf3 { ENDBR } else { 0 };
        // A thread may still be in a router that was used before: it is used again.
        let (router, slot) = match self.records.watch.former_hook {
            Some(former) => (former.router, former.slot),
            None => {
                let arena = self.arena_near(self.linker_span(site), HOOK_ROOM)?;
                let router = self.take(arena, Part::Executable, 8, 8)?;
                (router, self.take(arena, Part::ReadOnly, 8, 8)?.start)
            }
        };
        let stub =
            encode_router(router.start, slot).map_err(|error| no_hook(&error.to_string()))?;
        let memory = &self.process.memory;
        memory.write_bytes(router.start, &stub.code)?;
        memory.write(slot, &self.records.runtime.arrival)?;
        let config = self.records.runtime.config;
        memory.write(
            config + std::mem::offset_of!(RuntimeConfig, debug) as u64,
            &debug,
        )?;
        let mut original = [0; 5];
        memory.read_bytes(site, &mut original)?;
        Ok(Hook {
            site,
            original,
            router,
            slot,
        })
    }

    /// Exchanges the bytes at the hook's site; false when that cannot be done now.
    fn rewrite_hook(
        &mut self,
        hook: &Hook,
        expected: [u8; 5],
        wanted: [u8; 5],
    ) -> Result<bool, Error> {
        let edit = Edit {
            function: hook.site,
            site: hook.site,
            expected,
            wanted,
            interior: Vec::new(),
        };
        Ok(self.rewrite_entries(&[edit])?.is_ok())
    }

    /// Maps memory for the hook, while no thread is borrowed yet.
    pub(crate) fn prepare_hook(&mut self) -> Result<(), Error> {
        let debug = self.objects.main().image.debug.filter(|debug| *debug != 0);
        let watch = &self.records.watch;
        let is_placed = watch.hook.is_some() || watch.former_hook.is_some();
        if let Some(debug) = debug.filter(|_| !is_placed) {
            let notify = loader::read_notify(&self.process.memory, debug)?;
            self.arena_near(self.linker_span(notify), HOOK_ROOM)?;
        }
        Ok(())
    }

    /// Refuses a library that the program has loaded into a namespace of its own: what the dynamic
    /// linker says of those is not followed.
    pub(crate) fn refuse_namespace(&self, name: &str) -> Result<(), Error> {
        let debug = self.objects.main().image.debug.filter(|debug| *debug != 0);
        let (Some(debug), Some(object)) = (debug, self.objects.find(Some(name))?) else {
            return Ok(());
        };
        // One that is being loaded or unloaded just now is in no list either.
        for _ in 0..LOOKS {
            // The list may change while it is read.
            let listed = loader::lists(&self.process.memory, debug, object.image.bias);
            if listed.unwrap_or(false) || !self.objects.are_current(self.process)? {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        let reason = format!(
            "library '{name}' is loaded into a namespace of its own (dlmopen), which is not followed; \
             let the program load it with dlopen"
        );
        Err(no_hook(&reason))
    }

    /// Gives the notification back once no patch names a library any more. What stands in the way
    /// now is tried again at the next occasion.
    pub(crate) fn release_hook(&mut self, state: &State) -> Result<(), Error> {
        let Some(hook) = self.records.watch.hook else {
            return Ok(());
        };
        if state.transition.is_some() {
            return Ok(());
        }
        self.release_libraries(state)?;
        if state.watched().next().is_some() {
            return Ok(());
        }
        let jump = hook.jump()?;
        let mut found = [0; 5];
        self.process.memory.read_bytes(hook.site, &mut found)?;
        if found == jump && !self.rewrite_hook(&hook, jump, hook.original)? {
            return Ok(());
        }
        self.records.watch.former_hook = self.records.watch.hook.take();
        self.save_records(state)
    }

    /// The plan does not tell the runtime to follow libraries that no patch names any more: what
    /// is known of them is void from here on. Their code is as it was.
    fn release_libraries(&mut self, state: &State) -> Result<(), Error> {
        let named = state.watched().filter_map(|watched| {
            let name = watched.object().name.as_deref()?;
            self.library(name)
        });
        let named: Vec<Library> = named.collect();
        for library in self.records.watch.libraries.values() {
            let status = self.read_library(*library)?;
            if status.watched == 0 || named.contains(library) {
                continue;
            }
            let status = LibraryStatus {
                watched: 0,
                load: 0,
                map: 0,
                ..status
            };
            self.process.memory.write(library.status, &status)?;
        }
        Ok(())
    }

    fn linker_span(&self, notify: u64) -> Span {
        let alone = Span {
            start: notify,
            size: 1,
        };
        let linker = self.objects.containing(notify);
        linker.map_or(alone, LoadedObject::span)
    }

    /// The notification function and what follows it, if it is empty and there is room for a
    /// jump.
    fn read_notify_code(&self, notify: u64) -> Result<[u8; TAIL], Error> {
        let mut code = [0; TAIL];
        self.process.memory.read_bytes(notify, &mut code)?;
        let Some(empty) = EMPTY.into_iter().find(|empty| code.starts_with(empty)) else {
            let reason = "the dynamic linker's notification is not the empty function that it \
                          should be: a debugger has set a breakpoint there, or another tool uses it; \
                          let that go and try again";
            return Err(no_hook(reason));
        };
        let site = empty.len() - 1;
        let filler = &code[site + 1..];
        if engraft_arch::entry::filler_length(notify + site as u64 + 1, filler) < 4 {
            let reason = "there is no room for a jump at the dynamic linker's notification";
            return Err(no_hook(reason));
        }
        Ok(code)
    }
}
