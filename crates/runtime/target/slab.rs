//! `linux/slab.h` and `linux/string.h`: C's side of the heap.

use core::ffi::{c_char, c_void};

use crate::heap;
use crate::log;
use crate::syscall;

/// The block is to be zeroed (`linux/gfp.h`); the other flags mean nothing here.
const GFP_ZERO: u32 = 0x100;

/// `void *kmalloc(size_t size, gfp_t flags)`; NULL when there is no memory.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn engraft_kmalloc(size: usize, flags: u32) -> *mut c_void {
    if flags & GFP_ZERO == 0 {
        heap::allocate(size).cast()
    } else {
        heap::allocate_zeroed(size).cast()
    }
}

/// `void *kzalloc(size_t size, gfp_t flags)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn engraft_kzalloc(size: usize, _flags: u32) -> *mut c_void {
    heap::allocate_zeroed(size).cast()
}

/// `void *kmalloc_array(size_t count, size_t size, gfp_t flags)`; NULL when the product
/// overflows, too.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn engraft_kmalloc_array(
    count: usize,
    size: usize,
    flags: u32,
) -> *mut c_void {
    count
        .checked_mul(size)
        .map_or(core::ptr::null_mut(), |total| engraft_kmalloc(total, flags))
}

/// `void *kcalloc(size_t count, size_t size, gfp_t flags)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn engraft_kcalloc(count: usize, size: usize, flags: u32) -> *mut c_void {
    engraft_kmalloc_array(count, size, flags | GFP_ZERO)
}

/// `void *krealloc(const void *memory, size_t size, gfp_t flags)`; NULL leaves the old block
/// as it was. Size 0 frees.
///
/// # Safety
/// `memory` is null or a block in use, and nobody else uses it.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_krealloc(
    memory: *mut c_void,
    size: usize,
    flags: u32,
) -> *mut c_void {
    if memory.is_null() {
        return engraft_kmalloc(size, flags);
    }
    if size == 0 {
        // SAFETY: the caller's contract.
        unsafe { engraft_kfree(memory) };
        return core::ptr::null_mut();
    }
    // SAFETY: the caller's contract.
    let Some(room) = (unsafe { heap::usable_size(memory.cast()) }) else {
        report_bad_block(c"krealloc: %p is not a block in use", memory);
        return core::ptr::null_mut();
    };
    if size <= room {
        return memory;
    }
    let larger = engraft_kmalloc(size, flags);
    if !larger.is_null() {
        // SAFETY: the new block has more than `room` bytes, and the two are different.
        unsafe {
            larger
                .cast::<u8>()
                .copy_from_nonoverlapping(memory.cast(), room);
            heap::release(memory.cast());
        }
    }
    larger
}

/// `void kfree(const void *memory)`. A block that is not in use is reported in the log and
/// left alone.
///
/// # Safety
/// `memory` is null, or 16 readable bytes lie in front of it; nobody uses the block any more.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_kfree(memory: *mut c_void) {
    // SAFETY: the caller's contract.
    if !memory.is_null() && !unsafe { heap::release(memory.cast()) } {
        report_bad_block(c"kfree: %p is not a block in use", memory);
    }
}

/// `size_t ksize(const void *memory)`: usable bytes; 0 for NULL.
///
/// # Safety
/// `memory` is null, or 16 readable bytes lie in front of it.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_ksize(memory: *const c_void) -> usize {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: the caller's contract.
    unsafe { heap::usable_size(memory.cast()) }.unwrap_or(0)
}

fn report_bad_block(message: &core::ffi::CStr, memory: *const c_void) {
    log::print(3, message, &[memory as u64]);
}

/// `char *kstrdup(const char *text, gfp_t flags)`; NULL for NULL.
///
/// # Safety
/// `text` is null or a C string.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_kstrdup(text: *const c_char, flags: u32) -> *mut c_char {
    // SAFETY: the caller's contract.
    unsafe { engraft_kstrndup(text, usize::MAX, flags) }
}

/// `char *kstrndup(const char *text, size_t max, gfp_t flags)`.
///
/// # Safety
/// `text` is null or readable up to its terminating zero or `max` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_kstrndup(
    text: *const c_char,
    max: usize,
    flags: u32,
) -> *mut c_char {
    if text.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: the caller's contract; a block of length + 1 bytes takes the zero as well.
    unsafe {
        let length = bounded_length(text, max);
        let copy = engraft_kmalloc(length.saturating_add(1), flags).cast::<c_char>();
        if !copy.is_null() {
            copy.copy_from_nonoverlapping(text, length);
            copy.add(length).write(0);
        }
        copy
    }
}

/// `void *kmemdup(const void *source, size_t length, gfp_t flags)`.
///
/// # Safety
/// `length` bytes can be read at `source`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_kmemdup(
    source: *const c_void,
    length: usize,
    flags: u32,
) -> *mut c_void {
    let copy = engraft_kmalloc(length, flags);
    if !copy.is_null() {
        // SAFETY: the caller's contract; the block has `length` bytes.
        unsafe {
            copy.cast::<u8>()
                .copy_from_nonoverlapping(source.cast(), length)
        };
    }
    copy
}

/// `ssize_t strscpy(char *destination, const char *source, size_t size)`: the length, or
/// -E2BIG when the text was cut off (or there was no room at all).
///
/// # Safety
/// `destination` has room for `size` bytes and `source` is a C string or as long.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_strscpy(
    destination: *mut c_char,
    source: *const c_char,
    size: usize,
) -> isize {
    let Some(room) = size.checked_sub(1) else {
        return syscall::E2BIG as isize;
    };
    // SAFETY: the caller's contract.
    unsafe {
        let length = bounded_length(source, size);
        let copied = length.min(room);
        destination.copy_from_nonoverlapping(source, copied);
        destination.add(copied).write(0);
        if length > room {
            syscall::E2BIG as isize
        } else {
            length as isize
        }
    }
}

/// # Safety
/// `text` is readable up to its terminating zero or `max` bytes.
unsafe fn bounded_length(text: *const c_char, max: usize) -> usize {
    let mut length = 0;
    // SAFETY: stops at the limit or at the zero.
    while length < max && unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    length
}
