//! Libraries that come and go while patches name them.
//!
//! The runtime in the target follows them by itself, at the dynamic linker's own notification
//! ([`hook`]), by a plan that is written with every state ([`plan`]). What it has done is taken
//! into the state when the rules ask ([`sight`]).

mod hook;
mod plan;
mod sight;

use std::collections::BTreeMap;
use std::mem::offset_of;

use engraft_abi::{Arrivals, LibraryStatus, ObjectStatus};
use engraft_core::{Code, Object, State};
use engraft_process::Memory;
use engraft_unwind::Trace;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::arena::Part;
use crate::database::Records;
use crate::error::Error;
use crate::live::Live;
use crate::objects::stem;
use crate::space::Span;

pub(crate) use hook::Hook;
pub(crate) use plan::{PartRecord, PlanRecord};

/// What is kept about libraries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// Where the dynamic linker's notification is redirected, once it is.
    pub(crate) hook: Option<Hook>,
    /// Where it was redirected when a patch last named a library.
    pub(crate) former_hook: Option<Hook>,
    /// By the name that patches call them by.
    pub(crate) libraries: BTreeMap<String, Library>,
    /// Statuses of the objects of patches.
    pub(crate) parts: Vec<PartRecord>,
    /// What was found of objects of patches when they were last there.
    pub(crate) known: Vec<Known>,
    /// The plan in force.
    pub(crate) plan: Option<PlanRecord>,
    /// Memory of plans and statuses that may still be in use.
    pub(crate) retired: Vec<Span>,
    /// Number of the last plan.
    pub(crate) generation: u64,
}

/// A library that patches name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Library {
    /// Address of the `struct module` that stands for it.
    pub(crate) module: u64,
    /// Address of its [`LibraryStatus`].
    pub(crate) status: u64,
}

/// Where the functions of an object of a patch were in a load that the tool has looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) patch: u32,
    pub(crate) object: u32,
    /// What that load added to the addresses in its file.
    pub(crate) bias: u64,
    /// Which file it was ([`engraft_abi::identify`]), 0 when it does not say.
    pub(crate) identity: u64,
    pub(crate) functions: Vec<Code>,
}

/// A load of a library that something is true of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Address of the library's [`LibraryStatus`].
    pub(crate) status: u64,
    /// Number of the load.
    pub(crate) number: u64,
}

impl Watch {
    /// The library that a patch calls by this name.
    fn library(&self, name: &str) -> Option<Library> {
        let known = self.libraries.get(name).copied();
        known.or_else(|| {
            let mut others = self.libraries.iter();
            let same = others.find(|(other, _)| stem(other) == stem(name));
            same.map(|(_, library)| *library)
        })
    }

    pub(crate) fn known(&self, patch: u32, object: usize) -> Option<&Known> {
        let is_it = |known: &&Known| known.patch == patch && known.object as usize == object;
        self.known.iter().find(is_it)
    }

    /// What is kept for an object of a patch.
    fn part(&self, patch: u32, object: usize) -> Option<PartRecord> {
        let is_it = |part: &&PartRecord| part.patch == patch && part.object as usize == object;
        self.parts.iter().find(is_it).copied()
    }
}

impl Live<'_> {
    /// The library that a patch calls by this name.
    pub(crate) fn library(&self, name: &str) -> Option<Library> {
        self.records.watch.library(name)
    }

    /// Makes sure that there are records for a library.
    pub(crate) fn ensure_library(&mut self, name: &str) -> Result<Library, Error> {
        if let Some(library) = self.library(name) {
            return Ok(library);
        }
        let sizes = [size_of::<engraft_abi::Module>(), size_of::<LibraryStatus>()];
        let size = sizes.iter().sum::<usize>() as u64 + 64;
        let arena = self.arena_near(self.objects.main().span(), [0, 0, size])?;
        let [module, status] = sizes.map(|size| self.take(arena, Part::Writable, size as u64, 8));
        let (module, status) = (module?.start, status?.start);
        let memory = &self.process.memory;
        memory.write(module, &crate::describe::describe_library(name))?;
        memory.write(status, &LibraryStatus::default())?;
        let library = Library { module, status };
        self.records
            .watch
            .libraries
            .insert(name.to_owned(), library);
        Ok(library)
    }

    pub(crate) fn read_library(&self, library: Library) -> Result<LibraryStatus, Error> {
        Ok(self.process.memory.read(library.status)?)
    }

    /// Whether a load is still, or again, the one that is there.
    pub(crate) fn is_current(&self, load: Option<Load>) -> bool {
        load.is_none_or(|load| {
            let now = self.process.memory.read::<u64>(load.status);
            now.is_ok_and(|now| now == load.number)
        })
    }

    /// The load of an object that is there now, if it is a library that is followed.
    pub(crate) fn current_load(&self, object: Option<&str>) -> Result<Option<Load>, Error> {
        let Some(library) = object.and_then(|name| self.library(name)) else {
            return Ok(None);
        };
        let status = self.read_library(library)?;
        Ok((status.watched != 0).then_some(Load {
            status: library.status,
            number: status.load,
        }))
    }

    /// How many libraries have come and gone so far.
    pub(crate) fn read_events(&self) -> Result<u64, Error> {
        if self.records.watch.hook.is_none() {
            return Ok(0);
        }
        let at = self.records.runtime.arrivals + offset_of!(Arrivals, events) as u64;
        Ok(self.process.memory.read(at)?)
    }

    /// Whether a thread is in a library that has come since the state was brought in line: the
    /// rules do not know yet what in it must not be left behind.
    pub(crate) fn is_in_newcomer(
        &self,
        state: &State,
        trace: Option<&Trace>,
    ) -> Result<bool, Error> {
        let Some(trace) = trace.filter(|_| self.records.watch.hook.is_some()) else {
            return Ok(false);
        };
        if self.is_in_line()? {
            return Ok(false);
        }
        for object in state.stack.iter().flat_map(|patch| &patch.objects) {
            let Some(library) = object.name.as_deref().and_then(|name| self.library(name)) else {
                continue;
            };
            let status = self.read_library(library)?;
            let is_new = status.load != 0 && !is_as_known(object, &status);
            let own = status.bias..status.end;
            let mut frames = trace.frames.iter();
            if is_new && frames.any(|frame| own.contains(&frame.lookup_pc)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether none has come or gone since the state was brought in line with what is there.
    pub(crate) fn is_in_line(&self) -> Result<bool, Error> {
        Ok(self.read_events()? == self.sighted)
    }
}

/// Whether the load that is there, if any, is the one that the state speaks of.
pub(crate) fn is_as_known(object: &Object, status: &LibraryStatus) -> bool {
    let there = (status.load != 0).then_some(status.load);
    object.loaded.then_some(object.load) == there
}

/// Shows objects as they are now: since the state was saved, libraries may have come and gone.
pub(crate) fn show_presence(memory: &Memory, state: &mut State, records: &Records) {
    let watch = &records.watch;
    for patch in &mut state.stack {
        let id = patch.id.0;
        for (index, object) in patch.objects.iter_mut().enumerate() {
            let library = object.name.as_deref().and_then(|name| watch.library(name));
            let status = library.map(|library| memory.read::<LibraryStatus>(library.status));
            let Some(Ok(status)) = status.filter(|status| {
                let status = status.as_ref();
                status.is_ok_and(|s| s.watched != 0 && !is_as_known(object, s))
            }) else {
                continue;
            };
            object.loaded = status.load != 0;
            object.patched = watch.part(id, index).is_some_and(|part| {
                let applied = memory.read::<ObjectStatus>(part.status());
                object.loaded && applied.is_ok_and(|applied| applied.load == status.load)
            });
        }
    }
}

/// Why a patch cannot name libraries here.
pub(crate) fn no_hook(reason: &str) -> Error {
    Error::other(
        "follow libraries that come and go",
        Errno::EOPNOTSUPP,
        reason.to_owned(),
    )
}
