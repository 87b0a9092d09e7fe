//! What a target's patches are doing, for people and programs.

use engraft_core::{Patch, State, SystemState, Universe, Upkeep, Verdict};
use nix::errno::Errno;
use serde::Serialize;

use crate::arrivals::show_presence;
use crate::attached::Attached;
use crate::control;
use crate::database::{self, Records, Stage};
use crate::error::Error;
use crate::migrate::BlockerDetail;

/// State of one process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The process.
    pub pid: i32,
    /// Path of its executable.
    pub executable: String,
    /// Patches in stack order, then replaced ones, then modules without a patch.
    pub patches: Vec<PatchStatus>,
    /// The transition that runs.
    pub transition: Option<TransitionStatus>,
}

/// Place of a patch in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatchState {
    /// On the stack, not enabled.
    Registered,
    /// On the stack and enabled.
    Enabled,
    /// Coming or going.
    InTransition,
    /// Replaced by a newer patch; only its module is left.
    Replaced,
    /// A module that has no patch.
    ModuleOnly,
}

/// One patch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PatchStatus {
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: PatchState,
    /// The kernel's `enabled` attribute: the requested direction.
    pub enabled: bool,
    /// The kernel's `transition` attribute.
    pub transition: bool,
    /// The kernel's `replace` attribute.
    pub replace: bool,
    /// Whom it replaces.
    pub replace_set: u32,
    /// Its module can never be unloaded.
    pub forced: bool,
    /// The kernel's `refcnt` of its module: it can be unloaded when this is 0.
    pub refcnt: u32,
    /// Position on the stack from 1, the oldest.
    pub stack_order: Option<u32>,
    /// Its objects.
    pub objects: Vec<ObjectStatus>,
    /// Its system states.
    pub states: Vec<StateStatus>,
}

/// One system state of a patch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StateStatus {
    /// Its id.
    pub id: u64,
    /// Its version.
    pub version: u32,
    /// It has callbacks, shadow variables or a rule of its own.
    pub managed: bool,
    /// It owns the shadow variables with its id.
    pub is_shadow: bool,
    /// It cannot be taken back.
    pub block_disable: bool,
}

/// One object of a patch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ObjectStatus {
    /// Its name, as the log has it.
    pub name: String,
    /// The kernel's `patched` attribute.
    pub patched: bool,
    /// Whether it is mapped.
    pub loaded: bool,
    /// Its functions.
    pub functions: Vec<FunctionStatus>,
}

/// One function of an object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionStatus {
    /// Name of the old function.
    pub name: String,
    /// Its position among equal names, 1 when it is the only one.
    pub sympos: u64,
    /// It goes back to its original code.
    pub nop: bool,
}

/// Direction of a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Threads move to the patch.
    Patched,
    /// Threads move away from it.
    Unpatched,
}

impl Direction {
    pub(crate) fn of(target: Universe) -> Self {
        match target {
            Universe::Patched => Self::Patched,
            Universe::Unpatched => Self::Unpatched,
        }
    }
}

/// A running transition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TransitionStatus {
    /// The patch.
    pub patch: String,
    /// Where it is heading.
    pub target: Direction,
    /// Threads seen by the last pass.
    pub total: u32,
    /// Those of them that are there.
    pub switched: u32,
    /// Passes so far.
    pub attempts: u32,
    /// The others.
    pub blockers: Vec<BlockerStatus>,
}

/// A thread that holds up a transition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockerStatus {
    /// The thread.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// Its state letter (proc_pid_stat(5)).
    pub state: char,
    /// Why it cannot be switched.
    pub reason: String,
    /// The function that it is in and that must not be left behind.
    pub function: Option<String>,
    /// Its stack, innermost function first.
    pub stack: Vec<String>,
}

impl BlockerStatus {
    pub(crate) fn new(detail: &BlockerDetail) -> Self {
        let function = match &detail.blocker.verdict {
            Verdict::OnStack(name) => Some(name.clone()),
            Verdict::Switched | Verdict::Running | Verdict::Unreliable(_) => None,
        };
        Self {
            tid: detail.blocker.tid,
            comm: detail.blocker.comm.clone(),
            state: detail.state,
            reason: explain(&detail.blocker.verdict),
            function,
            stack: detail.stack.clone(),
        }
    }
}

/// Why a thread cannot be switched, said of it.
pub(crate) fn explain(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Switched => "can be switched".to_owned(),
        Verdict::Running => "is running and could not be stopped at a safe place".to_owned(),
        Verdict::Unreliable(why) => format!("has an unreliable stack: {why}"),
        Verdict::OnStack(name) => format!("is in function {name}"),
    }
}

/// Reads the state of a process without disturbing it or anybody who works on it.
///
/// # Errors
///
/// ESRCH, EPERM, ENOEXEC.
pub fn read_status(pid: i32) -> Result<Status, Error> {
    let process = Attached::look(pid)?;
    let mut status = Status {
        pid,
        executable: process.identity.executable.clone(),
        patches: Vec::new(),
        transition: None,
    };
    if let Some((mut state, records)) = load_quietly(&process)? {
        show_presence(&process.memory, &mut state, &records);
        status.patches = list_patches(&state, &records);
        status.transition = transition_status(&state, &records);
    }
    Ok(status)
}

/// Reads the database while another tool may be writing it: a commit in between makes a
/// reading invalid, so that it is repeated.
pub(crate) fn load_quietly(process: &Attached) -> Result<Option<(State, Records)>, Error> {
    let Some(control) = control::find(&process.maps()?) else {
        return Ok(None);
    };
    let mut result = database::load(&process.memory, control);
    for _ in 0..20 {
        match &result {
            Err(error) if error.errno() == Errno::EUCLEAN => {
                std::thread::sleep(std::time::Duration::from_millis(1));
                result = database::load(&process.memory, control);
            }
            _ => break,
        }
    }
    result.map_err(|error| process.explain(error))
}

pub(crate) fn transition_status(state: &State, records: &Records) -> Option<TransitionStatus> {
    let transition = state.transition.as_ref()?;
    let blockers: Vec<BlockerStatus> = records.blockers.iter().map(BlockerStatus::new).collect();
    Some(TransitionStatus {
        patch: state
            .patch(transition.patch)
            .map_or_else(String::new, |patch| patch.name.clone()),
        target: Direction::of(transition.target),
        total: records.threads_seen,
        switched: records.threads_seen.saturating_sub(blockers.len() as u32),
        attempts: u32::try_from(transition.attempts).unwrap_or(u32::MAX),
        blockers,
    })
}

pub(crate) fn list_patches(state: &State, records: &Records) -> Vec<PatchStatus> {
    let stacked = state.stack.iter().enumerate().map(|(index, patch)| {
        let order = u32::try_from(index + 1).ok();
        patch_status(state, patch, order)
    });
    let replaced = state
        .replaced
        .iter()
        .map(|patch| patch_status(state, patch, None));
    let others = records
        .modules
        .iter()
        .filter(|module| module.stage != Stage::Retired && state.find(&module.name).is_none())
        .map(|module| PatchStatus {
            name: module.name.clone(),
            state: PatchState::ModuleOnly,
            enabled: false,
            transition: false,
            replace: false,
            replace_set: 0,
            forced: false,
            refcnt: 0,
            stack_order: None,
            objects: Vec::new(),
            states: Vec::new(),
        });
    stacked.chain(replaced).chain(others).collect()
}

fn patch_status(state: &State, patch: &Patch, stack_order: Option<u32>) -> PatchStatus {
    let transition = state.is_in_transition(patch.id);
    PatchStatus {
        name: patch.name.clone(),
        state: match (transition, stack_order, patch.enabled) {
            (true, _, _) => PatchState::InTransition,
            (_, None, _) => PatchState::Replaced,
            (_, _, true) => PatchState::Enabled,
            _ => PatchState::Registered,
        },
        enabled: patch.enabled,
        transition,
        replace: patch.replace,
        replace_set: patch.replace_set,
        forced: patch.forced,
        refcnt: u32::from(state.check_unload(&patch.name).is_err()),
        stack_order,
        states: patch.states.iter().map(state_status).collect(),
        objects: patch
            .objects
            .iter()
            .map(|object| ObjectStatus {
                name: state.display_name(object.name.as_deref()).to_owned(),
                patched: object.patched,
                loaded: object.loaded,
                functions: object
                    .funcs
                    .iter()
                    .map(|func| FunctionStatus {
                        name: func.old_name.clone(),
                        sympos: func.old_sympos.max(1),
                        nop: func.is_nop(),
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn state_status(state: &SystemState) -> StateStatus {
    let asks = |for_it: fn(&Upkeep) -> bool| state.upkeep.as_ref().is_some_and(for_it);
    StateStatus {
        id: state.id,
        version: state.version,
        managed: state.upkeep.is_some(),
        is_shadow: asks(|upkeep| upkeep.owns_shadows),
        block_disable: asks(|upkeep| upkeep.block_disable),
    }
}
