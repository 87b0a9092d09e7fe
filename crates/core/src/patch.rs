//! Patches, objects and funcs.

use serde::{Deserialize, Serialize};

use crate::callbacks::CallbackKind;

/// A registered patch, never reused within one [`crate::State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PatchId(pub u32);

/// A half-open range of addresses in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Range {
    /// Whether `address` lies in the range.
    #[must_use]
    pub fn contains(self, address: u64) -> bool {
        address
            .checked_sub(self.start)
            .is_some_and(|offset| offset < self.len)
    }

    /// Whether the range is neither empty nor wraps around.
    #[must_use]
    pub fn is_sound(self) -> bool {
        self.len > 0 && self.start.checked_add(self.len).is_some()
    }
}

/// Where one implementation of a function lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// The function itself; its first byte is the entry.
    pub body: Range,
    /// Parts that the compiler moved away (`.cold`): a return address in one of them is a
    /// return into this function.
    pub cold: Vec<Range>,
}

impl Code {
    /// Code in one piece.
    #[must_use]
    pub fn new(start: u64, len: u64) -> Self {
        let body = Range { start, len };
        Self {
            body,
            cold: Vec::new(),
        }
    }

    /// Address of the entry.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.body.start
    }

    /// All parts, the body first.
    pub fn parts(&self) -> impl Iterator<Item = Range> + '_ {
        std::iter::once(self.body).chain(self.cold.iter().copied())
    }
}

/// What a func puts in place of the old function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replacement {
    /// The author's new function.
    New(Code),
    /// The original: made by the core for a replacing patch, never given by an author.
    Nop,
}

/// An old function and its replacement (`klp_func`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Func {
    /// Symbol name of the old function.
    pub old_name: String,
    /// Which of several equal names; 0 and 1 both mean the first.
    pub old_sympos: u64,
    /// The original code; `None` exactly while the object is not loaded.
    pub old: Option<Code>,
    /// What replaces it.
    pub replacement: Replacement,
}

impl Func {
    /// Whether this is a nop.
    #[must_use]
    pub fn is_nop(&self) -> bool {
        self.replacement == Replacement::Nop
    }

    /// What names the symbol within its object. Positions 0 and 1 are equal, as in Linux
    /// since 6.19.
    pub(crate) fn symbol(&self) -> (&str, u64) {
        (&self.old_name, self.old_sympos.max(1))
    }

    /// Address of the original entry, if it is known.
    #[must_use]
    pub fn entry(&self) -> Option<u64> {
        self.old.as_ref().map(Code::entry)
    }
}

/// Addresses of the callbacks of an object (`klp_callbacks`) or a state, each optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callbacks {
    /// May veto by returning non-zero.
    pub pre_patch: Option<u64>,
    /// After every thread has been moved to the patch.
    pub post_patch: Option<u64>,
    /// Before threads are moved back.
    pub pre_unpatch: Option<u64>,
    /// After every thread has been moved back.
    pub post_unpatch: Option<u64>,
}

/// A system state that a patch modifies (`klp_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemState {
    /// Non-zero name.
    pub id: u64,
    /// A replacing patch must bring the same or a higher one.
    pub version: u32,
    /// How it is set up and taken back; `None` for a state as the kernel knows it.
    pub upkeep: Option<Upkeep>,
}

/// How a state is set up when it appears and taken back when it disappears (design section 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkeep {
    /// Its own callbacks.
    pub callbacks: Callbacks,
    /// The shadow variables whose id is the state's are freed with it.
    pub owns_shadows: bool,
    /// Called for each of them.
    pub shadow_dtor: Option<u64>,
    /// It cannot be taken back.
    pub block_disable: bool,
    /// A value of the caller's, kept and handed to callbacks.
    pub handle: u64,
}

impl SystemState {
    /// A state as the kernel knows it.
    #[must_use]
    pub fn plain(id: u64, version: u32) -> Self {
        Self {
            id,
            version,
            upkeep: None,
        }
    }
}

impl Upkeep {
    /// Whether it asks for anything that the kernel does not do.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        let plain = Self {
            handle: self.handle,
            ..Self::default()
        };
        *self != plain
    }

    /// Whether something is done to take the state back.
    pub(crate) fn takes_back(&self) -> bool {
        self.callbacks.pre_unpatch.is_some() || self.callbacks.post_unpatch.is_some()
    }
}

/// A patch to be registered, resolved against the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPatch {
    /// Name of the patch module.
    pub name: String,
    /// Whether it replaces every older patch of its set.
    pub replace: bool,
    /// Its set; 0 is the one of patches that name none.
    pub replace_set: u32,
    /// Its objects, in the author's order.
    pub objects: Vec<NewObject>,
    /// Its states.
    pub states: Vec<SystemState>,
    /// A value of the caller's, kept and never looked at.
    pub handle: u64,
}

/// One object of a [`NewPatch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewObject {
    /// Library name; `None` is the main executable.
    pub name: Option<String>,
    /// Whether it is mapped in the target now. The main executable always is.
    pub loaded: bool,
    /// A value of the caller's that no other load of it has.
    pub load: u64,
    /// Its funcs, in the author's order; may be empty when there are callbacks.
    pub funcs: Vec<Func>,
    /// Its callbacks.
    pub callbacks: Callbacks,
    /// A value of the caller's, kept and handed to callbacks.
    pub handle: u64,
}

/// A registered patch (`klp_patch`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// Its number.
    pub id: PatchId,
    /// Name of the patch module.
    pub name: String,
    /// Whether it replaces every older patch of its set.
    pub replace: bool,
    /// Its set.
    pub replace_set: u32,
    /// Requested direction; true even while the transition towards it runs.
    pub enabled: bool,
    /// Some thread was forced out of its code: the module can never be unloaded.
    pub forced: bool,
    /// Just replaced, its successor's post_patch callbacks still see it.
    pub leaving: bool,
    /// The author's objects in order, then dynamic ones.
    pub objects: Vec<Object>,
    /// Its states.
    pub states: Vec<SystemState>,
    /// A value of the caller's.
    pub handle: u64,
}

/// An object of a registered patch (`klp_object`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Library name; `None` is the main executable.
    pub name: Option<String>,
    /// Whether it is mapped in the target.
    pub loaded: bool,
    /// Which load of it that is; a value of the caller's.
    pub load: u64,
    /// Whether its funcs are on their function stacks. True for a callback-only object of
    /// an enabled patch, too: it says nothing about the number of funcs.
    pub patched: bool,
    /// post_patch has run, so pre_unpatch is owed before threads leave its funcs. Without such
    /// callbacks the moment counts in which they would have.
    pub settled: bool,
    /// pre_patch succeeded, so post_unpatch is owed.
    pub post_unpatch_due: bool,
    /// Made by the core to hold nops; it has no callbacks.
    pub dynamic: bool,
    /// The author's funcs in order, then nops.
    pub funcs: Vec<Func>,
    /// Its callbacks.
    pub callbacks: Callbacks,
    /// A value of the caller's; 0 for dynamic objects.
    pub handle: u64,
}

impl Callbacks {
    /// Address of one of them.
    #[must_use]
    pub fn address(&self, kind: CallbackKind) -> Option<u64> {
        match kind {
            CallbackKind::PrePatch => self.pre_patch,
            CallbackKind::PostPatch => self.post_patch,
            CallbackKind::PreUnpatch => self.pre_unpatch,
            CallbackKind::PostUnpatch => self.post_unpatch,
        }
    }
}

impl Patch {
    /// Its entry for a state.
    #[must_use]
    pub fn state(&self, id: u64) -> Option<&SystemState> {
        self.states.iter().find(|state| state.id == id)
    }
}

impl From<NewPatch> for Patch {
    fn from(new: NewPatch) -> Self {
        Self {
            id: PatchId(0),
            name: new.name,
            replace: new.replace,
            replace_set: new.replace_set,
            enabled: false,
            forced: false,
            leaving: false,
            objects: new.objects.into_iter().map(Object::from).collect(),
            states: new.states,
            handle: new.handle,
        }
    }
}

impl From<NewObject> for Object {
    fn from(new: NewObject) -> Self {
        Self {
            name: new.name,
            loaded: new.loaded,
            load: new.load,
            patched: false,
            settled: false,
            post_unpatch_due: false,
            dynamic: false,
            funcs: new.funcs,
            callbacks: new.callbacks,
            handle: new.handle,
        }
    }
}
