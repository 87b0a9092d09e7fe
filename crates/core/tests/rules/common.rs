//! A simulated process with a driver, and short ways to write patches down.

use engraft_core::sim::{Killed, Process, all_callbacks, callback_address, func};
use engraft_core::{
    CallbackKind, Callbacks, Driver, Error, Impl, Level, NewObject, NewPatch, Order, Pass, Patch,
    PatchId, Progress, Refusal, RouteKind, State, SystemState, forbidden, routes,
};

pub(crate) type Outcome = Result<Progress, Refusal>;

pub(crate) struct Rig {
    pub(crate) process: Process,
    pub(crate) state: State,
    pub(crate) loads: u64,
}

/// An object: its name ("" is the main executable), functions, and whether it has callbacks.
#[derive(Clone)]
pub(crate) struct Obj(
    pub(crate) &'static str,
    pub(crate) &'static [usize],
    pub(crate) bool,
);

impl Rig {
    pub(crate) fn new() -> Self {
        let process = Process::new("vmlinux", 6, 2);
        let state = process.saved.clone();
        let loads = 0;
        Self {
            process,
            state,
            loads,
        }
    }

    pub(crate) fn drive(&mut self) -> Driver<'_, Process> {
        Driver::new(&mut self.state, &mut self.process)
    }

    pub(crate) fn patch(&mut self, name: &str, replace: bool, objects: &[Obj]) -> NewPatch {
        self.loads += 1;
        let load = self.loads;
        let object = |(index, obj): (usize, &Obj)| {
            let loaded = !obj.0.starts_with("absent");
            NewObject {
                name: (!obj.0.is_empty()).then(|| obj.0.to_owned()),
                loaded,
                load: 0,
                funcs: obj.1.iter().map(|f| func(load, *f, loaded)).collect(),
                callbacks: if obj.2 {
                    all_callbacks(load, index)
                } else {
                    Callbacks::default()
                },
                handle: 0,
            }
        };
        NewPatch {
            name: name.to_owned(),
            replace,
            replace_set: 0,
            objects: objects.iter().enumerate().map(object).collect(),
            states: Vec::new(),
            handle: 0,
        }
    }

    pub(crate) fn register_patch(&mut self, patch: NewPatch) -> Result<PatchId, Refusal> {
        let id = refusal(self.drive().register(patch.clone()))?;
        self.process.model.learn(id, patch);
        Ok(id)
    }

    /// Registers; the load number of callbacks is `self.loads`.
    pub(crate) fn register(&mut self, name: &str, replace: bool, objects: &[Obj]) -> PatchId {
        let patch = self.patch(name, replace, objects);
        self.register_patch(patch).unwrap()
    }

    pub(crate) fn register_with_states(
        &mut self,
        name: &str,
        replace: bool,
        function: &'static [usize],
        states: &[(u64, u32)],
    ) -> PatchId {
        let mut patch = self.patch(name, replace, &[Obj("", function, false)]);
        let state = |(id, version): &(u64, u32)| SystemState::plain(*id, *version);
        patch.states = states.iter().map(state).collect();
        self.register_patch(patch).unwrap()
    }

    pub(crate) fn load(&mut self, name: &str, replace: bool, objects: &[Obj]) -> Outcome {
        self.register(name, replace, objects);
        self.enable(name)
    }

    pub(crate) fn enable(&mut self, name: &str) -> Outcome {
        self.checked(|d| d.enable(name, Order::Reverse))
    }

    pub(crate) fn enable_any(&mut self, name: &str) -> Outcome {
        self.checked(|d| d.enable(name, Order::Any))
    }

    pub(crate) fn disable(&mut self, name: &str) -> Outcome {
        self.checked(|d| d.disable(name, Order::Reverse))
    }

    pub(crate) fn disable_any(&mut self, name: &str) -> Outcome {
        self.checked(|d| d.disable(name, Order::Any))
    }

    pub(crate) fn retry(&mut self) -> Outcome {
        self.checked(|d| d.retry())
    }

    pub(crate) fn force(&mut self) -> Outcome {
        self.checked(|d| d.force())
    }

    pub(crate) fn cancel(&mut self, name: &str) -> Outcome {
        self.checked(|d| d.cancel(name))
    }

    pub(crate) fn unload(&mut self, name: &str) -> Result<Patch, Refusal> {
        refusal(self.drive().unload(name))
    }

    fn checked(
        &mut self,
        run: impl FnOnce(&mut Driver<'_, Process>) -> Result<Progress, Error<Killed>>,
    ) -> Outcome {
        let result = refusal(run(&mut self.drive()));
        assert_eq!(self.state, self.process.saved);
        assert_eq!(self.process.violation, None);
        result
    }

    /// Kills the tool during `run` at the first point at which `found` holds.
    pub(crate) fn kill_when(
        &mut self,
        run: impl Fn(&mut Driver<'_, Process>) -> Result<Progress, Error<Killed>>,
        found: impl Fn(&Process) -> bool,
    ) {
        for more in 1..1000 {
            let (mut process, mut state) = (self.process.clone(), self.state.clone());
            process.kill_at = Some(process.steps + more);
            let result = run(&mut Driver::new(&mut state, &mut process));
            assert!(result.is_err(), "it ended before the point was found");
            if found(&process) {
                self.state = process.saved.clone();
                self.process = process;
                return;
            }
        }
    }

    /// Makes a callback of the patch registered last return `value`.
    pub(crate) fn veto(&mut self, object: usize, value: i32) {
        let address = callback_address(self.loads, object, CallbackKind::PrePatch);
        self.process.returns.insert(address, value);
    }

    /// Both logs merged in order; the lines about single threads left out.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut merged = Vec::new();
        let mut printed = self.process.printed.iter().enumerate().peekable();
        for line in self.state.log.lines() {
            while let Some((_, text)) =
                printed.next_if(|(index, _)| (*index as u64) < line.stamp.position)
            {
                merged.push(text.clone());
            }
            if !line.text.starts_with("klp_try_switch_task") {
                merged.push(line.to_string());
            }
        }
        merged.extend(printed.map(|(_, text)| text.clone()));
        merged
    }

    /// Asserts the whole log, in the notation of the selftest inventory with the patch's
    /// name in front: `D en`, `D pre(vmlinux)`.
    pub(crate) fn expect_log(&self, tokens: &[&str]) {
        let expected: Vec<String> = tokens.iter().map(|token| expand(token)).collect();
        assert_eq!(self.lines(), expected);
    }

    /// Whose code an idle thread enters: the patch's name, or "" for the original.
    pub(crate) fn runs(&mut self, function: usize) -> String {
        let id = self.process.selected(0, function);
        let patch = id.and_then(|id| self.state.patch(id));
        patch.map_or(String::new(), |p| p.name.clone())
    }

    pub(crate) fn stack(&self) -> Vec<&str> {
        self.state.stack.iter().map(|p| p.name.as_str()).collect()
    }

    pub(crate) fn replaced(&self) -> Vec<&str> {
        let names = self.state.replaced.iter().map(|p| p.name.as_str());
        names.collect()
    }

    pub(crate) fn named(&self, name: &str) -> &Patch {
        self.state.find(name).unwrap()
    }

    /// The route of a function as (unswitched, switched), equal when direct.
    pub(crate) fn route(&self, function: usize) -> Option<(String, String)> {
        let entry = engraft_core::sim::original(function).entry();
        let route = routes(&self.state)
            .into_iter()
            .find(|r| r.old.entry() == entry)?;
        let show = |implementation: &Impl| match implementation {
            Impl::Original => String::new(),
            Impl::New { patch, .. } => self.state.patch(*patch).unwrap().name.clone(),
        };
        Some(match &route.kind {
            RouteKind::Direct(one) => (show(one), show(one)),
            RouteKind::Select {
                unswitched,
                switched,
            } => (show(unswitched), show(switched)),
        })
    }

    pub(crate) fn levels(&self, text: &str) -> Vec<Level> {
        let lines = self.state.log.lines();
        let matching = lines.filter(|line| line.text.contains(text));
        matching.map(|line| line.level).collect()
    }
}

pub(crate) fn refusal<V>(result: Result<V, Error<Killed>>) -> Result<V, Refusal> {
    match result {
        Ok(value) => Ok(value),
        Err(Error::Refused(refusal)) => Err(refusal),
        Err(Error::Target(killed)) => panic!("{killed}"),
    }
}

fn expand(token: &str) -> String {
    let Some((name, what)) = token.split_once(' ') else {
        return format!("livepatch: {token}");
    };
    if let Some((kind, object)) = what.split_once('(') {
        let object = object.trim_end_matches(')');
        let kind = match kind {
            "pre" => "pre_patch",
            "post" => "post_patch",
            "unpre" => "pre_unpatch",
            "unpost" => "post_unpatch",
            _ => return format!("livepatch: {token}"),
        };
        return format!("{name}: {kind}_callback: {object}");
    }
    let text = match what {
        "en" => return format!("livepatch: enabling patch '{name}'"),
        "failed" => return format!("livepatch: failed to enable patch '{name}'"),
        "pi" => "initializing patching transition",
        "ps" => "starting patching transition",
        "pc" => "completing patching transition",
        "pd" => "patching complete",
        "ui" => "initializing unpatching transition",
        "us" => "starting unpatching transition",
        "uc" => "completing unpatching transition",
        "ud" => "unpatching complete",
        "can" => "canceling patching transition, going to unpatch",
        "rev" => "reversing transition from patching to unpatching",
        "unrev" => "reversing transition from unpatching to patching",
        _ => return format!("livepatch: {token}"),
    };
    format!("livepatch: '{name}': {text}")
}

pub(crate) const F: Obj = Obj("", &[0], true);
pub(crate) const FG: Obj = Obj("", &[0, 2], true);
pub(crate) const G: Obj = Obj("", &[2], true);

pub(crate) fn pair(unswitched: &str, switched: &str) -> Option<(String, String)> {
    Some((unswitched.to_owned(), switched.to_owned()))
}

pub(crate) fn waiting(progress: &Result<Progress, Refusal>) -> &Pass {
    match progress {
        Ok(Progress::Waiting(pass)) => pass,
        other => panic!("not waiting: {other:?}"),
    }
}

pub(crate) fn ranges(rig: &Rig) -> Vec<(u64, String)> {
    let all = forbidden(&rig.state).into_iter();
    all.map(|r| (r.start, r.old_name)).collect()
}
