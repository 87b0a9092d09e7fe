//! The steps of the demo.

use std::path::Path;
use std::time::{Duration, Instant};

use engraft_engine::{Engine, PatchState};

use super::fixes::{FIX1, FIX2, FIX12, Fix};
use super::receipts::Universe;
use super::report::StepOutcome;
use super::server::Server;
use super::traffic::Traffic;
use crate::failure::{Failure, Verdict};
use crate::module_file::ModuleFile;
use crate::progress::Progress;
use crate::timeline;
use crate::wait::{self, Ending, OnTimeout, Waiting};

/// A worker is between two requests every other moment, so this is ample.
const WAITING: Waiting = Waiting {
    wait: true,
    timeout: Duration::from_secs(15),
    on_timeout: OnTimeout::Reverse,
};

/// Where the story is played.
pub(super) struct Stage<'a> {
    /// Where the modules are.
    pub(super) directory: &'a Path,
    pub(super) server: &'a Server,
    pub(super) traffic: &'a Traffic,
    /// No progress is shown.
    pub(super) quiet: bool,
}

/// The step in which one cumulative patch replaces another.
pub(super) const FIRST_REPLACE: usize = 1;

/// What is done, step by step.
pub(super) const STORY: [Step; 9] = [
    Step::new(
        "load fix 1",
        Action::Load(FIX1),
        Universe::Original,
        Universe::Fix1,
    ),
    Step::new(
        "replace it by fix 1+2",
        Action::Load(FIX12),
        Universe::Fix1,
        Universe::Fix12,
    ),
    Step::new(
        "replace that by fix 2 alone",
        Action::Load(FIX2),
        Universe::Fix12,
        Universe::Fix2,
    ),
    Step::new(
        "unload the replaced fix 1+2",
        Action::Unload(FIX12),
        Universe::Fix2,
        Universe::Fix2,
    ),
    Step::new(
        "downgrade: load fix 1+2 again",
        Action::Load(FIX12),
        Universe::Fix2,
        Universe::Fix12,
    ),
    Step::new(
        "disable it",
        Action::Disable(FIX12),
        Universe::Fix12,
        Universe::Original,
    ),
    Step::new(
        "unload fix 1+2",
        Action::Unload(FIX12),
        Universe::Original,
        Universe::Original,
    ),
    Step::new(
        "unload fix 2",
        Action::Unload(FIX2),
        Universe::Original,
        Universe::Original,
    ),
    Step::new(
        "unload fix 1",
        Action::Unload(FIX1),
        Universe::Original,
        Universe::Original,
    ),
];

#[derive(Clone, Copy)]
enum Action {
    Load(Fix),
    Disable(Fix),
    Unload(Fix),
}

/// One step: what is done, and the code that runs before and after it.
pub(super) struct Step {
    title: &'static str,
    action: Action,
    from: Universe,
    to: Universe,
}

impl Step {
    const fn new(title: &'static str, action: Action, from: Universe, to: Universe) -> Self {
        Self {
            title,
            action,
            from,
            to,
        }
    }

    /// Threads move from one universe to another.
    pub(super) fn has_transition(&self) -> bool {
        self.from != self.to
    }

    /// Does it, and makes sure that it is done. Its transition is drawn in `timeline`.
    pub(super) fn play(
        &self,
        stage: &Stage<'_>,
        timeline: Option<&Path>,
    ) -> Result<StepOutcome, Failure> {
        let Stage {
            server, traffic, ..
        } = stage;
        server.take_longest_gap()?;
        traffic.expect(&[self.from, self.to]);
        let started = Instant::now();
        let threads = self.perform(stage, timeline, started)?;
        let elapsed = started.elapsed();
        traffic.expect(&[self.to]);
        let gap = server.take_longest_gap()?;
        self.check_stack(server)?;
        Ok(StepOutcome {
            title: self.title,
            transition: self.has_transition(),
            threads,
            elapsed,
            gap,
        })
    }

    /// Holds the engine only as long as a command would; returns how many threads moved.
    fn perform(
        &self,
        stage: &Stage<'_>,
        timeline: Option<&Path>,
        started: Instant,
    ) -> Result<u32, Failure> {
        let mut engine = Engine::open(stage.server.pid())?;
        if timeline.is_some() {
            engine.keep_timeline();
        }
        self.act(&mut engine, stage.directory)?;
        if !self.has_transition() {
            return Ok(0);
        }
        let threads = self.wait(&mut engine, started, stage.quiet)?;
        if let Some(path) = timeline {
            timeline::write(path, self.title, &engine)?;
        }
        Ok(threads)
    }

    fn act(&self, engine: &mut Engine, directory: &Path) -> Result<(), Failure> {
        match self.action {
            Action::Load(fix) => {
                let file = ModuleFile::read(&fix.file(directory))?;
                engine.load(&file.request(&[], true))?;
            }
            Action::Disable(fix) => engine.disable(fix.module, false)?,
            Action::Unload(fix) => engine.unload(fix.module)?,
        }
        Ok(())
    }

    /// Waits until all threads have moved; returns how many there are.
    fn wait(&self, engine: &mut Engine, started: Instant, quiet: bool) -> Result<u32, Failure> {
        let mut progress = Progress::new(self.title, quiet);
        let passage = wait::follow(engine, &WAITING, started, &mut progress)?;
        match passage.ending {
            Ending::Completed => Ok(passage.threads),
            _ => {
                let mut failure = crate::change::describe_timeout(self.title, &passage)
                    .unwrap_or_else(|| Failure::new("the transition did not complete"));
                failure.verdict = Verdict::Failed;
                Err(failure)
            }
        }
    }

    /// Only the patch of this step's universe is left on the stack.
    fn check_stack(&self, server: &Server) -> Result<(), Failure> {
        let status = engraft_engine::read_status(server.pid())?;
        let on_stack = status
            .patches
            .iter()
            .filter(|patch| patch.state == PatchState::Enabled);
        let found: Vec<&str> = on_stack.map(|patch| &*patch.name).collect();
        let expected: &[&str] = match self.to {
            Universe::Original => &[],
            Universe::Fix1 => &[FIX1.module],
            Universe::Fix12 => &[FIX12.module],
            Universe::Fix2 => &[FIX2.module],
        };
        if found == expected && status.transition.is_none() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "after '{}' the stack holds {found:?} instead of {expected:?}",
            self.title
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_begins_where_the_last_one_ended() {
        let mut now = Universe::Original;
        for step in &STORY {
            assert_eq!(step.from, now, "before '{}'", step.title);
            now = step.to;
        }
        assert_eq!(now, Universe::Original);
    }

    #[test]
    fn every_module_that_was_loaded_is_unloaded() {
        let mut loaded: Vec<&str> = Vec::new();
        for step in &STORY {
            match step.action {
                Action::Load(fix) => {
                    assert!(
                        !loaded.contains(&fix.module),
                        "{} is loaded twice",
                        fix.module
                    );
                    loaded.push(fix.module);
                }
                Action::Disable(fix) => assert!(loaded.contains(&fix.module)),
                Action::Unload(fix) => {
                    assert!(loaded.contains(&fix.module), "{} is not loaded", fix.module);
                    loaded.retain(|module| *module != fix.module);
                }
            }
        }
        assert!(loaded.is_empty(), "{loaded:?} stay loaded");
    }
}
