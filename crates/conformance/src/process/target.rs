//! The target with the engine that patches it: taking steps.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use engraft_engine::{Engine, Error, LoadRequest, PatchState, read_status};
use engraft_guest::{Context, Failure, Outcome, Step};
use nix::errno::Errno;

use super::build::PROGRAM;
use super::program::Program;
use super::seen::{read_new_lines, read_patches};
use crate::side::REFUSED;

/// How long a transition is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A transition that only parked threads hold up counts as settled after so many passes.
const PASSES: u32 = 4;

const PAUSE: Duration = Duration::from_millis(1);

/// A running program.
pub(super) struct Target {
    /// None while no tool is there.
    engine: Option<Engine>,
    program: Program,
    parked: BTreeSet<String>,
    /// Patches that are off. The kernel takes such a patch from its stack, and only its module
    /// is left; here they are unloaded, so that no patch after them sees them either.
    off: BTreeSet<String>,
    /// Lines of the log that have been seen.
    seen: usize,
    /// Whether the next object that comes or goes does so with no tool there: every second one.
    alone: bool,
}

impl Target {
    pub(super) fn start(directory: &Path) -> Result<Self, Failure> {
        let program = Program::start(&directory.join(PROGRAM))?;
        Ok(Self {
            engine: None,
            program,
            parked: BTreeSet::new(),
            off: BTreeSet::new(),
            seen: 0,
            alone: true,
        })
    }

    /// Takes a step and waits until nothing moves any more.
    pub(super) fn take(&mut self, directory: &Path, step: &Step) -> Result<Outcome, Failure> {
        let mut answer = String::new();
        let before = read_patches(self.program.pid())?;
        self.engine()?;
        let errno = match step {
            Step::Load { module, .. } if self.off.contains(module) => Errno::EEXIST as i32,
            Step::Load { module, parameters } => {
                errno_of(load(self.engine()?, directory, module, parameters)?)
            }
            Step::Unload(module) if self.off.remove(module) => 0,
            Step::Unload(module) => errno_of(self.engine()?.unload(module)),
            // What is not on the stack has no attributes.
            Step::Enable(patch) | Step::Disable(patch) | Step::Force(patch)
                if !before.contains_key(patch) =>
            {
                Errno::ENOENT as i32
            }
            // Newer kernels allow any order.
            Step::Enable(patch) => errno_of(self.engine()?.enable(patch, true)),
            Step::Disable(patch) => errno_of(self.engine()?.disable(patch, true)),
            // A process has one attribute for the only transition.
            Step::Force(patch) if !before[patch].transition => Errno::EINVAL as i32,
            Step::Force(_) => errno_of(self.engine()?.force()),
            Step::Insmod(_) | Step::Rmmod(_) => {
                let errno;
                (errno, answer) = self.move_object(&step.to_string())?;
                errno
            }
            Step::Target(command) => {
                let (errno, text) = self.program.ask(command)?;
                self.note_command(command, errno);
                answer = text;
                errno
            }
        };
        // Without a tool, what there is to be seen is seen without it.
        let shown = match self.engine {
            None => Some(read_patches(self.program.pid())?),
            Some(_) => None,
        };
        let shown = shown.filter(|patches| patches.values().all(|patch| !patch.transition));
        let blockers = self.settle()?;
        self.take_off()?;
        Ok(Outcome {
            errno,
            answer,
            log: read_new_lines(self.program.pid(), &mut self.seen)?,
            patches: shown.map_or_else(|| read_patches(self.program.pid()), Ok)?,
            blockers,
        })
    }

    fn engine(&mut self) -> Result<&mut Engine, Failure> {
        let engine = match self.engine.take() {
            Some(engine) => engine,
            None => Engine::open(self.program.pid()).context("opening the process")?,
        };
        Ok(self.engine.insert(engine))
    }

    /// Lets an object come or go.
    fn move_object(&mut self, command: &str) -> Result<(i32, String), Failure> {
        if self.alone {
            self.engine = None;
        }
        self.alone = !self.alone;
        let (errno, text) = self.program.ask(command)?;
        if errno != Errno::ELIBBAD as i32 {
            return Ok((errno, text));
        }
        check_refusal(&text)?;
        Ok((REFUSED, String::new()))
    }

    fn take_off(&mut self) -> Result<(), Failure> {
        let status = read_status(self.program.pid()).context("reading the state")?;
        for patch in status.patches {
            if patch.state == PatchState::Registered && patch.refcnt == 0 {
                self.engine()?.unload(&patch.name).context(&patch.name)?;
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
        while let Some(status) = self.engine()?.retry().context("retrying")? {
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
            self.engine()?.pause(PAUSE).context("pausing")?;
        }
        Ok(Vec::new())
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

/// Whether that is how dlopen says that a patch has refused a library.
fn check_refusal(text: &str) -> Result<(), Failure> {
    let is_refused = text.contains("unexpected") && text.contains("reloc type");
    is_refused
        .then_some(())
        .ok_or_else(|| Failure::new(format!("a library does not come: {text}")))
}

fn errno_of(result: Result<(), Error>) -> i32 {
    result.err().map_or(0, |error| error.errno() as i32)
}
