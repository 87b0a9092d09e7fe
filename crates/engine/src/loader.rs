//! The target's dynamic linker, as debuggers see it (`struct r_debug`, link.h).

use engraft_elf::Image;
use engraft_process::Memory;

/// Offsets of `r_map` and `r_state` in `struct r_debug`.
const MAP: u64 = 8;
const STATE: u64 = 24;

/// No object is being added or removed.
const RT_CONSISTENT: u32 = 0;

/// Whether the dynamic linker of the program `main` is in the middle of mapping or unmapping
/// objects: at the start of the program, before it knows of any, or in dlopen(3) and dlclose(3).
pub(crate) fn is_at_work(memory: &Memory, main: &Image) -> bool {
    let Some(debug) = main.debug else {
        return false;
    };
    if debug == 0 {
        return true;
    }
    // Where nothing can be read there is no such structure, and nothing to wait for.
    let map = memory.read::<u64>(debug.wrapping_add(MAP)).unwrap_or(1);
    let state = memory.read::<u32>(debug.wrapping_add(STATE));
    map == 0 || state.is_ok_and(|state| state != RT_CONSISTENT)
}
