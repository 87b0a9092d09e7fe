//! The structures of `include/linux/livepatch.h` and `include/linux/module.h` as a compiler
//! lays them out for x86-64. Pointers are `u64`: they are addresses in the target.

/// Length of a module's name with its terminating zero (kernel: MODULE_NAME_LEN).
pub const MODULE_NAME_LEN: usize = 56;

/// `struct klp_func`. An array ends with an entry whose three fields are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KlpFunc {
    /// C string: name of the function to be replaced.
    pub old_name: u64,
    /// The replacement.
    pub new_func: u64,
    /// Which of several functions of that name; 0 when it is the only one.
    pub old_sympos: u64,
}

/// `struct klp_callbacks`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the kernel's
pub struct KlpCallbacks {
    pub pre_patch: u64,
    pub post_patch: u64,
    pub pre_unpatch: u64,
    pub post_unpatch: u64,
    /// bool, widened by padding.
    pub post_unpatch_enabled: u64,
}

/// `struct klp_object`. An array ends with an entry whose `name` and `funcs` are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KlpObject {
    /// C string, or 0 for the main executable.
    pub name: u64,
    /// Array of [`KlpFunc`].
    pub funcs: u64,
    /// The object's callbacks.
    pub callbacks: KlpCallbacks,
    /// Address of a [`Module`] that describes the library; 0 for the main executable and
    /// for a library that is not loaded. Set by the tool.
    pub module: u64,
}

/// `struct klp_state_callbacks`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the header's
pub struct KlpStateCallbacks {
    pub pre_patch: u64,
    pub post_patch: u64,
    pub pre_unpatch: u64,
    pub post_unpatch: u64,
    pub shadow_dtor: u64,
}

/// `struct klp_state`. An array ends with an entry whose `id` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KlpState {
    /// Non-zero name of the state.
    pub id: u64,
    /// Version; padded to 8 bytes.
    pub version: u32,
    /// Zero.
    pub padding: u32,
    /// Free for the patch's author.
    pub data: u64,
    /// Called when the state appears or disappears.
    pub callbacks: KlpStateCallbacks,
    /// bool: the shadow variables of this id belong to it.
    pub is_shadow: u8,
    /// bool: it cannot be taken back.
    pub block_disable: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// What the headers that a module is compiled with say about themselves, in its module
/// information under the tag `engraft`: the version of the structures in this file.
pub const HEADERS_VERSION: &str = "2";

/// `struct klp_patch`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KlpPatch {
    /// THIS_MODULE of the patch module.
    pub module: u64,
    /// Array of [`KlpObject`].
    pub objects: u64,
    /// Array of [`KlpState`], or 0.
    pub states: u64,
    /// bool (one byte, then padding).
    pub replace: u8,
    /// Set by the tool: the patch is enabled.
    pub enabled: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Whom it replaces.
    pub replace_set: u32,
}

/// `enum module_state`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the kernel's
pub enum ModuleState {
    Live = 0,
    Coming = 1,
    Going = 2,
    Unformed = 3,
}

/// `struct module`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// A [`ModuleState`].
    pub state: u32,
    /// Zero-terminated name.
    pub name: [u8; MODULE_NAME_LEN],
    /// Zero.
    pub reserved: u32,
}

/// Type of a module parameter (`module_param(name, type, perm)`).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the kernel's
pub enum ParamKind {
    Bool = 1,
    Byte = 2,
    Short = 3,
    Ushort = 4,
    Int = 5,
    Uint = 6,
    Long = 7,
    Ulong = 8,
    Ullong = 9,
    Charp = 10,
}

/// Or'ed to [`ParamRecord::kind`] for `module_param_array`.
pub const PARAM_ARRAY: u32 = 0x100;

/// One entry of a module's `__param` section.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParamRecord {
    /// C string.
    pub name: u64,
    /// The variable, or the array's first element.
    pub variable: u64,
    /// For arrays: address of the `unsigned int` that receives the number of values, or 0.
    pub count: u64,
    /// A [`ParamKind`], possibly with [`PARAM_ARRAY`].
    pub kind: u32,
    /// For arrays: number of elements; else 1.
    pub elements: u32,
}
