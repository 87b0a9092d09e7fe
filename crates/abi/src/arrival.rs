//! Libraries that come and go while no tool is there: what the runtime is to do then, and what
//! it says that it has done.
//!
//! A [`Plan`] is written by the tool, lies in memory that the target cannot write, and never
//! changes: another one takes its place by one store to [`crate::RuntimeConfig::plan`]. The
//! status structures are the runtime's to write; the tool writes them only before a plan that
//! names them is in force, or while no hook is there.
//!
//! A load of a library has a number that none of its other loads has. Plan and statuses say
//! which load they speak of; what speaks of another one is out of date.

/// What is to be done when a library comes or goes. `count` [`PlanObject`]s follow, oldest patch
/// first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Number of this plan, never 0 and never repeated.
    pub generation: u64,
    /// What threads carry that the transition has moved, 0 when none runs.
    pub token: u64,
    /// 1 when the transition moves threads to the patch, 0 when away from it.
    pub patching: u64,
    /// Number of the objects that follow.
    pub count: u64,
}

/// One object of one patch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanObject {
    /// C string: name of the patch.
    pub patch: u64,
    /// C string: name of the object, as its author wrote it.
    pub name: u64,
    /// Address of its `struct klp_object`; 0 for one that only holds nops.
    pub object: u64,
    /// pre_patch, post_patch, pre_unpatch, post_unpatch; 0 for those that there are not.
    pub callbacks: [u64; 4],
    /// Address of the `struct module` that stands for the library.
    pub module: u64,
    /// Address of the [`LibraryStatus`].
    pub library: u64,
    /// Address of this object's [`ObjectStatus`].
    pub status: u64,
    /// The load that `flags` and `calling` speak of, 0 for none.
    pub load: u64,
    /// `PLAN_` bits.
    pub flags: u64,
    /// Number of the command by which the tool is to run, or has run, a callback of the object;
    /// 0 for none.
    pub calling: u64,
    /// Which one: an index into `callbacks`.
    pub calling_kind: u64,
    /// Address of `function_count` [`PlanFunction`]s: the author's in order, then nops.
    pub functions: u64,
    /// Their number.
    pub function_count: u64,
    /// Address of `binding_count` [`PlanBinding`]s.
    pub bindings: u64,
    /// Their number.
    pub binding_count: u64,
    /// The load that `known` values are of: what it added to the addresses in its file.
    pub bias: u64,
    /// Tells the file of that load from others ([`identify`]); 0 when that is not known.
    pub identity: u64,
}

/// The patch is applied to the object when it comes.
pub const PLAN_AWAITED: u64 = 1;
/// The patch is in transition: its functions choose by thread, and post_patch waits.
pub const PLAN_IN_TRANSITION: u64 = 2;
/// The patch was built from a source change, for one build of the library.
pub const PLAN_BUILT: u64 = 16;
/// Its code refers to the library in a way that holds for one bias only.
pub const PLAN_FIXED: u64 = 32;
/// pre_unpatch is owed when it goes.
pub const PLAN_SETTLED: u64 = 4;
/// post_unpatch is owed when it goes.
pub const PLAN_POST_UNPATCH_DUE: u64 = 8;

/// One function of a [`PlanObject`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanFunction {
    /// C string: name of the old function.
    pub name: u64,
    /// Which of several of that name; 0 when it is the only one.
    pub position: u64,
    /// The replacement, 0 for a nop.
    pub replacement: u64,
    /// Address of its [`FunctionStatus`].
    pub status: u64,
    /// Address and size of the old function in the load that is known, 0 when none is.
    pub known: u64,
    /// Its size.
    pub known_size: u64,
}

/// A place that holds the address of something in the library.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanBinding {
    /// C string: name of the symbol.
    pub name: u64,
    /// Which of several of that name; 0 when it is the only one.
    pub position: u64,
    /// Address of the eight bytes.
    pub place: u64,
    /// What is added to the symbol's address.
    pub addend: i64,
    /// 1 when the place is protected from writing.
    pub protected: u64,
}

/// What tells one file from another: a hash of its build-id (FNV-1a, 64 bits), never 0.
#[must_use]
#[inline] // the runtime is compiled alone: it has no other crate to call
pub fn identify(build_id: &[u8]) -> u64 {
    let hash = build_id
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    hash | 1
}

/// A library, whichever patches name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LibraryStatus {
    /// Number of the load that is there, 0 when none is.
    pub load: u64,
    /// Loads so far.
    pub loads: u64,
    /// Not 0 once the runtime follows it.
    pub watched: u64,
    /// Address of the dynamic linker's `struct link_map` for it.
    pub map: u64,
    /// What is added to the addresses in its file.
    pub bias: u64,
    /// One past its last address.
    pub end: u64,
    /// Not 0 once its constructors are being run.
    pub started: u64,
    /// Not 0 once its destructors have been run.
    pub finished: u64,
    /// Memory mapped near it for its redirects, kept for its next load; 0 when there is none.
    pub memory: u64,
    /// Bytes of that.
    pub memory_length: u64,
}

/// An object of a patch, as the runtime has treated it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The load to which the runtime has applied the patch, 0 for none.
    pub load: u64,
    /// 1 when post_patch is done, too.
    pub settled: u64,
    /// The last load that was refused because of this patch.
    pub refused: u64,
    /// Positive errno of that.
    pub errno: u64,
    /// The bias of the load that [`PlanBinding`]s were last bound to by the runtime, 0 for none.
    pub bias: u64,
}

/// A function, valid for the load that its object's status names.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FunctionStatus {
    /// Address of the old function.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Address of its [`Redirect`].
    pub redirect: u64,
}

/// Bytes of displaced instructions that are kept: five, and the rest of the last instruction.
pub const MAX_DISPLACED: usize = 32;

/// A redirect that the runtime has installed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// The function.
    pub function: u64,
    /// Address of the jump.
    pub site: u64,
    /// Bytes of the instructions that it displaces.
    pub original_length: u64,
    /// The instructions themselves.
    pub original: [u8; MAX_DISPLACED],
    /// `jmp *slot`, 8 bytes.
    pub router: u64,
    /// Address of the slot.
    pub slot: u64,
}

/// The runtime's own side (symbol `engraft_arrivals`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Generation of the plan by which a thread is acting now; 0 when none is, `u64::MAX` while
    /// one is about to look which plan is in force.
    pub working: u64,
    /// Loads and unloads of libraries in the plan so far, raised before the dynamic linker
    /// goes on.
    pub events: u64,
}
