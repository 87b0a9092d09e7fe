//! The `engraft` command: arguments, output, progress and the demo.
//!
//! This crate turns command lines into calls of the engine and answers into text or JSON. It
//! must not know how a process is traced or patched, what a module's bytes mean, or the
//! livepatch rules; it decides nothing but when to try again and when to give up waiting.
#![forbid(unsafe_code)]

mod arguments;
mod build;
mod change;
mod check;
mod compile;
mod demo;
mod failure;
mod inspect;
mod kernel;
mod log;
mod module_file;
mod output;
mod progress;
mod render;
mod stack;
mod status;
mod symbols;
mod target;
mod timeline;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use failure::{Failure, Verdict};
use module_file::ModuleFile;
use output::Output;

fn main() -> ExitCode {
    // While `engraft build` runs a project's build, this binary stands in for its compilers.
    if let Some(code) = engraft_build::run_as_wrapper() {
        return code;
    }
    let arguments = Arguments::parse();
    let output = Output::new(arguments.json);
    let verdict = run(arguments.command, &output).unwrap_or_else(|failure| {
        output.failure(None, &failure);
        failure.verdict
    });
    verdict.into()
}

fn run(command: Command, output: &Output) -> Result<Verdict, Failure> {
    match command {
        Command::Build(arguments) => build::run(&arguments, output),
        Command::Cc(arguments) => compile::run(&arguments, output),
        Command::Inspect { file } => inspect::run(&ModuleFile::read(&file)?, output),
        Command::Check(arguments) if arguments.target.kernel => kernel::check(&arguments, output),
        Command::Check(arguments) => check::run(&arguments, output),
        Command::Load(arguments) if arguments.target.kernel => kernel::load(&arguments, output),
        Command::Load(arguments) => stack::load(&arguments, output),
        Command::Enable(arguments) if arguments.target.kernel => kernel::enable(&arguments, output),
        Command::Enable(arguments) => stack::enable(&arguments, output),
        Command::Disable(arguments) if arguments.target.kernel => {
            kernel::disable(&arguments, output)
        }
        Command::Disable(arguments) => stack::disable(&arguments, output),
        Command::Unload { name, target } if target.kernel => kernel::unload(&name, output),
        Command::Unload { name, target } => stack::unload(&name, &target, output),
        Command::Force { target } if target.kernel => kernel::force(output),
        Command::Force { target } => stack::force(&target, output),
        Command::List { target } if target.kernel => kernel::list(output),
        Command::List { target } => status::list(&target, output),
        Command::Status { target } if target.kernel => kernel::status(output),
        Command::Status { target } => status::status(&target, output),
        Command::Pin(arguments) => kernel::pin(&arguments, output),
        Command::Unpin { release, .. } => kernel::unpin(release.as_deref(), output),
        Command::Log(arguments) if arguments.target.kernel => kernel::log(&arguments, output),
        Command::Log(arguments) => log::run(&arguments, output),
        Command::Symbols(arguments) => symbols::run(&arguments, output),
        Command::Demo { timeline } => demo::run(timeline.as_deref(), output),
    }
}
