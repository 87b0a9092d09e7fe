//! Random scenarios: patches, operations, faults.

use super::process::{Chaos, Killed, Process};
use super::random::Random;
use super::{all_callbacks, audit, check_log, effects, forecast, func, number_of};
use crate::{
    CallbackKind, Callbacks, Driver, Error, Func, NewObject, NewPatch, Order, Phase, Progress,
    State, Universe,
};

/// Functions of the simulated program; the first half lies in the main executable, the others
/// in a library.
const FUNCTIONS: usize = 4;

const LIBRARY: &str = "libx.so";

/// One step of a scenario. Numbers choose a patch, function or amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Operation {
    Register(usize),
    Enable(usize, bool),
    Disable(usize, bool),
    Retry,
    Force,
    Unload(usize),
    Cancel(usize),
    /// pre_patch callbacks of this object of all loaded patches fail from now on.
    Veto(usize),
    /// Those of this state do.
    VetoState(usize),
    /// They succeed again.
    Assent,
    /// The entry of a function can no longer be changed, for one reason or the other.
    Take(usize, bool),
    /// All can.
    GiveBack,
    /// Threads call and return.
    Act(usize),
    /// So many seconds pass.
    Wait(usize),
    /// The library is loaded.
    Come,
    /// It is unloaded.
    Go,
}

/// A scenario: everything that happens follows from it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Seed of the threads' behaviour and of the faults.
    pub seed: u64,
    /// Patches to choose from.
    pub patches: Vec<NewPatch>,
    /// What is done.
    pub operations: Vec<Operation>,
    /// Chance of a kill at an effect, in percent.
    pub kill: usize,
    /// The library is there at the start.
    pub loaded: bool,
    /// It comes and goes by itself.
    pub restless: bool,
}

impl Plan {
    /// The scenario of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let loaded = random.chance(70);
        let count = 2 + random.below(3);
        let sets = random.chance(25);
        let patches = (0..count)
            .map(|n| random_patch(&mut random, n, loaded, sets))
            .collect();
        let mut operations: Vec<Operation> = (0..count).map(Operation::Register).collect();
        let length = 6 + random.below(30);
        operations.extend((0..length).map(|_| random_operation(&mut random, count)));
        let kill = [0, 1, 5][random.below(3)];
        let restless = random.chance(50);
        Self {
            loaded,
            restless,
            seed,
            patches,
            operations,
            kill,
        }
    }

    /// Runs the scenario.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn run(&self) -> Result<(), String> {
        let mut run = Run::new(self);
        for (index, operation) in self.operations.iter().enumerate() {
            run.perform(*operation)
                .and_then(|()| run.check())
                .map_err(|text| format!("operation {index} ({operation:?}): {text}"))?;
        }
        run.wind_up().map_err(|text| format!("winding up: {text}"))
    }
}

fn random_patch(random: &mut Random, number: usize, loaded: bool, sets: bool) -> NewPatch {
    let replace_set = u32::from(sets && random.chance(50));
    // Patches of two sets that share a function are refused: that is to be rare.
    let may_have = |random: &mut Random, function: usize| {
        !sets || function % 2 == replace_set as usize || random.chance(10)
    };
    let mut objects = Vec::new();
    for library in [false, true] {
        let half = FUNCTIONS / 2;
        let functions = if library { half..FUNCTIONS } else { 0..half };
        let chosen = |f: &usize| random.chance(45) && may_have(random, *f);
        let funcs: Vec<usize> = functions.filter(chosen).collect();
        let with_callbacks = random.chance(60);
        if funcs.is_empty() && !with_callbacks {
            continue;
        }
        let loaded = loaded || !library;
        let mut callbacks = Callbacks::default();
        if with_callbacks {
            callbacks = all_callbacks(0, objects.len());
            for slot in [&mut callbacks.pre_patch, &mut callbacks.post_unpatch] {
                if random.chance(25) {
                    *slot = None;
                }
            }
        }
        objects.push(NewObject {
            name: library.then(|| LIBRARY.to_owned()),
            loaded,
            load: 0,
            funcs: funcs
                .into_iter()
                .map(|f| random_func(random, f, loaded, !sets))
                .collect(),
            callbacks,
            handle: 0,
        });
    }
    if objects.is_empty() {
        objects.push(NewObject {
            name: None,
            loaded: true,
            load: 0,
            funcs: vec![func(0, 0, true)],
            callbacks: Callbacks::default(),
            handle: 0,
        });
    }
    if random.chance(20) {
        objects.reverse();
    }
    NewPatch {
        name: format!("patch{number}"),
        replace: random.chance(45),
        replace_set,
        objects,
        states: effects::random_states(random, replace_set),
        handle: 0,
    }
}

/// Positions 0 and 1 mean the same function, and so do two names of one address.
fn random_func(random: &mut Random, number: usize, loaded: bool, aliases: bool) -> Func {
    let mut func = func(0, number, loaded);
    func.old_sympos = random.below(2) as u64;
    if loaded && aliases && random.chance(15) {
        func.old_name = format!("g{number}");
    }
    func
}

fn random_operation(random: &mut Random, patches: usize) -> Operation {
    let patch = random.below(patches);
    match random.below(41) {
        0..3 => Operation::Register(patch),
        3..10 => Operation::Enable(patch, random.chance(40)),
        10..16 => Operation::Disable(patch, random.chance(40)),
        16..22 => Operation::Retry,
        22 => Operation::Force,
        23..26 => Operation::Unload(patch),
        26 => Operation::Cancel(patch),
        27 => Operation::Veto(random.below(2)),
        40 => Operation::VetoState(random.below(4)),
        28 => Operation::Assent,
        29..32 => Operation::Take(random.below(FUNCTIONS), random.chance(70)),
        32 => Operation::GiveBack,
        33 => Operation::Wait(1 + random.below(20)),
        34 | 35 => Operation::Come,
        36 | 37 => Operation::Go,
        _ => Operation::Act(1 + random.below(12)),
    }
}

struct Run<'a> {
    plan: &'a Plan,
    process: Process,
    state: State,
    loads: u64,
    killed: bool,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan) -> Self {
        let mut process = Process::new("program", FUNCTIONS, 2);
        process.chaos = Some(Chaos {
            random: Random::new(plan.seed ^ 0x5eed),
            kill: plan.kill,
            evade: [3, 40][(plan.seed % 2) as usize],
            activity: 40,
            library: Some((LIBRARY, FUNCTIONS / 2)),
            restless: plan.restless,
        });
        process.add_library(LIBRARY, FUNCTIONS / 2..FUNCTIONS, plan.loaded);
        let state = process.saved.clone();
        Self {
            plan,
            process,
            state,
            loads: 0,
            killed: false,
        }
    }

    fn perform(&mut self, operation: Operation) -> Result<(), String> {
        let name = |number: usize| self.plan.patches[number].name.clone();
        match operation {
            Operation::Register(number) => self.register(number),
            Operation::Unload(number) => self.unload(&name(number)),
            Operation::Cancel(number) => self.cancel(&name(number)),
            Operation::Enable(number, any) => {
                let name = name(number);
                self.operate(
                    |process| {
                        let to_top = forecast::is_to_top(process, &name, any);
                        (forecast::enable(process, &name, any), to_top)
                    },
                    |driver| driver.enable(&name, order(any)),
                )
            }
            Operation::Disable(number, any) => {
                let name = name(number);
                self.operate(
                    |process| (forecast::disable(process, &name, any), false),
                    |driver| driver.disable(&name, order(any)),
                )
            }
            Operation::Retry => self.operate(|_| (Ok(()), false), |driver| driver.retry()),
            Operation::Force => {
                self.operate(|p| (forecast::force(p), false), |driver| driver.force())
            }
            Operation::Veto(object) => {
                let callbacks = forecast::pre_patches(self.loads, object);
                self.process.returns.extend(callbacks.map(|at| (at, -19)));
                Ok(())
            }
            Operation::VetoState(number) => {
                let id = effects::FOLLOWED + number as u64;
                let callbacks =
                    (0..=self.loads).filter_map(|load| effects::callbacks_of(load, id).pre_patch);
                self.process.returns.extend(callbacks.map(|at| (at, -17)));
                Ok(())
            }
            Operation::Assent => {
                self.process.returns.clear();
                Ok(())
            }
            Operation::Take(function, busy) => {
                let entry = super::original(function).entry();
                let errno = if busy {
                    forecast::EBUSY
                } else {
                    forecast::EINVAL
                };
                self.process.taken.insert(entry, errno);
                Ok(())
            }
            Operation::GiveBack => {
                self.process.taken.clear();
                Ok(())
            }
            Operation::Act(times) => {
                self.process.act(times);
                Ok(())
            }
            Operation::Come => {
                self.process.come(LIBRARY);
                Ok(())
            }
            Operation::Go => {
                self.process.go(LIBRARY);
                Ok(())
            }
            Operation::Wait(seconds) => {
                self.process.clock += seconds as u64 * 1_000_000_000;
                Ok(())
            }
        }
    }

    /// Performs an operation and compares its answer with what was to be expected. The forecast
    /// also says whether the patch is to move to the top.
    fn operate(
        &mut self,
        forecast: impl Fn(&Process) -> (forecast::Answer, bool),
        perform: impl Fn(&mut Driver<'_, Process>) -> Result<Progress, Error<Killed>>,
    ) -> Result<(), String> {
        // What was interrupted is finished first, as by every one of these operations.
        let recovered = Driver::new(&mut self.state, &mut self.process).recover();
        self.settle_accounts(&recovered)?;
        if self.killed {
            return Ok(());
        }
        let events = self.process.libraries.events;
        let (expected, to_top) = forecast(&self.process);
        // Whether two patches share a function depends on the library's being there.
        self.process.model.to_top = (!self.plan.restless).then_some(to_top);
        let result = perform(&mut Driver::new(&mut self.state, &mut self.process));
        self.settle_accounts(&result)?;
        let answer = match result {
            Err(Error::Target(Killed)) => return Ok(()),
            Err(Error::Refused(refusal)) => Err(refusal.errno()),
            Ok(progress) => {
                let is_running = matches!(
                    progress,
                    Progress::InTransition | Progress::Waiting(_) | Progress::Stuck(_)
                );
                if is_running != self.state.transition.is_some() {
                    return Err(format!("{progress:?}, but {:?}", self.state.transition));
                }
                Ok(())
            }
        };
        // An object that comes meanwhile can be in the way, one that goes can not be any more.
        if answer == expected || self.process.libraries.events != events {
            return Ok(());
        }
        Err(format!("answered {answer:?} instead of {expected:?}"))
    }

    /// A killed tool loses what it had in memory, which was the state before or after the
    /// save that it was killed in.
    fn settle_accounts<V>(&mut self, result: &Result<V, Error<Killed>>) -> Result<(), String> {
        let process = &self.process;
        self.killed = matches!(result, Err(Error::Target(Killed)));
        let may_lag = self.killed && self.state == process.before;
        if self.state != process.saved && !may_lag {
            return Err("the state in memory is not the one saved".to_owned());
        }
        self.state = process.saved.clone();
        Ok(())
    }

    fn register(&mut self, number: usize) -> Result<(), String> {
        self.loads += 1;
        let load = self.process.libraries.load(LIBRARY);
        let patch = loaded_as(&self.plan.patches[number], self.loads, load);
        let expected = forecast::register(&self.process, &patch);
        let before = self.state.clone();
        let result = Driver::new(&mut self.state, &mut self.process).register(patch.clone());
        self.settle_accounts(&result)?;
        let after = &self.process.saved;
        if let Some(top) = after.stack.last()
            && audit::are_same(&after.stack[..after.stack.len() - 1], &before.stack)
            && expected.is_ok()
        {
            self.process.model.learn(top.id, patch);
        } else if !audit::are_same(&after.stack, &before.stack) {
            return Err("registering changed the stack".to_owned());
        }
        self.compare(result.map(|_| ()), expected)
    }

    fn unload(&mut self, name: &str) -> Result<(), String> {
        let expected = forecast::unload(&self.process, name);
        let before = self.state.clone();
        let result = Driver::new(&mut self.state, &mut self.process).unload(name);
        self.settle_accounts(&result)?;
        let mut without = before.clone();
        without.stack.retain(|patch| patch.name != name);
        without.replaced.retain(|patch| patch.name != name);
        let (is_same, is_gone) = (self.state == before, self.state == without);
        if !(is_same && (expected.is_err() || self.killed) || is_gone && expected.is_ok()) {
            return Err("unloading changed something else".to_owned());
        }
        self.compare(result.map(|_| ()), expected)
    }

    fn cancel(&mut self, name: &str) -> Result<(), String> {
        let starts = |state: &State| {
            let lines = state.log.lines();
            lines
                .filter(|l| l.text.ends_with("': starting patching transition"))
                .count()
        };
        let running = self.state.transition.as_ref();
        let is_unstarted = running.is_some_and(|t| match &t.phase {
            Phase::Calling(call) => call.kind == CallbackKind::PrePatch,
            Phase::Installing => t.target == Universe::Patched,
            Phase::Switching | Phase::Settling => false,
        });
        let is_own =
            running.is_some_and(|t| self.state.find(name).is_some_and(|p| p.id == t.patch));
        let before = starts(&self.state);
        self.process.model.to_top = Some(false);
        let result = Driver::new(&mut self.state, &mut self.process).cancel(name);
        self.settle_accounts(&result)?;
        if is_own && is_unstarted && starts(&self.state) != before {
            return Err("a transition was started to be canceled".to_owned());
        }
        let Some(patch) = self.state.stack.iter().find(|patch| patch.name == name) else {
            return Ok(());
        };
        let is_coming = self.state.transition.as_ref().is_some_and(|t| {
            t.patch == patch.id && t.target == Universe::Patched && t.phase != Phase::Settling
        });
        if result.is_ok() && (patch.enabled || is_coming) {
            return Err("a canceled patch goes on being enabled".to_owned());
        }
        Ok(())
    }

    fn compare(
        &self,
        result: Result<(), Error<Killed>>,
        expected: forecast::Answer,
    ) -> Result<(), String> {
        let answer = match result {
            Err(Error::Target(Killed)) => return Ok(()),
            Err(Error::Refused(refusal)) => Err(refusal.errno()),
            Ok(()) => Ok(()),
        };
        if answer == expected {
            return Ok(());
        }
        Err(format!("answered {answer:?} instead of {expected:?}"))
    }

    fn check(&self) -> Result<(), String> {
        if let Some(violation) = &self.process.violation {
            return Err(violation.clone());
        }
        let phase = self.state.transition.as_ref().map(|t| &t.phase);
        if self.killed || !matches!(phase, None | Some(Phase::Switching)) {
            return Ok(());
        }
        for function in 0..FUNCTIONS {
            let there = self.process.libraries.is_there(Some(LIBRARY), true);
            let there = there || function < FUNCTIONS / 2;
            let is_needed = there && self.process.model.is_redirected(function);
            if self.process.is_redirected(function) != is_needed {
                return Err(format!("f{function} should be redirected: {is_needed}"));
            }
        }
        if phase.is_none() {
            self.process.check_stages()?;
            self.process.check_effects()?;
        }
        Ok(())
    }

    /// Without faults and with all stacks empty everything completes and can be taken off.
    fn wind_up(&mut self) -> Result<(), String> {
        if let Some(chaos) = &mut self.process.chaos {
            (chaos.kill, chaos.evade, chaos.activity) = (0, 0, 0);
        }
        self.process.taken.clear();
        self.process.returns.clear();
        self.process.model.to_top = Some(false);
        for thread in &mut self.process.threads {
            thread.stack.clear();
        }
        self.finish()?;
        let names =
            |state: &State| -> Vec<String> { state.patches().map(|p| p.name.clone()).collect() };
        let mut staying = 0;
        for name in names(&self.state).iter().rev() {
            let enabled = self.state.find(name).is_some_and(|p| p.enabled);
            if enabled && forecast::is_irrevocable(&self.process, name) {
                let refused =
                    Driver::new(&mut self.state, &mut self.process).disable(name, Order::Any);
                if refused.is_ok() {
                    return Err(format!("{name} was disabled"));
                }
                staying += 1;
            } else if enabled {
                // One that stays may change the same functions.
                let order = order(staying > 0);
                let progress = Driver::new(&mut self.state, &mut self.process)
                    .disable(name, order)
                    .map_err(|error| error.to_string())?;
                if progress != Progress::Complete {
                    return Err(format!("disabling {name}: {progress:?}"));
                }
                self.check()?;
            }
        }
        let is_left = self.process.redirected() != 0 && staying == 0;
        if is_left || self.process.model.settled().len() != staying {
            return Err("functions stay redirected".to_owned());
        }
        for name in names(&self.state) {
            let patch = self.state.find(&name);
            let stays = patch.is_some_and(|p| p.forced || p.enabled);
            let result = Driver::new(&mut self.state, &mut self.process).unload(&name);
            if result.is_ok() == stays {
                return Err(format!(
                    "unloading {name}, which stays: {stays}: {result:?}"
                ));
            }
        }
        check_log(&self.state.log)
    }

    fn finish(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            let progress = Driver::new(&mut self.state, &mut self.process)
                .retry()
                .map_err(|error| error.to_string())?;
            self.check()?;
            if progress == Progress::Idle {
                return Ok(());
            }
        }
        Err("the transition does not complete".to_owned())
    }
}

fn order(any: bool) -> Order {
    if any { Order::Any } else { Order::Reverse }
}

/// The patch with the addresses of its `load`.
fn loaded_as(patch: &NewPatch, load: u64, library: u64) -> NewPatch {
    let mut patch = patch.clone();
    effects::relocate(&mut patch, load);
    for (index, object) in patch.objects.iter_mut().enumerate() {
        object.loaded = library != 0 || object.name.is_none();
        object.load = library;
        let all = all_callbacks(load, index);
        let callbacks = &mut object.callbacks;
        callbacks.pre_patch = callbacks.pre_patch.and(all.pre_patch);
        callbacks.post_patch = callbacks.post_patch.and(all.post_patch);
        callbacks.pre_unpatch = callbacks.pre_unpatch.and(all.pre_unpatch);
        callbacks.post_unpatch = callbacks.post_unpatch.and(all.post_unpatch);
        for f in &mut object.funcs {
            let number = number_of(&f.old_name).unwrap_or(0);
            let new = func(load, number, object.loaded);
            (f.replacement, f.old) = (new.replacement, new.old);
        }
    }
    patch
}

/// Runs the scenario of a seed.
///
/// # Errors
/// The rule that was broken, with the shortest scenario found that breaks one.
pub fn run_seed(seed: u64) -> Result<(), String> {
    let plan = Plan::from_seed(seed);
    let Err(first) = plan.run() else {
        return Ok(());
    };
    let (small, text) = shrink(plan, first);
    Err(format!("seed {seed}: {text}\n{small:#?}"))
}

/// Leaves out operations and faults for as long as some rule is still broken.
#[must_use]
pub fn shrink(mut plan: Plan, mut text: String) -> (Plan, String) {
    let mut progress = true;
    while progress {
        progress = false;
        let without_kills = Plan {
            kill: 0,
            ..plan.clone()
        };
        let shorter = (0..plan.operations.len()).map(|index| {
            let mut candidate = plan.clone();
            candidate.operations.remove(index);
            candidate
        });
        let kills = (plan.kill != 0).then_some(without_kills);
        for candidate in kills.into_iter().chain(shorter) {
            if let Err(failure) = candidate.run() {
                (plan, text, progress) = (candidate, failure, true);
                break;
            }
        }
    }
    (plan, text)
}
