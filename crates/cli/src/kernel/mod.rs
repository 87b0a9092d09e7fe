//! The commands for the running kernel's own livepatch (`--kernel`).

mod inspect;
mod pin;
mod show;
mod transition;

use std::time::{Duration, Instant};

use engraft_kernel::{Kernel, KernelModule};
use serde::Serialize;

use crate::arguments::{CheckArguments, LoadArguments, SwitchArguments};
use crate::change;
use crate::failure::{Failure, Verdict};
use crate::module_file::ModuleFile;
use crate::output::Output;
use crate::progress::Progress;
use crate::render;
use crate::wait::{self, OnTimeout, Waiting};
use transition::KernelTransition;

pub(crate) use inspect::inspect;
pub(crate) use pin::{pin, unpin};
pub(crate) use show::{list, log, status};

/// The kernel completes a forced transition in its next round.
const FORCE_WAITING: Waiting = Waiting {
    wait: true,
    timeout: Duration::from_secs(30),
    on_timeout: OnTimeout::Leave,
};

impl From<engraft_kernel::Error> for Failure {
    fn from(error: engraft_kernel::Error) -> Self {
        let lines = error.log().iter();
        Self {
            errno: Some(format!("{:?}", error.errno())),
            help: error.help().map(str::to_owned),
            details: lines
                .map(|line| render::printable(line).into_owned())
                .collect(),
            ..Self::new(error.to_string())
        }
    }
}

pub(crate) fn check(arguments: &CheckArguments, output: &Output) -> Result<Verdict, Failure> {
    #[derive(Serialize)]
    struct Report {
        name: String,
        problems: Vec<String>,
    }
    let module = read_module(&ModuleFile::read(&arguments.file)?)?;
    let problems = Kernel::running()?.check(&module);
    let verdict = if problems.is_empty() {
        Verdict::Done
    } else {
        Verdict::Failed
    };
    if output.json {
        let name = module.name;
        output.object(&Report { name, problems });
        return Ok(verdict);
    }
    let conclusion = match verdict {
        Verdict::Done => "nothing stands against it",
        _ => "would be refused",
    };
    output.heading(&format!("kernel: {conclusion}"));
    for problem in problems {
        output.line(&format!("  {}", render::printable(&problem)));
    }
    Ok(verdict)
}

/// The kernel module that a file is, if it is one.
pub(crate) fn find_module(file: &ModuleFile) -> Option<KernelModule> {
    read_module(file).ok()
}

fn read_module(file: &ModuleFile) -> Result<KernelModule, Failure> {
    Ok(KernelModule::parse(&file.bytes, &file.file_name)?)
}

pub(crate) fn load(arguments: &LoadArguments, output: &Output) -> Result<Verdict, Failure> {
    if arguments.no_enable {
        return Err(Failure {
            errno: Some("EINVAL".to_owned()),
            ..Failure::new("the kernel enables a patch when its module is loaded")
        }
        .with_help("--no-enable is for processes"));
    }
    let module = read_module(&ModuleFile::read(&arguments.file)?)?;
    let kernel = Kernel::running()?;
    let started = Instant::now();
    kernel.load(&arguments.file, &module, &arguments.parameters)?;
    let waiting = arguments.waiting.waiting();
    follow(kernel, output, &module.name, "enabled", &waiting, started)
}

pub(crate) fn enable(arguments: &SwitchArguments, output: &Output) -> Result<Verdict, Failure> {
    switch(arguments, output, true)
}

pub(crate) fn disable(arguments: &SwitchArguments, output: &Output) -> Result<Verdict, Failure> {
    switch(arguments, output, false)
}

fn switch(arguments: &SwitchArguments, output: &Output, enabled: bool) -> Result<Verdict, Failure> {
    let kernel = Kernel::running()?;
    let started = Instant::now();
    // A transition in that direction, left by an earlier command, is gone on with.
    let under_way = kernel
        .patches()
        .iter()
        .any(|patch| patch.name == arguments.name && patch.transition && patch.enabled == enabled);
    if !under_way {
        kernel.set_enabled(&arguments.name, enabled)?;
    }
    let done = if enabled { "enabled" } else { "disabled" };
    let waiting = arguments.waiting.waiting();
    follow(kernel, output, &arguments.name, done, &waiting, started)
}

pub(crate) fn unload(name: &str, output: &Output) -> Result<Verdict, Failure> {
    Kernel::running()?.unload(name)?;
    Ok(change::report_plain(output, None, name, "unloaded"))
}

pub(crate) fn force(output: &Output) -> Result<Verdict, Failure> {
    let kernel = Kernel::running()?;
    let started = Instant::now();
    let running = kernel.patches().into_iter().find(|patch| patch.transition);
    let Some(patch) = running else {
        return Err(Failure {
            errno: Some("EINVAL".to_owned()),
            ..Failure::new("no transition runs in the kernel")
        });
    };
    kernel.force(&patch.name)?;
    follow(
        kernel,
        output,
        &patch.name,
        "forced",
        &FORCE_WAITING,
        started,
    )
}

/// Follows the transition to its end and reports it; `done` says what a completed one is.
fn follow(
    kernel: Kernel,
    output: &Output,
    name: &str,
    done: &'static str,
    waiting: &Waiting,
    started: Instant,
) -> Result<Verdict, Failure> {
    let mut progress = Progress::new(&format!("kernel '{name}'"), output.json || !waiting.wait);
    let mut transition = KernelTransition::new(kernel);
    let passage = wait::follow(&mut transition, waiting, started, &mut progress)?;
    drop(progress);
    Ok(change::report(output, None, name, done, &passage))
}
