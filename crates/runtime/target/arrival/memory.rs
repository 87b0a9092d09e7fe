//! Memory near a library, and changing what is protected.

use crate::syscall::{self, PAGE};

/// How far apart two bytes may be that refer to each other with 32 bits, with room to spare for
/// what lies between.
const REACH: u64 = 0x7f00_0000;

/// Distance between the places that are tried.
const STEP: u64 = 1 << 20;

pub(super) const READ: u64 = 1;
pub(super) const READ_WRITE: u64 = 1 | 2;
pub(super) const READ_EXECUTE: u64 = 1 | 4;

/// Whether everything in `start..start + length` can refer to everything in `low..high`, and
/// the other way round.
pub(super) fn is_near(start: u64, length: u64, low: u64, high: u64) -> bool {
    let end = start.saturating_add(length);
    end.saturating_sub(low.min(start)) < REACH && high.saturating_sub(start.min(low)) < REACH
}

/// Maps new writable memory near `low..high`: below it, where the dynamic linker would map the
/// next library too, or else above.
pub(super) fn map_near(low: u64, high: u64, length: u64) -> Option<u64> {
    let below = (1..REACH / STEP).map(|step| low.checked_sub(step * STEP)?.checked_sub(length));
    let above = (1..REACH / STEP).map(|step| high.checked_add(step * STEP));
    let page = PAGE as u64;
    below.chain(above).flatten().find_map(|address| {
        let address = address & !(page - 1);
        let near = address >= 16 * page && is_near(address, length, low, high);
        (near && syscall::map_at(address, length)).then_some(address)
    })
}

/// Changes the protection of whole pages that hold `start..start + length`.
///
/// # Safety
/// Nobody relies on what the new protection forbids.
pub(super) unsafe fn protect(start: u64, length: u64, protection: u64) -> Result<(), i32> {
    let first = start & !(PAGE as u64 - 1);
    let end = start.wrapping_add(length).wrapping_add(PAGE as u64 - 1) & !(PAGE as u64 - 1);
    // SAFETY: the caller's contract.
    match unsafe { syscall::protect(first, end.wrapping_sub(first), protection) } {
        0 => Ok(()),
        error => Err(-(error as i32)),
    }
}

/// Writes a word, which may be protected from writing.
///
/// # Safety
/// Eight bytes at `place` are mapped and readable, and whoever reads them may find either value.
pub(super) unsafe fn write_word(place: u64, value: u64, protected: bool) -> Result<(), i32> {
    // SAFETY: the caller's contract; that others can read it holds throughout.
    unsafe {
        if protected {
            protect(place, 8, READ_WRITE)?;
        }
        (place as *mut u64).write_volatile(value);
        if protected {
            protect(place, 8, READ)?;
        }
    }
    Ok(())
}
