//! From a source change to a patch module.
//!
//! The source tree is compiled twice, before and after the change, with the project's own
//! build command. The objects that make up the target are compared, the changed functions
//! and what they newly need are extracted, and everything else is bound to the running
//! program. This crate must not know processes, the livepatch rules, or what is loaded
//! where: what the running program must look like goes into the module as
//! [`engraft_module::PreCode`].
#![forbid(unsafe_code)]

mod assemble;
mod compare;
mod compiling;
mod debug;
mod error;
mod extract;
mod finished;
mod object;
mod once;
mod program;
mod refuse;
mod report;
mod tree;
mod types;
mod why;

use std::ffi::OsString;
use std::mem;
use std::path::{Path, PathBuf};

pub use compare::{Reason, Trace};
pub use compiling::{
    BuildError as CompilingError, Built, BuiltObject, Progress, Side, Step, TreeRequest,
    build_both, run_as_wrapper,
};
pub use error::BuildError;
pub use extract::Replaced;
pub use finished::{FinishedRequest, find_both};
pub use program::ObjectPair;
pub use refuse::Refusal;
pub use report::{Ignored, Named, Objects, Report};
pub use tree::{Reject, TreeError};
pub use why::Sources;

use assemble::Hooks;
use program::Program;

/// What to make of two sets of objects.
#[derive(Debug)]
pub struct ModuleRequest<'a> {
    /// Everything that the target was linked from, in link order.
    pub objects: Vec<ObjectPair>,
    /// Both versions of the source, which tell better why a function is in the patch.
    pub sources: Option<Sources>,
    /// Name of the library that is patched, `None` for an executable.
    pub library: Option<String>,
    /// Hand-written sources with callbacks. What a change needs that would be refused without
    /// one, a hook declares with `MODULE_INFO(handles, "NAME")`, after [`Refusal::name`].
    pub hooks: &'a [PathBuf],
    /// Flags that hooks are compiled with, such as `-I` for the program's own headers.
    pub hook_flags: &'a [OsString],
    /// The set of patches that it replaces; 0 is the one of patches that name none.
    pub replace_set: u32,
    /// The running executable or library, if the module is to be bound to its build-id.
    pub made_for: Option<&'a Path>,
    /// The file to write; its name without extension becomes the module's name.
    pub output: &'a Path,
}

/// Compares two sets of objects and writes a cumulative (`replace`) patch module, if anything
/// differs and everything that does can be followed by a running program.
///
/// # Errors
///
/// When an object cannot be read, or the module cannot be made.
pub fn build_module(mut request: ModuleRequest<'_>) -> Result<Report, BuildError> {
    let program = Program::new(mem::take(&mut request.objects))?;
    let mut report = report_changes(&program, &request)?;
    report.objects = Objects {
        linked: program.len(),
        differing: program.differing().count(),
        parsed: program.parsed(),
    };
    Ok(report)
}

fn report_changes(program: &Program, request: &ModuleRequest<'_>) -> Result<Report, BuildError> {
    let mut changes = compare::compare_program(program)?;
    if let Some(sources) = &request.sources {
        why::explain(program, sources, &mut changes)?;
    }
    let hooks = Hooks::compile(request.hooks, request.hook_flags, request.output)?;
    let refusals = refuse::find_refusals(program, &changes)?;
    let mut report = Report::of_changes(program, &changes, refusals)?;
    if let Some(hooks) = &hooks {
        report.handled = hooks.take_handled(&mut report.refusals)?;
    }
    if !report.refusals.is_empty() || changes.iter().all(|c| c.comparison.is_empty()) {
        return Ok(report);
    }
    let extracted = extract::extract(program, &changes, request.library.clone())?;
    report.add_extracted(&extracted);
    report.once = once::find_once(program, &changes)?;
    assemble::assemble(&extracted, hooks.as_ref(), request)?;
    Ok(report)
}
