//! The dry run: would a module apply, and what would block it. Touches nothing.

use std::time::Duration;

use engraft_core::{ForbiddenRange, Verdict};
use engraft_module::PatchModule;
use engraft_process::{StopOutcome, list_threads, read_thread_stat};
use serde::Serialize;

use crate::attached::Attached;
use crate::error::Error;
use crate::loading::LoadRequest;
use crate::migrate::BlockerDetail;
use crate::objects::Objects;
use crate::preview::{FoundFunction, Preview, View, preview};
use crate::stacks::{Stacks, unwind_registers};
use crate::status::{BlockerStatus, load_quietly};

const STOP_PATIENCE: Duration = Duration::from_millis(50);

/// Result of a dry run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// The module's name.
    pub module: String,
    /// The functions that it replaces, as far as the module declares them statically.
    pub functions: Vec<CheckedFunction>,
    /// What would keep it from being loaded.
    pub problems: Vec<String>,
    /// Threads that are now in a function that it replaces.
    pub would_block: Vec<BlockerStatus>,
}

/// One function that a module replaces.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckedFunction {
    /// Object, as the target calls it.
    pub object: String,
    /// Name of the function.
    pub name: String,
    /// Its address.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
    /// It was found by the pre-patch code that the module carries, and is equal to it.
    pub matched: bool,
    /// Why it cannot be redirected, if it cannot.
    pub problem: Option<String>,
}

/// Examines a module against a process.
///
/// # Errors
///
/// When the process cannot be taken hold of (its threads are stopped, one by one and briefly)
/// or the file is no patch module; what stands against loading it is in the report.
pub fn check(pid: i32, request: &LoadRequest<'_>) -> Result<CheckReport, Error> {
    let module = PatchModule::parse(request.module, request.file_name)
        .map_err(|error| Error::new("check", error))?;
    let process = Attached::hold(pid)?;
    examine(&process, module, request).map_err(|error| process.explain(error))
}

fn examine(
    process: &Attached,
    module: PatchModule,
    request: &LoadRequest<'_>,
) -> Result<CheckReport, Error> {
    let (objects, _) = Objects::read(process)?;
    let prepared = load_quietly(process)?;
    let view = View {
        process,
        objects: &objects,
        database: prepared.as_ref().map(|(state, records)| (state, records)),
    };
    let Preview {
        problems,
        functions,
        ..
    } = preview(view, &module, request)?;
    let would_block = find_blockers(&view, &left_behind(&functions))?;
    Ok(CheckReport {
        module: module.name,
        problems: problems.iter().map(explain).collect(),
        functions: functions.into_iter().map(CheckedFunction::from).collect(),
        would_block,
    })
}

/// A problem with its way out.
fn explain(error: &Error) -> String {
    match error.help() {
        Some(help) => format!("{error}; {help}"),
        None => error.to_string(),
    }
}

impl From<FoundFunction> for CheckedFunction {
    fn from(found: FoundFunction) -> Self {
        Self {
            object: found.object,
            name: found.name,
            address: found.code.body.start,
            size: found.code.body.len,
            matched: found.matched,
            problem: found.failure.map(|failure| failure.reason),
        }
    }
}

/// Code that no thread may be in when it is switched.
fn left_behind(functions: &[FoundFunction]) -> Vec<ForbiddenRange> {
    functions
        .iter()
        .flat_map(|found| {
            found.code.parts().map(|part| ForbiddenRange {
                start: part.start,
                len: part.len,
                old_name: found.name.clone(),
                old_entry: found.code.entry(),
                original: true,
            })
        })
        .collect()
}

/// Threads that are in one of the ranges now.
fn find_blockers(view: &View<'_>, ranges: &[ForbiddenRange]) -> Result<Vec<BlockerStatus>, Error> {
    let (process, objects) = (view.process, view.objects);
    let stacks = Stacks::read(process, objects, view.records())?;
    let mut unwinder = stacks.unwinder();
    let mut blockers = Vec::new();
    for tid in list_threads(process.pid) {
        let Some(stat) = read_thread_stat(process.pid, tid) else {
            continue;
        };
        let StopOutcome::Stopped(thread) = process.tracer.stop(tid, STOP_PATIENCE)? else {
            continue;
        };
        let registers = *thread.registers();
        let trace = unwinder.walk(
            &stacks.memory(&process.memory),
            &unwind_registers(&registers),
        );
        let verdict = stacks.judge(process, tid, &registers, &trace, ranges);
        thread.release()?;
        if verdict == Verdict::Switched {
            continue;
        }
        let blocker = engraft_core::Blocker {
            tid,
            comm: stat.comm,
            verdict,
        };
        let addresses = trace
            .frames
            .iter()
            .map(|frame| frame.alias_of.unwrap_or(frame.lookup_pc));
        let stack = addresses
            .map(|pc| objects.describe(pc).unwrap_or_else(|| format!("{pc:#x}")))
            .collect();
        blockers.push(BlockerStatus::new(&BlockerDetail {
            blocker,
            state: stat.state,
            stack,
        }));
    }
    Ok(blockers)
}
