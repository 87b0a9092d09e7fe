//! The log ring's writing side: never waits, never fails, may be used anywhere.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use engraft_abi::{RING_BYTES, RecordHeader, RingHeader};

use crate::config;
use crate::format::{Sink, format_into};
use crate::va_list::VaList;

/// Longest text of one record, in bytes (the kernel: LOG_LINE_MAX, 1024 less its prefix).
pub(crate) const MAX_TEXT: usize = 1024;

const HEADER: u64 = size_of::<RecordHeader>() as u64;

/// Appends one record; text beyond [`MAX_TEXT`] bytes is dropped, and so is everything
/// when there is no ring.
pub(crate) fn append(level: u32, text: &[u8]) {
    let ring = config::ring();
    if ring.is_null() {
        return;
    }
    let length = text.len().min(MAX_TEXT);
    let room = (HEADER + length as u64).next_multiple_of(8);
    // SAFETY: `head` is an aligned word of the mapping; every writer uses it atomically.
    let head = unsafe { AtomicU64::from_ptr(&raw mut (*ring).head) };
    let position = head.fetch_add(room, Ordering::Relaxed);
    let header = RecordHeader {
        position: !position,
        tsc: read_tsc(),
        length: length as u32,
        level,
    };
    // SAFETY: the record lies in the reserved part of the ring.
    unsafe {
        copy_in(ring, position, (&raw const header).cast(), HEADER as usize);
        copy_in(ring, position + HEADER, text.as_ptr(), length);
    }
    fence(Ordering::Release);
    // SAFETY: positions are multiples of 8 and so is the ring's length: the word does not wrap.
    unsafe { AtomicU64::from_ptr(byte_at(ring, position).cast()) }
        .store(position, Ordering::Release);
}

/// Appends a message of the runtime's own; `arguments` fit `format`.
pub(crate) fn print(level: u32, format: &CStr, arguments: &[u64]) {
    let mut buffer = MaybeUninit::<[u8; 256]>::uninit();
    // SAFETY: the sink has the buffer for itself; the messages of this crate take numbers
    // and pointers, as many as are passed.
    let sink = unsafe {
        let mut sink = Sink::new(buffer.as_mut_ptr().cast(), 256);
        format_into(
            &mut sink,
            format.as_ptr().cast(),
            &mut VaList::of(arguments),
        );
        sink
    };
    append(level, sink.written());
}

/// Address of position `position`.
///
/// # Safety
/// `ring` is the ring's header, followed by [`RING_BYTES`] bytes.
unsafe fn byte_at(ring: *mut RingHeader, position: u64) -> *mut u8 {
    let offset = (position % RING_BYTES as u64) as usize;
    // SAFETY: `offset` is below RING_BYTES.
    unsafe { ring.add(1).cast::<u8>().add(offset) }
}

/// Copies `length` bytes to `position`, going on at the ring's start when it ends.
///
/// # Safety
/// As for [`byte_at`]; `length` bytes can be read at `from` and are less than the ring has.
unsafe fn copy_in(ring: *mut RingHeader, position: u64, from: *const u8, length: usize) {
    let until_end = RING_BYTES - (position % RING_BYTES as u64) as usize;
    let first = length.min(until_end);
    // SAFETY: `first` bytes end at or before the ring's end; the rest starts at its beginning.
    unsafe {
        byte_at(ring, position).copy_from_nonoverlapping(from, first);
        let rest = byte_at(ring, position + first as u64);
        rest.copy_from_nonoverlapping(from.add(first), length - first);
    }
}

/// The time stamp counter, or 0 where executing `rdtsc` would raise SIGSEGV (prctl PR_SET_TSC).
fn read_tsc() -> u64 {
    if config::read_config().tsc_allowed == 0 {
        return 0;
    }
    // SAFETY: every x86-64 processor has the instruction, and the tool says it is allowed.
    unsafe { core::arch::x86_64::_rdtsc() }
}
