//! Memory for modules and shadow variables, without the target's allocator.
//!
//! Lock-free throughout: a thread may be stopped, killed or interrupted by a signal handler
//! that allocates, or the process may fork, between any two instructions, and the others go
//! on. Blocks of a size class are never given another size or unmapped, so that reading a
//! free block's link is harmless even after another thread has taken the block; the tag
//! beside a list's head then makes the exchange fail.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::config::read_config;
use crate::double_word::DoubleWord;
use crate::syscall;

/// Precedes every block.
#[repr(C)]
struct Header {
    /// Bytes of the block, this header included: a class's size, or of a whole mapping.
    size: usize,
    /// [`in_use_mark`] while the block is handed out.
    mark: usize,
}

const HEADER: usize = size_of::<Header>();

/// Alignment of every block.
const ALIGNMENT: usize = 16;

const MARK: usize = 0x6b6d_616c_6c6f_6321;

/// Sizes are 32 and 48 times the powers of two; a larger block is a mapping of its own.
const CLASSES: usize = 22;
const SMALLEST: usize = 32;
const LARGEST: usize = class_size(CLASSES - 1);

/// How much is asked for at a time.
const CHUNK: usize = 1 << 20;

struct FreeList {
    /// Address of the first free block's header and a tag that changes with every removal.
    head: DoubleWord,
}

static FREE: [FreeList; CLASSES] = [const {
    FreeList {
        head: DoubleWord::new(0, 0),
    }
}; CLASSES];

/// Start and end of the untouched rest of the newest chunk.
static FRESH: DoubleWord = DoubleWord::new(0, 0);

/// The memory that the tool has provided has become [`FRESH`].
static CONFIGURED_USED: AtomicBool = AtomicBool::new(false);

const fn class_size(class: usize) -> usize {
    let base = SMALLEST << (class / 2);
    if class.is_multiple_of(2) {
        base
    } else {
        base + base / 2
    }
}

/// The smallest class whose blocks have `total` bytes.
fn class_of(total: usize) -> usize {
    let rounded = total.max(SMALLEST);
    let power = (SMALLEST.leading_zeros() - rounded.leading_zeros()) as usize;
    let base = SMALLEST << power;
    match rounded {
        _ if rounded == base => 2 * power,
        _ if rounded <= base + base / 2 => 2 * power + 1,
        _ => 2 * power + 2,
    }
}

fn in_use_mark(header: *const Header) -> usize {
    MARK ^ header as usize
}

/// `size` bytes, aligned to 16, with whatever is in them; null when there is no memory.
pub(crate) fn allocate(size: usize) -> *mut u8 {
    let Some(total) = size.checked_add(HEADER) else {
        return core::ptr::null_mut();
    };
    let (header, total) = if total > LARGEST {
        map_block(total)
    } else {
        let class = class_of(total);
        let taken = FREE.get(class).map_or(core::ptr::null_mut(), take_free);
        let total = class_size(class);
        (
            if taken.is_null() {
                take_fresh(total)
            } else {
                taken
            },
            total,
        )
    };
    if header.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: the block belongs to this caller alone and begins with room for a header.
    unsafe {
        header.write(Header {
            size: total,
            mark: in_use_mark(header),
        });
        header.add(1).cast()
    }
}

/// Like [`allocate`], filled with zeros.
pub(crate) fn allocate_zeroed(size: usize) -> *mut u8 {
    let block = allocate(size);
    if !block.is_null() {
        // SAFETY: the block has at least `size` bytes.
        unsafe { block.write_bytes(0, size) };
    }
    block
}

/// Usable bytes of a block, or None when this is not a block in use.
///
/// # Safety
/// 16 bytes in front of `block` can be read.
pub(crate) unsafe fn usable_size(block: *const u8) -> Option<usize> {
    let header = block.wrapping_sub(HEADER).cast::<Header>();
    // SAFETY: the caller's contract.
    unsafe { ((*header).mark == in_use_mark(header)).then(|| (*header).size - HEADER) }
}

/// Gives a block back; false when it is not a block in use (freed already, or foreign).
///
/// # Safety
/// 16 bytes in front of `block` can be read, and nobody uses the block any more.
pub(crate) unsafe fn release(block: *mut u8) -> bool {
    // SAFETY: the caller's contract.
    if unsafe { usable_size(block) }.is_none() {
        return false;
    }
    let header = block.wrapping_sub(HEADER).cast::<Header>();
    // SAFETY: a block in use, which nobody uses any more.
    unsafe {
        (*header).mark = 0;
        let size = (*header).size;
        if size > LARGEST {
            syscall::unmap(header.cast(), size);
        } else if let Some(list) = FREE.get(class_of(size)) {
            put_free(list, header);
        }
    }
    true
}

/// The link of a free block lies where its user's first bytes were.
fn link_of(header: *mut Header) -> *const AtomicU64 {
    header.wrapping_add(1).cast::<AtomicU64>()
}

fn take_free(list: &FreeList) -> *mut Header {
    loop {
        let (first, tag) = list.head.load();
        if first == 0 {
            return core::ptr::null_mut();
        }
        let header = first as *mut Header;
        // SAFETY: blocks stay mapped. Another thread may have taken this one and be writing
        // to it: then the tag has changed and the exchange fails.
        let next = unsafe { (*link_of(header)).load(Ordering::Relaxed) };
        if list
            .head
            .exchange((first, tag), (next, tag.wrapping_add(1)))
        {
            return header;
        }
    }
}

/// # Safety
/// The block belongs to the caller and is of the list's class.
unsafe fn put_free(list: &FreeList, header: *mut Header) {
    loop {
        let (first, tag) = list.head.load();
        // SAFETY: every block has room for a link behind its header.
        unsafe { (*link_of(header)).store(first, Ordering::Relaxed) };
        if list.head.exchange((first, tag), (header as u64, tag)) {
            return;
        }
    }
}

/// Cuts `total` bytes off the newest chunk, getting another one when it is used up.
fn take_fresh(total: usize) -> *mut Header {
    loop {
        let (start, end) = FRESH.load();
        if end.wrapping_sub(start) >= total as u64 && start != 0 {
            if FRESH.exchange((start, end), (start + total as u64, end)) {
                return start as *mut Header;
            }
            continue;
        }
        let Some(chunk) = next_chunk() else {
            return core::ptr::null_mut();
        };
        // The old chunk's rest is lost. If another thread was faster its chunk is used.
        if !FRESH.exchange((start, end), (chunk.start, chunk.end)) {
            give_up_chunk(&chunk);
        }
    }
}

struct Chunk {
    start: u64,
    end: u64,
    mapped: bool,
}

/// First what the tool has provided, then mappings.
fn next_chunk() -> Option<Chunk> {
    let config = read_config();
    if config.heap != 0 && !CONFIGURED_USED.swap(true, Ordering::Relaxed) {
        let start = config.heap.next_multiple_of(ALIGNMENT as u64);
        let end = config.heap.saturating_add(config.heap_length);
        return Some(Chunk {
            start,
            end: end.max(start),
            mapped: false,
        });
    }
    let start = syscall::map(CHUNK) as u64;
    (start != 0).then_some(Chunk {
        start,
        end: start + CHUNK as u64,
        mapped: true,
    })
}

/// Undoes [`next_chunk`] for a chunk that nobody else has seen.
fn give_up_chunk(chunk: &Chunk) {
    if chunk.mapped {
        // SAFETY: nobody has seen the mapping.
        unsafe { syscall::unmap(chunk.start as *mut u8, CHUNK) };
    } else {
        CONFIGURED_USED.store(false, Ordering::Relaxed);
    }
}

fn map_block(total: usize) -> (*mut Header, usize) {
    let Some(length) = total.checked_next_multiple_of(syscall::PAGE) else {
        return (core::ptr::null_mut(), 0);
    };
    (syscall::map(length).cast(), length)
}
