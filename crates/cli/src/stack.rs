//! The commands that change the stack of patches: load, enable, disable, unload, force.

use std::time::{Duration, Instant};

use engraft_engine::{Direction, Engine, PatchState, PatchStatus, TransitionStatus};

use crate::arguments::{LoadArguments, SwitchArguments};
use crate::change;
use crate::failure::{Failure, Verdict};
use crate::module_file::ModuleFile;
use crate::output::Output;
use crate::progress::Progress;
use crate::target::{self, Target};
use crate::timeline;
use crate::wait::{self, OnTimeout, Waiting};

/// A forced transition has nothing to wait for but its own completion.
const FORCE_WAITING: Waiting = Waiting {
    wait: true,
    timeout: Duration::from_secs(10),
    on_timeout: OnTimeout::Leave,
};

pub(crate) fn load(arguments: &LoadArguments, output: &Output) -> Result<Verdict, Failure> {
    let file = ModuleFile::read(&arguments.file)?;
    let module = file.parse()?;
    let enable = !arguments.no_enable;
    let request = file.request(&arguments.parameters, enable);
    target::for_each(&arguments.target, output, |pid| {
        let started = Instant::now();
        let mut engine = Engine::open(pid)?;
        if arguments.timeline.is_some() {
            engine.keep_timeline();
        }
        engine.load(&request)?;
        let patch = find_patch(pid, &module.name)?;
        warn_of_absent_objects(output, pid, patch.as_ref());
        if !enable || patch.is_none() {
            return Ok(change::report_plain(
                output,
                Some(pid),
                &module.name,
                "loaded",
            ));
        }
        let waiting = arguments.waiting.waiting();
        let verdict = follow(
            &mut engine,
            output,
            pid,
            &module.name,
            "enabled",
            &waiting,
            started,
        )?;
        if let Some(path) = &arguments.timeline {
            timeline::write(path, &module.name, &engine)?;
        }
        Ok(verdict)
    })
}

/// The patch of a module. It may have none and just run its init function.
fn find_patch(pid: i32, name: &str) -> Result<Option<PatchStatus>, Failure> {
    let mut patches = engraft_engine::read_status(pid)?.patches.into_iter();
    let is_patch =
        |patch: &PatchStatus| patch.name == name && patch.state != PatchState::ModuleOnly;
    Ok(patches.find(is_patch))
}

/// A library that is not there is no error, but may well be a mistake in its name.
fn warn_of_absent_objects(output: &Output, pid: i32, patch: Option<&PatchStatus>) {
    let objects = patch.into_iter().flat_map(|patch| &patch.objects);
    for object in objects.filter(|object| !object.loaded) {
        let name = &object.name;
        output.warning(
            pid,
            &format!("object '{name}' is not loaded; it is patched when it comes"),
        );
    }
}

pub(crate) fn enable(arguments: &SwitchArguments, output: &Output) -> Result<Verdict, Failure> {
    switch(arguments, output, Direction::Patched)
}

pub(crate) fn disable(arguments: &SwitchArguments, output: &Output) -> Result<Verdict, Failure> {
    switch(arguments, output, Direction::Unpatched)
}

fn switch(
    arguments: &SwitchArguments,
    output: &Output,
    direction: Direction,
) -> Result<Verdict, Failure> {
    let SwitchArguments {
        name,
        target,
        any_order,
        waiting,
    } = arguments;
    target::for_each(target, output, |pid| {
        let started = Instant::now();
        let mut engine = Engine::open(pid)?;
        if !is_under_way(pid, name, direction)? {
            match direction {
                Direction::Patched => engine.enable(name, *any_order)?,
                Direction::Unpatched => engine.disable(name, *any_order)?,
            }
        }
        let done = match direction {
            Direction::Patched => "enabled",
            Direction::Unpatched => "disabled",
        };
        follow(
            &mut engine,
            output,
            pid,
            name,
            done,
            &waiting.waiting(),
            started,
        )
    })
}

/// A transition of that patch in that direction, left by an earlier command, is gone on with.
fn is_under_way(pid: i32, name: &str, direction: Direction) -> Result<bool, Failure> {
    let status = engraft_engine::read_status(pid)?;
    let same = |running: TransitionStatus| running.patch == name && running.target == direction;
    Ok(status.transition.is_some_and(same))
}

pub(crate) fn unload(name: &str, target: &Target, output: &Output) -> Result<Verdict, Failure> {
    target::for_each(target, output, |pid| {
        Engine::open(pid)?.unload(name)?;
        Ok(change::report_plain(output, Some(pid), name, "unloaded"))
    })
}

pub(crate) fn force(target: &Target, output: &Output) -> Result<Verdict, Failure> {
    target::for_each(target, output, |pid| {
        let started = Instant::now();
        let mut engine = Engine::open(pid)?;
        let running = engraft_engine::read_status(pid)?.transition;
        engine.force()?;
        let name = running
            .map(|transition| transition.patch)
            .unwrap_or_default();
        follow(
            &mut engine,
            output,
            pid,
            &name,
            "forced",
            &FORCE_WAITING,
            started,
        )
    })
}

/// Follows the transition to its end and reports it; `done` says what a completed one is.
fn follow(
    engine: &mut Engine,
    output: &Output,
    pid: i32,
    name: &str,
    done: &'static str,
    waiting: &Waiting,
    started: Instant,
) -> Result<Verdict, Failure> {
    let mut progress = Progress::new(&format!("{pid} '{name}'"), output.json || !waiting.wait);
    let passage = wait::follow(engine, waiting, started, &mut progress)?;
    drop(progress);
    Ok(change::report(output, Some(pid), name, done, &passage))
}
