//! The read-only part of the control mapping: written by the tool from outside, never by
//! the target.

/// First eight bytes of a control mapping.
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"engraft\0");

/// Version of every layout in this crate.
pub const LAYOUT_VERSION: u32 = 5;

/// Upper bound of patches that a target can hold at once, replaced ones included.
pub const MAX_PATCHES: usize = 256;

/// One of the two places where the serialized state lies.
///
/// A commit writes the bytes first and the descriptor last, `generation` being the word
/// that makes it valid; the valid descriptor with the higher generation wins. A tool that
/// is killed in between leaves the other descriptor in force.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Commit counter; 0 means never written.
    pub generation: u64,
    /// Address of the serialized state in the target.
    pub address: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Room at `address` in bytes.
    pub capacity: u64,
    /// FNV-1a (64 bits) of the generation (little endian) followed by the serialized bytes.
    pub checksum: u64,
}

/// Start of the control mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlHeader {
    /// [`CONTROL_MAGIC`].
    pub magic: u64,
    /// [`LAYOUT_VERSION`].
    pub version: u32,
    /// Zero.
    pub reserved: u32,
    /// The two places for the state.
    pub state: [Descriptor; 2],
}

/// The patches in stack order, as the runtime needs them for `klp_get_prev_state()`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PatchTable {
    /// Number of valid entries in `patches`.
    pub count: u32,
    /// Index of the patch in transition, or `u32::MAX`.
    pub transition: u32,
    /// Addresses of the patches' `struct klp_patch`, oldest first; enabled or in transition only.
    pub patches: [u64; MAX_PATCHES],
}

/// What the runtime is told about its surroundings. Lies in the read-only data of the
/// runtime (symbol `engraft_config`) and is filled in before the runtime is first entered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Address of the [`PatchTable`].
    pub patch_table: u64,
    /// Address of the [`crate::RingHeader`]; the ring's bytes follow it.
    pub ring: u64,
    /// First byte of memory that the allocator may hand out (writable, zeroed).
    pub heap: u64,
    /// Its length in bytes; more is asked for with mmap when it is used up.
    pub heap_length: u64,
    /// Component mask for xsave and xrstor (XCR0).
    pub xsave_mask: u64,
    /// 1 when `rdtsc` may be executed, 0 when the target has it disabled.
    pub tsc_allowed: u64,
    /// Address of the dynamic linker's `struct r_debug`, 0 when there is none.
    pub debug: u64,
    /// Address of the [`crate::Plan`] in force, 0 for none; written at any time.
    pub plan: u64,
}
