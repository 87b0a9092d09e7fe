//! What the tool tells the runtime before the first entry.

use engraft_abi::{PatchTable, RingHeader, RuntimeConfig};

/// Written by the tool from outside; read-only here.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.engraft_config")]
pub(crate) static engraft_config: RuntimeConfig = RuntimeConfig {
    patch_table: 0,
    ring: 0,
    heap: 0,
    heap_length: 0,
    xsave_mask: 0,
    tsc_allowed: 0,
    debug: 0,
    plan: 0,
};

/// The configuration as it is in memory now.
///
/// The compiler sees an immutable static full of zeros, hence the volatile read.
pub(crate) fn read_config() -> RuntimeConfig {
    // SAFETY: the static is initialized, aligned and never written by this process.
    unsafe { core::ptr::read_volatile(&raw const engraft_config) }
}

/// The log ring, or null when the tool has not provided one.
pub(crate) fn ring() -> *mut RingHeader {
    read_config().ring as *mut RingHeader
}

/// The patches on the stack, or null when the tool has not provided them.
pub(crate) fn patch_table() -> *const PatchTable {
    read_config().patch_table as *const PatchTable
}
