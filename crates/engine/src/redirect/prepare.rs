//! From routes to what their redirects need: everything is planned and proven first, then
//! placed.

use std::collections::BTreeMap;

use engraft_arch::reliance::CallIndex;
use engraft_core::{Code, Impl, PatchId, Route, RouteFailure, RouteKind};
use nix::errno::Errno;

use super::entry::fail;
use super::plan::{Implementation, Planner, Redirect};
use super::text::Text;
use crate::arrivals::Load;
use crate::database::Module;
use crate::error::Error;
use crate::live::Live;
use crate::objects::LoadedObject;
use crate::space::Span;

/// A route, the implementations that nothing is known about yet, and the plan for them.
struct Planned<'r> {
    route: &'r Route,
    implementations: Vec<u64>,
    redirect: Redirect,
}

impl Live<'_> {
    /// Makes sure that every routed function has router, slot and displaced prologue, and
    /// every implementation the thunk that callers need, if any. Functions are not touched.
    pub(super) fn prepare_redirects(
        &mut self,
        routes: &[Route],
        loads: &BTreeMap<u64, Option<Load>>,
    ) -> Result<Result<(), RouteFailure>, Error> {
        let planned = match self.plan_redirects(routes)? {
            Ok(planned) => planned,
            Err(failure) => return Ok(Err(failure)),
        };
        for one in planned {
            if let Err(failure) = self.place_redirect(one, loads)? {
                return Ok(Err(failure));
            }
        }
        Ok(Ok(()))
    }

    fn plan_redirects<'r>(
        &self,
        routes: &'r [Route],
    ) -> Result<Result<Vec<Planned<'r>>, RouteFailure>, Error> {
        let unprepared: Vec<&Route> = routes.iter().filter(|r| !self.is_prepared(r)).collect();
        let module_texts = self.read_module_texts(&unprepared)?;
        let modules: Vec<CallIndex<'_>> = module_texts.values().map(Text::index).collect();
        let modules: BTreeMap<u64, &CallIndex<'_>> =
            module_texts.keys().copied().zip(&modules).collect();
        let together = group_by_patch(routes);
        let mut planned = Vec::new();
        for (object, routes) in self.group_by_object(&unprepared) {
            let Some(object) = object else {
                let reason =
                    "its object is not mapped any more; disable the patch and load it again";
                return Ok(Err(fail(routes[0], Errno::ENOENT, reason)));
            };
            let text = Text::of_object(self.process, object, self.records.entries.values())?;
            let index = text.index();
            let planner = Planner {
                memory: &self.process.memory,
                objects: &self.objects,
                object,
                index: &index,
            };
            for route in routes {
                let unexamined: Vec<(PatchId, &Code)> = self.unexamined(route).collect();
                // Code of no module of ours has no callers that know it.
                let implementations: Vec<Implementation<'_>> = unexamined
                    .iter()
                    .filter_map(|(patch, code)| {
                        let module = self.module_at(code.entry())?;
                        Some(Implementation {
                            entry: code.entry(),
                            module: modules.get(&module.text.start)?,
                            together: &together[patch],
                            compiled_with_callers: module.built,
                        })
                    })
                    .collect();
                let function = Span {
                    start: route.old.body.start,
                    size: route.old.body.len,
                };
                let known = self.records.entries.get(&function.start);
                match planner.plan(function, known, &implementations) {
                    Ok(redirect) => planned.push(Planned {
                        route,
                        implementations: implementations.iter().map(|i| i.entry).collect(),
                        redirect,
                    }),
                    Err(unfit) => {
                        let object = route.object.as_deref();
                        return Ok(Err(unfit.of_function(object, &route.old_name)));
                    }
                }
            }
        }
        Ok(Ok(planned))
    }

    fn place_redirect(
        &mut self,
        planned: Planned<'_>,
        loads: &BTreeMap<u64, Option<Load>>,
    ) -> Result<Result<(), RouteFailure>, Error> {
        let Planned {
            route,
            implementations,
            redirect,
        } = planned;
        if let Some(entry) = redirect.entry
            && let Err(failure) = self.place_entry(route, entry, loads[&route.old.entry()])?
        {
            return Ok(Err(failure));
        }
        for (implementation, registers) in implementations.into_iter().zip(redirect.preserved) {
            let thunk = match registers {
                None => None,
                Some(registers) => match self.place_thunk(route, implementation, registers)? {
                    Ok(thunk) => Some(thunk),
                    Err(failure) => return Ok(Err(failure)),
                },
            };
            if let Some(entry) = self.records.entries.get_mut(&route.old.entry()) {
                entry.examined.push(implementation);
                entry.thunks.extend(thunk);
            }
        }
        Ok(Ok(()))
    }

    fn is_prepared(&self, route: &Route) -> bool {
        self.records.entries.contains_key(&route.old.entry())
            && self.unexamined(route).next().is_none()
    }

    /// Implementations of which it is not known yet whether they need a thunk.
    fn unexamined<'r>(&self, route: &'r Route) -> impl Iterator<Item = (PatchId, &'r Code)> {
        let entry = self.records.entries.get(&route.old.entry());
        new_implementations(route)
            .filter(move |(_, code)| !entry.is_some_and(|e| e.examined.contains(&code.entry())))
    }

    fn module_at(&self, address: u64) -> Option<&Module> {
        let mut modules = self.records.modules.iter();
        modules.find(|module| module.text.contains(address))
    }

    /// Code of the modules that the routes lead into, by its address.
    fn read_module_texts(&self, routes: &[&Route]) -> Result<BTreeMap<u64, Text>, Error> {
        let mut texts = BTreeMap::new();
        for module in &self.records.modules {
            let leads_here = |route: &&Route| {
                self.unexamined(route)
                    .any(|(_, code)| module.text.contains(code.entry()))
            };
            if routes.iter().any(leads_here) {
                let mut bytes = vec![0; module.text.size as usize];
                let start = module.text.start;
                self.process.memory.read_bytes(start, &mut bytes)?;
                let functions = module.functions.iter().map(|f| f.span).collect();
                texts.insert(start, Text::in_one_piece(start, bytes, functions));
            }
        }
        Ok(texts)
    }

    fn group_by_object<'r>(
        &self,
        routes: &[&'r Route],
    ) -> Vec<(Option<&LoadedObject>, Vec<&'r Route>)> {
        let mut groups: BTreeMap<Option<u64>, (Option<&LoadedObject>, Vec<&Route>)> =
            BTreeMap::new();
        for route in routes {
            let object = self.objects.containing(route.old.entry());
            let place = object.map(|object| object.image.header_address);
            let group = groups.entry(place).or_insert((object, Vec::new()));
            group.1.push(route);
        }
        groups.into_values().collect()
    }
}

/// The old functions that each patch replaces.
fn group_by_patch(routes: &[Route]) -> BTreeMap<PatchId, Vec<u64>> {
    let mut groups: BTreeMap<PatchId, Vec<u64>> = BTreeMap::new();
    for route in routes {
        for (patch, _) in new_implementations(route) {
            groups.entry(patch).or_default().push(route.old.entry());
        }
    }
    groups
}

fn new_implementations(route: &Route) -> impl Iterator<Item = (PatchId, &Code)> {
    let both = match &route.kind {
        RouteKind::Direct(one) => [Some(one), None],
        RouteKind::Select {
            unswitched,
            switched,
        } => [Some(unswitched), Some(switched)],
    };
    both.into_iter()
        .flatten()
        .filter_map(|implementation| match implementation {
            Impl::Original => None,
            Impl::New { patch, code } => Some((*patch, code)),
        })
}
