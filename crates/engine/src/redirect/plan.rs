//! What a redirect needs, and the proof that it is safe. Nothing is changed here: the dry
//! run, the look before a load and the redirecting itself all ask this one place.

use engraft_arch::RegisterSet;
use engraft_arch::entry::{JUMP_LENGTH, plan_entry};
use engraft_arch::reliance::{CallIndex, Change, find_reliance, uses_stack_arguments};
use engraft_core::RouteFailure;
use engraft_elf::ReadMemory;
use nix::errno::Errno;

use super::Entry;
use crate::objects::{LoadedObject, Objects};
use crate::space::Span;

/// Bytes of filler behind a function that may be looked at.
const MAX_PADDING: u64 = 64;

/// `int3`.
const BREAKPOINT: u8 = 0xcc;

/// Plans redirects of the functions of one object.
pub(crate) struct Planner<'a> {
    pub(crate) memory: &'a dyn ReadMemory,
    pub(crate) objects: &'a Objects,
    pub(crate) object: &'a LoadedObject,
    /// The object's code as it was before anything was redirected.
    pub(crate) index: &'a CallIndex<'a>,
}

/// Code that is to run in place of the old function.
pub(crate) struct Implementation<'a> {
    pub(crate) entry: u64,
    /// All functions of its module, at their addresses.
    pub(crate) module: &'a CallIndex<'a>,
    /// Old functions that the same patch replaces.
    pub(crate) together: &'a [u64],
    /// A compiler has seen it together with its callers, whose code is the same as that of
    /// the running ones: what they rely on, it keeps.
    pub(crate) compiled_with_callers: bool,
}

/// What has to be placed for a redirect.
pub(crate) struct Redirect {
    /// How the entry is overwritten; `None` when that is settled already.
    pub(crate) entry: Option<engraft_arch::entry::Entry>,
    /// Registers to preserve around each implementation, in the order asked for. `None`: its
    /// callers need no thunk.
    pub(crate) preserved: Vec<Option<RegisterSet>>,
}

/// Why a function cannot be redirected.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) errno: Errno,
    pub(crate) reason: String,
}

impl Unfit {
    pub(crate) fn new(errno: Errno, reason: impl ToString) -> Self {
        Self {
            errno,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn of_function(self, object: Option<&str>, function: &str) -> RouteFailure {
        RouteFailure {
            object: object.map(str::to_owned),
            function: function.to_owned(),
            errno: self.errno as i32,
            reason: self.reason,
        }
    }
}

impl Planner<'_> {
    /// Plans the redirect of `function` to the implementations given. `known` is its entry,
    /// if it was planned before.
    pub(crate) fn plan(
        &self,
        function: Span,
        known: Option<&Entry>,
        implementations: &[Implementation<'_>],
    ) -> Result<Redirect, Unfit> {
        let entry = match known {
            Some(_) => None,
            None => Some(self.plan_entry(function)?),
        };
        let preserved = implementations
            .iter()
            .map(|implementation| self.find_preserved(function.start, implementation))
            .collect::<Result<_, _>>()?;
        Ok(Redirect { entry, preserved })
    }

    /// The entry takes a jump, and nobody jumps into the bytes that it overwrites.
    fn plan_entry(&self, function: Span) -> Result<engraft_arch::entry::Entry, Unfit> {
        let padding = self.padding_behind(function)?;
        let mut code = vec![0; (function.size + padding) as usize];
        self.memory
            .read(function.start, &mut code)
            .map_err(|error| Unfit::new(Errno::EFAULT, error))?;
        let read = |address: u64, buffer: &mut [u8]| self.memory.read(address, buffer).is_ok();
        let entry = plan_entry(function.start, &code, function.size as usize, &read)
            .map_err(|error| Unfit::new(Errno::EINVAL, error.kind))?;
        if entry.original.first() == Some(&BREAKPOINT) {
            let reason = "its first instruction is a breakpoint: a debugger or probe has set it; \
                          remove the breakpoint and try again";
            return Err(Unfit::new(Errno::EBUSY, reason));
        }
        let behind_first = entry.site + 1..entry.site + JUMP_LENGTH as u64;
        if let Some(branch) = self.index.branches_into(behind_first).first() {
            let reason = format!(
                "{} jumps to {:#x}, inside the bytes to be overwritten; patch its callers instead",
                self.name_of(branch.address),
                branch.target
            );
            return Err(Unfit::new(Errno::EINVAL, reason));
        }
        Ok(entry)
    }

    fn padding_behind(&self, function: Span) -> Result<u64, Unfit> {
        let segment = self.object.image.segment_at(function.start);
        let end = segment.map_or(0, |segment| segment.range().end);
        if function
            .start
            .checked_add(function.size)
            .is_none_or(|last| last > end)
        {
            let reason = "it reaches beyond the object's code; check the symbol's size";
            return Err(Unfit::new(Errno::EINVAL, reason));
        }
        let next = self.object.symbols().next_symbol_after(function.start);
        let next = next.map_or(end, |next| next.min(end));
        Ok(next.saturating_sub(function.end()).min(MAX_PADDING))
    }

    /// The registers beyond the calling convention that callers rely on (gcc -fipa-ra) and
    /// that the implementation does not keep.
    fn find_preserved(
        &self,
        function: u64,
        implementation: &Implementation<'_>,
    ) -> Result<Option<RegisterSet>, Unfit> {
        if implementation.compiled_with_callers {
            return Ok(None);
        }
        let read = |address: u64, buffer: &mut [u8]| self.memory.read(address, buffer).is_ok();
        let change = Change {
            object: self.index,
            old: function,
            replacing: implementation.module,
            new: implementation.entry,
            replaced_together: implementation.together,
        };
        let reliance = find_reliance(&change, &read);
        if reliance.is_empty() {
            return Ok(None);
        }
        let site = reliance.sites.first().map_or_else(String::new, |site| {
            format!(" (for instance at {})", self.name_of(*site))
        });
        let refuse = |what: &str| {
            let reason = format!(
                "callers compiled with -fipa-ra rely on registers that its replacement changes{site}, and {what}; \
                 replace the callers, too, or keep the replacement as small as the original"
            );
            Err(Unfit::new(Errno::EINVAL, reason))
        };
        if !reliance.wide.is_empty() {
            return refuse("they are wider than 128 bits");
        }
        if uses_stack_arguments(implementation.module, implementation.entry, &read) {
            return refuse("it takes arguments on the stack");
        }
        Ok(Some(reliance.registers))
    }

    fn name_of(&self, address: u64) -> String {
        self.objects
            .describe(address)
            .unwrap_or_else(|| format!("{address:#x}"))
    }
}
