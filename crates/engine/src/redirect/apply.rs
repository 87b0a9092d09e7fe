//! From routes to slots and jumps.

use std::collections::BTreeMap;

use engraft_arch::stub::encode_selector;
use engraft_core::{Impl, Phase, Route, RouteFailure, RouteKind, State, Universe, routes};
use nix::errno::Errno;

use super::entry::fail;
use super::rewrite::{Edit, Obstacle};
use super::{Entry, Selector, rows_of};
use crate::arena::Part;
use crate::arrivals::Load;
use crate::error::Error;
use crate::live::Live;

/// The instruction of a breakpoint.
const INT3: u8 = 0xcc;

fn is_covered(found: [u8; 5], jump: [u8; 5]) -> bool {
    let pairs = found.iter().zip(jump);
    pairs
        .into_iter()
        .all(|(found, jump)| *found == jump || *found == INT3)
}

/// What lies at an entry's site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtSite {
    Original,
    Jump,
    /// Our jump with somebody's breakpoint in it.
    Covered([u8; 5]),
    Foreign([u8; 5]),
    /// Nothing is mapped there any more: the library is gone.
    Gone,
}

impl Live<'_> {
    /// Makes the target's code match the routes of `state`; see [`engraft_core::Target`].
    pub(crate) fn match_routes(
        &mut self,
        state: &State,
    ) -> Result<Result<(), RouteFailure>, Error> {
        let in_line = self.routes_in_line(state)?;
        let loads: BTreeMap<u64, Option<Load>> = in_line
            .iter()
            .map(|(route, load)| (route.old.entry(), *load))
            .collect();
        let routes: Vec<Route> = in_line.into_iter().map(|(route, _)| route).collect();
        let token = state
            .transition
            .as_ref()
            .map_or(0, |transition| transition.token.value());
        if let Err(failure) = self.prepare_redirects(&routes, &loads)? {
            return Ok(Err(failure));
        }
        let mut values = BTreeMap::new();
        for route in &routes {
            match self.destination(route, token)? {
                Ok(value) => {
                    values.insert(route.old.entry(), value);
                }
                Err(failure) => return Ok(Err(failure)),
            }
        }
        self.announce_frames(state)?;
        // Memory is recorded before anything leads into it.
        self.save_records(state)?;
        self.write_slots(&values)?;
        let edits = match self.plan_edits(state, &routes)? {
            Ok(edits) => edits,
            Err(failure) => return Ok(Err(failure)),
        };
        if !edits.is_empty()
            && let Err(obstacle) = self.rewrite_entries(&edits)?
        {
            return Ok(Err(self.explain(&routes, &obstacle)));
        }
        self.drop_old_selectors(state);
        Ok(Ok(()))
    }

    /// The routes of what is as the state says: a library that has come or gone since is the
    /// runtime's.
    fn routes_in_line(&self, state: &State) -> Result<Vec<(Route, Option<Load>)>, Error> {
        let mut in_line = Vec::new();
        for route in routes(state) {
            let name = route.object.as_deref();
            let load = self.current_load(name)?;
            let number = load.map(|load| load.number);
            let objects = state.stack.iter().flat_map(|patch| &patch.objects);
            let mut same = objects.filter(|object| object.name.as_deref() == name);
            if number.is_none() || same.all(|object| Some(object.load) == number) {
                in_line.push((route, load));
            }
        }
        Ok(in_line)
    }

    /// Where an entry's slot has to lead for this route.
    fn destination(
        &mut self,
        route: &Route,
        token: u64,
    ) -> Result<Result<u64, RouteFailure>, Error> {
        match &route.kind {
            RouteKind::Direct(implementation) => Ok(Ok(self.address_of(route, implementation))),
            RouteKind::Select {
                unswitched,
                switched,
            } => {
                let unswitched = self.address_of(route, unswitched);
                let switched = self.address_of(route, switched);
                self.ensure_selector(route, token, unswitched, switched)
            }
        }
    }

    fn address_of(&self, route: &Route, implementation: &Impl) -> u64 {
        let entry = &self.records.entries[&route.old.entry()];
        match implementation {
            Impl::Original => entry.copy.start,
            Impl::New { code, .. } => entry
                .thunks
                .iter()
                .find(|thunk| thunk.implementation == code.entry())
                .map_or(code.entry(), |thunk| thunk.span.start),
        }
    }

    fn ensure_selector(
        &mut self,
        route: &Route,
        token: u64,
        unswitched: u64,
        switched: u64,
    ) -> Result<Result<u64, RouteFailure>, Error> {
        let function = route.old.entry();
        let existing = self.records.selectors.iter().find(|selector| {
            selector.function == function
                && selector.token == token
                && (selector.unswitched, selector.switched) == (unswitched, switched)
        });
        if let Some(selector) = existing {
            return Ok(Ok(selector.span.start));
        }
        let number = u32::try_from(token).unwrap_or(u32::MAX);
        let stub = match encode_selector(number, unswitched, switched) {
            Ok(stub) => stub,
            Err(error) => return Ok(Err(fail(route, Errno::EINVAL, error))),
        };
        let near = self.records.entries[&function].router;
        let arena = self.arena_near(near, [0, stub.code.len() as u64, 0])?;
        let span = self.take(arena, Part::Executable, stub.code.len() as u64, 16)?;
        self.process.memory.write_bytes(span.start, &stub.code)?;
        let rows = rows_of(&stub);
        self.records.selectors.push(Selector {
            function,
            token,
            unswitched,
            switched,
            span,
            rows,
        });
        Ok(Ok(span.start))
    }

    fn write_slots(&self, values: &BTreeMap<u64, u64>) -> Result<(), Error> {
        for (function, entry) in &self.records.entries {
            if !self.is_current(entry.load) {
                continue;
            }
            let value = values.get(function).copied().unwrap_or(entry.copy.start);
            if self.process.memory.read::<u64>(entry.slot)? != value {
                self.process.memory.write(entry.slot, &value)?;
            }
        }
        Ok(())
    }

    /// Jumps that are missing, and entries whose function is no longer patched.
    ///
    /// What others have written over an entry is in the way only of a transition that begins
    /// to use it, or when the jump beneath has to go.
    fn plan_edits(
        &self,
        state: &State,
        routes: &[Route],
    ) -> Result<Result<Vec<Edit>, RouteFailure>, Error> {
        let transition = state
            .transition
            .as_ref()
            .filter(|t| t.phase == Phase::Installing);
        let arriving = transition.is_some_and(|t| t.target == Universe::Patched);
        let mut edits = Vec::new();
        for entry in self.records.entries.values() {
            if !self.is_current(entry.load) {
                continue;
            }
            let route = routes
                .iter()
                .find(|route| route.old.entry() == entry.function);
            let begins = transition.is_some()
                && route.is_some_and(|route| matches!(route.kind, RouteKind::Select { .. }));
            match (self.look_at_site(entry)?, route) {
                (AtSite::Original, Some(_)) => edits.push(self.edit(entry, true)),
                (AtSite::Jump, None) => edits.push(self.edit(entry, false)),
                (AtSite::Covered(found), _) if begins || route.is_none() => {
                    return Ok(Err(self.explain_foreign(routes, entry, found)));
                }
                (AtSite::Foreign(found), Some(_)) if begins && arriving => {
                    return Ok(Err(self.explain_foreign(routes, entry, found)));
                }
                (AtSite::Gone, Some(route)) if begins && arriving => {
                    let reason = "its library is gone; unload the patch and load it again";
                    return Ok(Err(fail(route, Errno::ENODEV, reason)));
                }
                _ => {}
            }
        }
        Ok(Ok(edits))
    }

    fn explain_foreign(&self, routes: &[Route], entry: &Entry, found: [u8; 5]) -> RouteFailure {
        let function = entry.function;
        self.explain(routes, &Obstacle::Foreign { function, found })
    }

    fn edit(&self, entry: &Entry, install: bool) -> Edit {
        let (jump, original) = (entry.jump().unwrap_or_default(), entry.overwritten());
        let interior = entry
            .interior
            .iter()
            .map(|pc| (*pc, entry.copy_of(*pc)))
            .collect();
        Edit {
            function: entry.function,
            site: entry.site,
            expected: if install { original } else { jump },
            wanted: if install { jump } else { original },
            interior: if install { interior } else { Vec::new() },
        }
    }

    fn look_at_site(&self, entry: &Entry) -> Result<AtSite, Error> {
        if self.objects.containing(entry.site).is_none() {
            return Ok(AtSite::Gone);
        }
        let mut found = [0; 5];
        self.process.memory.read_bytes(entry.site, &mut found)?;
        let jump = entry.jump();
        Ok(if found == entry.overwritten() {
            AtSite::Original
        } else if Some(found) == jump {
            AtSite::Jump
        } else if jump.is_some_and(|jump| is_covered(found, jump)) {
            AtSite::Covered(found)
        } else {
            AtSite::Foreign(found)
        })
    }

    fn explain(&self, routes: &[Route], obstacle: &Obstacle) -> RouteFailure {
        let (function, reason) = match obstacle {
            Obstacle::Foreign { function, found } => {
                let what = if found.contains(&INT3) {
                    " (a breakpoint)"
                } else {
                    ""
                };
                let reason = format!(
                    "its first bytes are {found:02x?}{what}: somebody else has changed them; \
                     remove the breakpoint or other patch and try again"
                );
                (function, reason)
            }
            Obstacle::Occupied { function, tid } => (
                function,
                format!("thread {tid} stands inside the bytes to be overwritten; try again"),
            ),
            Obstacle::Restless { function, tid } => (
                function,
                format!("thread {tid} does not stop; try again when the machine is less busy"),
            ),
            Obstacle::Lent { function, tid } => (
                function,
                format!(
                    "thread {tid} waits for a process that it has started with vfork, which runs \
                     in the same memory until it calls execve or ends; try again"
                ),
            ),
        };
        let route = routes.iter().find(|route| route.old.entry() == *function);
        let entry = self.records.entries.get(function);
        RouteFailure {
            object: route.and_then(|route| route.object.clone()),
            function: route
                .map(|route| route.old_name.clone())
                .or(entry.map(|entry| entry.name.clone()))
                .unwrap_or_default(),
            errno: Errno::EBUSY as i32,
            reason,
        }
    }

    /// Gives back selectors of earlier transitions once this one has moved every thread: each
    /// was seen outside them when it was switched. A reversed or forced transition has not
    /// looked at every thread.
    fn drop_old_selectors(&mut self, state: &State) {
        let Some(transition) = &state.transition else {
            return;
        };
        let checked = transition.phase == Phase::Settling
            && transition.target == transition.initial_target
            && !transition.forcing;
        if !checked {
            return;
        }
        let current = transition.token.value();
        let selectors = std::mem::take(&mut self.records.selectors);
        let (keep, old) = selectors
            .into_iter()
            .partition(|selector| selector.token == current);
        self.records.selectors = keep;
        let old: Vec<Selector> = old;
        for selector in old {
            self.give(selector.span);
        }
    }
}
