//! The process' side: a program with the same functions and threads as the kernel's target.

mod build;
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engraft_engine::{Engine, Error, LoadRequest, PatchState, read_log, read_status};

use crate::side::Side;
use engraft_guest::{Context, Failure, Outcome, Patch, Step};
use nix::errno::Errno;
use program::Program;

/// How long a transition is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A transition that only parked threads hold up counts as settled after so many passes.
const PASSES: u32 = 4;

const PAUSE: Duration = Duration::from_millis(1);

/// A running process. Every scenario has a new one.
pub struct ProcessSide {
    directory: PathBuf,
    target: Option<Target>,
}

struct Target {
    engine: Engine,
    program: Program,
    parked: BTreeSet<String>,
    /// Patches that are off. The kernel takes such a patch from its stack, and only its module
    /// is left; here they are unloaded, so that no patch after them sees them either.
    off: BTreeSet<String>,
    /// Lines of the log that have been seen.
    seen: usize,
}

impl ProcessSide {
    /// Builds the target and the livepatches.
    ///
    /// # Errors
    ///
    /// When something cannot be built.
    pub fn start(work: &Path) -> Result<Self, Failure> {
        let directory = work.join("process");
        build::build(&directory)?;
        Ok(Self {
            directory,
            target: None,
        })
    }

    fn target(&mut self) -> Result<&mut Target, Failure> {
        let target = match self.target.take() {
            Some(target) => target,
            None => Target::start(&self.directory)?,
        };
        Ok(self.target.insert(target))
    }
}

impl Side for ProcessSide {
    fn take(&mut self, step: &Step) -> Result<Outcome, Failure> {
        let directory = self.directory.clone();
        self.target()?.take(&directory, step)
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.target = None;
        Ok(())
    }
}

impl Target {
    fn start(directory: &Path) -> Result<Self, Failure> {
        let program = Program::start(&directory.join(build::PROGRAM))?;
        Ok(Self {
            engine: Engine::open(program.pid()).context("opening the process")?,
            program,
            parked: BTreeSet::new(),
            off: BTreeSet::new(),
            seen: 0,
        })
    }

    fn take(&mut self, directory: &Path, step: &Step) -> Result<Outcome, Failure> {
        let mut answer = String::new();
        let before = self.read_patches()?;
        let engine = &mut self.engine;
        let errno = match step {
            Step::Load { module, .. } if self.off.contains(module) => Errno::EEXIST as i32,
            Step::Load { module, parameters } => {
                errno_of(load(engine, directory, module, parameters)?)
            }
            Step::Unload(module) if self.off.remove(module) => 0,
            Step::Unload(module) => errno_of(engine.unload(module)),
            // What is not on the stack has no attributes.
            Step::Enable(patch) | Step::Disable(patch) | Step::Force(patch)
                if !before.contains_key(patch) =>
            {
                Errno::ENOENT as i32
            }
            // Newer kernels allow any order.
            Step::Enable(patch) => errno_of(engine.enable(patch, true)),
            Step::Disable(patch) => errno_of(engine.disable(patch, true)),
            // A process has one attribute for the only transition.
            Step::Force(patch) if !before[patch].transition => Errno::EINVAL as i32,
            Step::Force(_) => errno_of(engine.force()),
            Step::Target(command) => {
                let (errno, text) = self.program.ask(command)?;
                self.note_command(command, errno);
                answer = text;
                errno
            }
        };
        let blockers = self.settle()?;
        self.take_off()?;
        Ok(Outcome {
            errno,
            answer,
            log: self.read_log()?,
            patches: self.read_patches()?,
            blockers,
        })
    }

    fn take_off(&mut self) -> Result<(), Failure> {
        let status = read_status(self.program.pid()).context("reading the state")?;
        for patch in status.patches {
            if patch.state == PatchState::Registered && patch.refcnt == 0 {
                self.engine.unload(&patch.name).context(&patch.name)?;
                self.off.insert(patch.name);
            }
        }
        Ok(())
    }

    fn note_command(&mut self, command: &str, errno: i32) {
        let mut words = command.split(' ');
        let (Some(verb), Some(thread)) = (words.next(), words.next()) else {
            return;
        };
        let name = format!("conf-{thread}");
        match verb {
            "park" if errno == 0 => {
                self.parked.insert(name);
            }
            "free" => {
                self.parked.remove(&name);
            }
            _ => {}
        }
    }

    /// Waits until no transition runs, or only parked threads hold it up; returns their names.
    fn settle(&mut self) -> Result<Vec<String>, Failure> {
        let end = Instant::now() + PATIENCE;
        let mut stalled = 0;
        while let Some(status) = self.engine.retry().context("retrying")? {
            let names = status.blockers.iter().map(|blocker| blocker.comm.clone());
            let mut names: Vec<String> = names.collect();
            let parked = names.iter().all(|name| self.parked.contains(name));
            stalled = if parked && !names.is_empty() {
                stalled + 1
            } else {
                0
            };
            if stalled >= PASSES {
                names.sort_unstable();
                return Ok(names);
            }
            if Instant::now() > end {
                return Err(Failure::new(format!(
                    "the process does not settle: {status:#?}"
                )));
            }
            self.engine.pause(PAUSE).context("pausing")?;
        }
        Ok(Vec::new())
    }

    fn read_log(&mut self) -> Result<Vec<String>, Failure> {
        let lines = read_log(self.program.pid()).context("reading the log")?;
        let lines = lines.into_iter().map(|line| line.text);
        let lines: Vec<String> = lines
            .filter(|line| !line.contains("klp_try_switch_task"))
            .filter(|line| !line.contains("signaling remaining tasks"))
            .collect();
        let new = lines.get(self.seen..).unwrap_or_default().to_vec();
        self.seen = lines.len();
        Ok(new)
    }

    fn read_patches(&self) -> Result<BTreeMap<String, Patch>, Failure> {
        let status = read_status(self.program.pid()).context("reading the state")?;
        let stack = status
            .patches
            .into_iter()
            .filter(|patch| matches!(patch.state, PatchState::Enabled | PatchState::InTransition));
        let patches = stack.map(|patch| {
            let objects = patch.objects.into_iter();
            let seen = Patch {
                enabled: patch.enabled,
                transition: patch.transition,
                replace: Some(patch.replace),
                objects: objects
                    .map(|object| (object.name, object.patched))
                    .collect(),
            };
            (patch.name, seen)
        });
        Ok(patches.collect())
    }
}

fn load(
    engine: &mut Engine,
    directory: &Path,
    module: &str,
    parameters: &[String],
) -> Result<Result<(), Error>, Failure> {
    let path = directory.join(format!("{module}.lp"));
    let bytes = fs::read(&path).context(path.display())?;
    let split = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    let parameters: Vec<(String, String)> = parameters.iter().map(split).collect();
    Ok(engine.load(&LoadRequest {
        module: &bytes,
        file_name: &format!("{module}.lp"),
        parameters: &parameters,
        enable: true,
    }))
}

fn errno_of(result: Result<(), Error>) -> i32 {
    result.err().map_or(0, |error| error.errno() as i32)
}
