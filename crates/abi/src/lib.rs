//! Memory layouts shared by the tool (outside) and the runtime (inside a target).
//!
//! This crate knows layouts and constants only. It must not know how they are read or
//! written, what the livepatch rules are, or that ptrace exists. It is `no_std` and is
//! compiled twice: into the tool, and into the runtime object that is put into targets.
//!
//! Sizes and offsets are part of the format: a target that was patched by one version of
//! the tool is picked up by another. Any change raises [`LAYOUT_VERSION`].
#![no_std]
#![forbid(unsafe_code)]

mod arrival;
mod control;
mod klp;
mod mailbox;
mod ring;

pub use arrival::{
    Arrivals, FunctionStatus, LibraryStatus, MAX_DISPLACED, ObjectStatus, PLAN_AWAITED, PLAN_BUILT,
    PLAN_FIXED, PLAN_IN_TRANSITION, PLAN_POST_UNPATCH_DUE, PLAN_SETTLED, Plan, PlanBinding,
    PlanFunction, PlanObject, Redirect, identify,
};
pub use control::{
    CONTROL_MAGIC, ControlHeader, Descriptor, LAYOUT_VERSION, MAX_PATCHES, PatchTable,
    RuntimeConfig,
};
pub use klp::{
    HEADERS_VERSION, KlpCallbacks, KlpFunc, KlpObject, KlpPatch, KlpState, KlpStateCallbacks,
    MODULE_NAME_LEN, Module, ModuleState, PARAM_ARRAY, ParamKind, ParamRecord,
};
pub use mailbox::{
    CallFrame, Command, CommandKind, Mailbox, RESULT_SLOTS, ResultSlot, SavedRegisters, TRAP_MAGIC,
    UpcallKind, XSAVE_CAPACITY,
};
pub use ring::{RING_BYTES, RecordHeader, RingHeader};
