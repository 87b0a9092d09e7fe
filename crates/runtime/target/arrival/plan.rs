//! The plan in force, and what it says is owed to an object.

use core::ptr::{addr_of_mut, read_volatile, write_volatile};

use engraft_abi::{
    KlpObject, LibraryStatus, ModuleState, ObjectStatus, PLAN_AWAITED, PLAN_IN_TRANSITION,
    PLAN_POST_UNPATCH_DUE, PLAN_SETTLED, Plan, PlanBinding, PlanFunction, PlanObject, RESULT_SLOTS,
};

use crate::config;
use crate::serve::engraft_mailbox;

/// The plan in force; stays where it is while [`super::hook`] says that it is used.
#[derive(Clone, Copy)]
pub(super) struct PlanInForce {
    plan: &'static Plan,
}

/// Indices into [`PlanObject::callbacks`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Callback {
    PrePatch = 0,
    PostPatch = 1,
    PreUnpatch = 2,
    PostUnpatch = 3,
}

impl PlanInForce {
    /// Reads which plan is in force.
    pub(super) fn read() -> Option<Self> {
        // SAFETY: the tool names a plan that it has written completely, or none.
        let plan = unsafe { (config::read_config().plan as *const Plan).as_ref() }?;
        Some(Self { plan })
    }

    pub(super) fn generation(self) -> u64 {
        self.plan.generation
    }

    pub(super) fn token(self) -> u64 {
        self.plan.token
    }

    /// Whether the transition that runs moves threads to its patch.
    pub(super) fn is_patching(self) -> bool {
        self.plan.patching != 0
    }

    /// All objects, oldest patch first.
    pub(super) fn objects(self) -> impl Iterator<Item = Part> + Clone {
        let first = core::ptr::from_ref(self.plan)
            .wrapping_add(1)
            .cast::<PlanObject>();
        // SAFETY: `count` objects follow the plan.
        (0..self.plan.count as usize).map(move |index| unsafe { Part(&*first.add(index)) })
    }

    /// The objects that stand for one library.
    pub(super) fn parts_of(self, library: Library) -> impl Iterator<Item = Part> + Clone {
        self.objects().filter(move |part| part.library() == library)
    }

    /// All libraries, each once, by the first object that names it.
    pub(super) fn libraries(self) -> impl Iterator<Item = (Library, Part)> {
        let firsts = self.objects().enumerate().filter(move |(index, part)| {
            let mut before = self.objects().take(*index);
            !before.any(|other| other.library() == part.library())
        });
        firsts.map(|(_, part)| (part.library(), part))
    }
}

/// One object of one patch.
#[derive(Clone, Copy)]
pub(super) struct Part(pub(super) &'static PlanObject);

impl Part {
    pub(super) fn library(self) -> Library {
        Library(self.0.library as *mut LibraryStatus)
    }

    pub(super) fn is_awaited(self) -> bool {
        self.0.flags & PLAN_AWAITED != 0
    }

    pub(super) fn is_in_transition(self) -> bool {
        self.0.flags & PLAN_IN_TRANSITION != 0
    }

    /// The functions in order: the author's, then nops.
    pub(super) fn functions(self) -> impl Iterator<Item = &'static PlanFunction> + Clone {
        let first = self.0.functions as *const PlanFunction;
        // SAFETY: the plan names that many functions there.
        (0..self.0.function_count as usize).map(move |index| unsafe { &*first.add(index) })
    }

    /// Places of the patch's code that hold addresses in the library.
    pub(super) fn bindings(self) -> impl Iterator<Item = &'static PlanBinding> {
        let first = self.0.bindings as *const PlanBinding;
        // SAFETY: the plan names that many bindings there.
        (0..self.0.binding_count as usize).map(move |index| unsafe { &*first.add(index) })
    }

    pub(super) fn status(self) -> ObjectStatus {
        // SAFETY: the plan names a status, which the thread that has the turn may use.
        unsafe { read_volatile(self.0.status as *const ObjectStatus) }
    }

    pub(super) fn set_status(self, status: ObjectStatus) {
        // SAFETY: as above.
        unsafe { write_volatile(self.0.status as *mut ObjectStatus, status) };
    }

    /// Runs a callback, if there is one; 0 otherwise.
    pub(super) fn call(self, callback: Callback) -> i32 {
        type Function = extern "C" fn(u64) -> i32;
        let address = self
            .0
            .callbacks
            .get(callback as usize)
            .copied()
            .unwrap_or(0);
        if address == 0 {
            return 0;
        }
        // SAFETY: the tool names a function of a module that it has linked into this process.
        let function: Function = unsafe { core::mem::transmute(address) };
        let value = function(self.0.object);
        if callback == Callback::PrePatch {
            value
        } else {
            0
        }
    }

    /// Says to the author's code which library the object is, or that there is none.
    pub(super) fn set_module(self, there: bool) {
        if self.0.object != 0 {
            let module = if there { self.0.module } else { 0 };
            // SAFETY: the plan names the author's object, whose memory is writable.
            unsafe {
                (&raw mut (*(self.0.object as *mut KlpObject)).module).write_volatile(module)
            };
        }
    }

    /// `module->state`, for the author's code.
    pub(super) fn set_module_state(self, state: ModuleState) {
        let module = self.0.module as *mut engraft_abi::Module;
        // SAFETY: the plan names the record that stands for the library.
        unsafe { (&raw mut (*module).state).write_volatile(state as u32) };
    }

    /// Whether pre_unpatch and post_unpatch are owed to the object in the load that is there.
    pub(super) fn owed(self) -> (bool, bool) {
        let load = self.library().read().load;
        if self.0.load != load {
            let status = self.status();
            let ours = status.load == load;
            return (ours && status.settled != 0, ours);
        }
        let mut settled = self.0.flags & PLAN_SETTLED != 0;
        let mut due = self.0.flags & PLAN_POST_UNPATCH_DUE != 0;
        // A callback that the tool has run counts, whether it has noted it or not.
        if let Some(value) = find_result(self.0.calling) {
            match self.0.calling_kind {
                0 => due = value as i32 == 0,
                1 => settled = true,
                2 => settled = false,
                _ => due = false,
            }
        }
        (settled, due)
    }
}

/// The result of the tool's command of that number, if it was carried out.
fn find_result(sequence: u64) -> Option<u64> {
    if sequence == 0 {
        return None;
    }
    // SAFETY: the index is below the array's length; the tool's threads write it only while
    // they have the turn, which this thread has.
    unsafe {
        let results = addr_of_mut!(engraft_mailbox.results).cast::<engraft_abi::ResultSlot>();
        let slot = read_volatile(results.add((sequence % RESULT_SLOTS as u64) as usize));
        (slot.sequence == sequence).then_some(slot.value)
    }
}

/// A library that patches name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Library(*mut LibraryStatus);

impl Library {
    pub(super) fn at(status: *mut LibraryStatus) -> Self {
        Self(status)
    }

    pub(super) fn read(self) -> LibraryStatus {
        // SAFETY: the plan names a status, which the thread that has the turn may use.
        unsafe { read_volatile(self.0) }
    }

    pub(super) fn write(self, status: LibraryStatus) {
        // SAFETY: as above.
        unsafe { write_volatile(self.0, status) };
    }

    /// Where the linker's calls of constructors and destructors are noted.
    pub(super) fn marks(self) -> (u64, u64) {
        // SAFETY: addresses inside the status only.
        unsafe {
            (
                &raw const (*self.0).started as u64,
                &raw const (*self.0).finished as u64,
            )
        }
    }
}
