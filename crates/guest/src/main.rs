//! The first and only program of the guest: takes steps that come over a serial line. It must not
//! know what they should lead to.
#![forbid(unsafe_code)]

mod livepatch;
mod log;
mod modules;
mod target;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use engraft_guest::{Context, Failure, Outcome, Patch, Request, Response, Step};
use log::Log;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use target::Target;

/// The line over which requests come; the console is the one before it.
const LINE: &str = "/dev/ttyS1";

/// How long the kernel is waited for, in the guest's time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A transition that only parked threads hold up counts as settled after so many of the rounds
/// that the kernel makes every second.
const ROUNDS: Duration = Duration::from_millis(2_500);

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

fn main() {
    match serve() {
        Ok(()) => println!("guest: the host has closed the line"),
        Err(failure) => println!("guest: {failure}"),
    }
}

/// Serves until the host is gone.
fn serve() -> Result<(), Failure> {
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
            Request::Run(words) => Guest::run(&words),
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
    modules::restore_target()
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
            Step::Insmod(module) => modules::load(module, &[])
                .and_then(|()| Target::read_answer())
                .map(|text| answer = text),
            Step::Rmmod(module) => modules::unload_now(module)
                .and_then(|()| Target::read_answer())
                .map(|text| answer = text),
            Step::Target(command) => self.target.obey(command).map(|text| answer = text),
        };
        let (patches, blockers) = self.settle()?;
        Ok(Outcome {
            errno: done.err().map_or(0, |errno| errno as i32),
            answer,
            log: self.log.read()?,
            patches,
            blockers,
        })
    }

    /// Waits until nothing moves any more; returns the stack and the threads that hold up its
    /// transition.
    fn settle(&self) -> Result<(BTreeMap<String, Patch>, Vec<String>), Failure> {
        let start = Instant::now();
        let mut stalled_since = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let patches = livepatch::read()?;
            let stragglers = livepatch::stragglers(&patches);
            let in_transition = patches.values().any(|patch| patch.transition);
            // One that is off leaves the stack by itself.
            let leaving = |patch: &Patch| !patch.enabled && !patch.transition;
            if !patches.values().any(leaving) {
                let parked = stragglers.iter().all(|name| self.target.is_parked(name));
                if !parked || stragglers.is_empty() {
                    stalled_since = Instant::now();
                }
                if !in_transition || stalled_since.elapsed() > ROUNDS {
                    return Ok((patches, stragglers));
                }
            }
            if start.elapsed() > PATIENCE {
                let message = format!("the kernel does not settle; left are {stragglers:?}");
                return Err(Failure::new(message));
            }
            sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Runs a program to its end.
    fn run(words: &[String]) -> Result<Outcome, Failure> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(Failure::new("no program is named"));
        };
        let done = Command::new(program)
            .args(arguments)
            .output()
            .context(program)?;
        let printed = [done.stdout, done.stderr].concat();
        Ok(Outcome {
            errno: done.status.code().unwrap_or(-1),
            answer: String::from_utf8_lossy(&printed).into_owned(),
            ..Outcome::default()
        })
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
        modules::restore_target()?;
        self.log.read()?;
        Ok(())
    }
}

/// The number of an error of this process' own calls.
fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
