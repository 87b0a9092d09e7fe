//! The target's dynamic linker, as debuggers see it (`struct r_debug`, link.h).

use engraft_elf::Image;
use engraft_process::Memory;

/// Offsets of `r_map`, `r_brk` and `r_state` in `struct r_debug`.
const MAP: u64 = 8;
const NOTIFY: u64 = 16;
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

/// Address of the function that the dynamic linker calls before and after it maps or unmaps
/// objects, `debug` being that of its `struct r_debug`.
pub(crate) fn read_notify(memory: &Memory, debug: u64) -> Result<u64, engraft_process::Error> {
    memory.read(debug.wrapping_add(NOTIFY))
}

/// Objects in one list; more are a list that does not end.
const MAX_OBJECTS: u32 = 1 << 16;

/// Offset of `l_next` in `struct link_map`, which begins with `l_addr`.
const NEXT: u64 = 24;

/// Whether the program's own list of objects has one with this load bias. Those of dlmopen(3)
/// are in lists of their own.
pub(crate) fn lists(
    memory: &Memory,
    debug: u64,
    bias: u64,
) -> Result<bool, engraft_process::Error> {
    let mut map: u64 = memory.read(debug.wrapping_add(MAP))?;
    for _ in 0..MAX_OBJECTS {
        if map == 0 {
            break;
        }
        if memory.read::<u64>(map)? == bias {
            return Ok(true);
        }
        map = memory.read(map.wrapping_add(NEXT))?;
    }
    Ok(false)
}
