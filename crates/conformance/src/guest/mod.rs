//! The kernel's side inside the guest: takes steps that come over a serial line.

mod livepatch;
mod log;
mod modules;
mod target;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure};
use crate::scenario::{Outcome, Step};
use log::Log;
use target::Target;

/// What the host asks for, one line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// To take a step.
    Take(Step),
    /// To undo all of them.
    Reset,
}

/// What it is told: an outcome, or why the guest is of no more use.
pub type Response = Result<Outcome, String>;

/// The line over which requests come; the console is the one before it.
const LINE: &str = "/dev/ttyS1";

/// How long the kernel is waited for, in the guest's time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A transition that only parked threads hold up counts as settled after so many of the rounds
/// that the kernel makes every second.
const ROUNDS: Duration = Duration::from_millis(2_500);

const PAUSE: Duration = Duration::from_millis(20);

/// Serves until the host is gone.
pub fn serve() -> Failure {
    match try_serve() {
        Ok(()) => Failure::new("the host has closed the line"),
        Err(failure) => failure,
    }
}

fn try_serve() -> Result<(), Failure> {
    prepare()?;
    let mut line = open_line()?;
    let mut guest = Guest {
        log: Log::open()?,
        target: Target::default(),
    };
    let requests = BufReader::new(line.try_clone().context(LINE)?);
    writeln!(line, "ready").context(LINE)?;
    for request in requests.lines() {
        let request = request.context(LINE)?;
        let request: Request = serde_json::from_str(&request).context(&request)?;
        let done = match request {
            Request::Take(step) => guest.take(&step),
            Request::Reset => guest.reset().map(|()| Outcome::default()),
        };
        let response: Response = done.map_err(|failure| failure.to_string());
        let text = serde_json::to_string(&response).context("encoding the answer")?;
        writeln!(line, "{text}").context(LINE)?;
    }
    Ok(())
}

/// What an initial program has to do, and the modules that the target consists of.
fn prepare() -> Result<(), Failure> {
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        fs::create_dir_all(place).context(place)?;
        let none = None::<&str>;
        mount(none, place, Some(kind), MsFlags::empty(), none).context(place)?;
    }
    let control = "/sys/kernel/debug/dynamic_debug/control";
    for line in ["file kernel/livepatch/* +p", "func klp_try_switch_task -p"] {
        fs::write(control, line).context(control)?;
    }
    for module in ["conf_core", "conf_a", "conf_b"] {
        modules::load(module, &[]).context(module)?;
    }
    Ok(())
}

fn open_line() -> Result<File, Failure> {
    let line = OpenOptions::new().read(true).write(true).open(LINE);
    let line = line.context(LINE)?;
    let mut settings = tcgetattr(&line).context(LINE)?;
    cfmakeraw(&mut settings);
    tcsetattr(&line, SetArg::TCSANOW, &settings).context(LINE)?;
    Ok(line)
}

struct Guest {
    log: Log,
    target: Target,
}

impl Guest {
    fn take(&mut self, step: &Step) -> Result<Outcome, Failure> {
        let mut answer = String::new();
        let done = match step {
            Step::Load { module, parameters } => modules::load(module, parameters),
            Step::Unload(module) => modules::unload(module),
            Step::Enable(patch) => livepatch::write(patch, "enabled", "1"),
            Step::Disable(patch) => livepatch::write(patch, "enabled", "0"),
            Step::Force(patch) => livepatch::write(patch, "force", "1"),
            Step::Target(command) => self.target.obey(command).map(|text| answer = text),
        };
        self.settle()?;
        Ok(Outcome {
            errno: done.err().map_or(0, |errno| errno as i32),
            answer,
            log: self.log.read()?,
            patches: livepatch::read()?,
            blockers: livepatch::stragglers(),
        })
    }

    fn settle(&self) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        let mut stalled_since = Instant::now();
        loop {
            let stragglers = livepatch::stragglers();
            let parked = stragglers.iter().all(|name| self.target.is_parked(name));
            if !livepatch::is_leaving()? {
                if !livepatch::in_transition()? {
                    return Ok(());
                }
                if !parked || stragglers.is_empty() {
                    stalled_since = Instant::now();
                }
                if stalled_since.elapsed() > ROUNDS {
                    return Ok(());
                }
            }
            if Instant::now() > end {
                let message = format!("the kernel does not settle; left are {stragglers:?}");
                return Err(Failure::new(message));
            }
            sleep(PAUSE);
        }
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.target.free_all();
        self.settle()?;
        for patch in livepatch::read()?.into_keys() {
            livepatch::write(&patch, "enabled", "0").context(&patch)?;
            self.settle()?;
        }
        for module in modules::patches()? {
            modules::unload(&module).context(&module)?;
        }
        self.log.read()?;
        Ok(())
    }
}

/// The number of an error of this process' own calls.
fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
