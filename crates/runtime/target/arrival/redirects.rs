//! The memory that holds a library's redirects: records and slots, which nobody can write, and
//! behind them routers, selectors, displaced prologues and the linker's stubs, which can be
//! executed. It is writable only while something is being added.

use core::ptr::{addr_of_mut, write_volatile};

use engraft_abi::{LibraryStatus, Redirect};

use super::memory::{READ, READ_EXECUTE, READ_WRITE, is_near, map_near, protect};
use super::prologue::ROOM;
use crate::syscall::{self, PAGE};

const ROUTER: u64 = 8;
pub(super) const SELECTOR: usize = 48;
/// A stub of the linker's ([`super::linker`]).
pub(super) const STUB: usize = 32;
pub(super) const STUBS: u64 = 2;

/// Text for one function: router, displaced prologue, selector.
const TEXT_EACH: u64 = 16 + ROOM as u64 + SELECTOR as u64;

/// A redirect with what only the runtime needs of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) redirect: Redirect,
    /// The displaced prologue, 0 when there is none.
    pub(super) copy: u64,
}

/// A load that is gone has left nobody in its routers.
fn unmap_former(status: &mut LibraryStatus) {
    if status.memory != 0 {
        // SAFETY: nothing leads there any more.
        unsafe { syscall::unmap(status.memory as *mut u8, status.memory_length as usize) };
    }
    status.memory = 0;
    status.memory_length = 0;
}

/// Begins the memory. Records follow, then slots, then, on pages of its own, text.
#[repr(C)]
struct Header {
    /// Entries of the linker's dynamic section that stand for others.
    entries: [[u64; 2]; 2],
    room: u64,
    count: u64,
}

/// A library's memory.
pub(super) struct Redirects {
    header: *mut Header,
}

impl Redirects {
    /// Takes the memory of an earlier load, or new one, for `room` functions of a library at
    /// `low..high`. It is empty and writable.
    pub(super) fn prepare(
        status: &mut LibraryStatus,
        room: u64,
        (low, high): (u64, u64),
    ) -> Option<Self> {
        let length = Self::length(room);
        let fits = status.memory != 0
            && status.memory_length >= length
            && is_near(status.memory, status.memory_length, low, high);
        if !fits {
            unmap_former(status);
            status.memory = map_near(low, high, length)?;
            status.memory_length = length;
        } else {
            // SAFETY: the load that it was used for is gone, and all its code with it.
            unsafe { protect(status.memory, status.memory_length, READ_WRITE) }.ok()?;
        }
        let redirects = Self {
            header: status.memory as *mut Header,
        };
        // SAFETY: the memory is ours and long enough.
        unsafe {
            (*redirects.header).room = room;
            (*redirects.header).count = 0;
        }
        Some(redirects)
    }

    /// Those of a load that is there.
    pub(super) fn of(status: &LibraryStatus) -> Option<Self> {
        (status.memory != 0).then_some(Self {
            header: status.memory as *mut Header,
        })
    }

    fn length(room: u64) -> u64 {
        Self::text_offset(room) + round(room * TEXT_EACH + STUBS * STUB as u64)
    }

    fn text_offset(room: u64) -> u64 {
        let record = size_of::<Record>() as u64 + 8;
        round(size_of::<Header>() as u64 + room * record)
    }

    fn room(&self) -> u64 {
        // SAFETY: written by `prepare`.
        unsafe { (*self.header).room }
    }

    fn start(&self) -> u64 {
        self.header as u64
    }

    fn text(&self) -> u64 {
        self.start() + Self::text_offset(self.room())
    }

    /// Makes it writable, and nothing of it executable.
    pub(super) fn open(&self) -> Result<(), i32> {
        // SAFETY: a router runs only when a function of the library is called, which nobody does
        // while the library is being loaded, except callbacks, which this thread runs.
        unsafe { protect(self.start(), Self::length(self.room()), READ_WRITE) }
    }

    /// Makes text executable and everything read-only.
    pub(super) fn close(&self) -> Result<(), i32> {
        let text = self.text();
        // SAFETY: what is written is complete.
        unsafe {
            protect(self.start(), text - self.start(), READ)?;
            protect(
                text,
                Self::length(self.room()) - (text - self.start()),
                READ_EXECUTE,
            )
        }
    }

    /// The records.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        let first = self.header.wrapping_add(1).cast::<Record>();
        // SAFETY: `count` records have been written.
        let count = unsafe { (*self.header).count } as usize;
        // SAFETY: as above.
        (0..count).map(move |index| unsafe { &*first.add(index) })
    }

    /// Adds a record for the function, its router and slot in place; `None` without room. The
    /// index tells where its selector and copy belong.
    pub(super) fn add(&self, mut record: Record) -> Option<u64> {
        // SAFETY: the memory is open, and there is room for `room` records.
        unsafe {
            let index = (*self.header).count;
            if index >= self.room() {
                return None;
            }
            let (router, slot) = (self.router(index), self.slot(index));
            record.redirect.router = router;
            record.redirect.slot = slot;
            let place = self.header.add(1).cast::<Record>().add(index as usize);
            place.write(record);
            let distance = slot.wrapping_sub(router + 6) as u32;
            // jmp *slot(%rip); int3; int3
            let code = 0xcccc_0000_0000_25ff | u64::from(distance) << 16;
            (router as *mut u64).write(code);
            // The memory may hold what an earlier load has left.
            (slot as *mut u64).write(0);
            (*self.header).count = index + 1;
            Some(index)
        }
    }

    /// Notes the displaced prologue of record number `index`.
    pub(super) fn set_copy(&self, index: u64, copy: u64) {
        // SAFETY: the memory is open and the record there.
        unsafe {
            let place = self.header.add(1).cast::<Record>().add(index as usize);
            (*place).copy = copy;
        }
    }

    /// Where the dynamic linker finds an entry that stands for one of the library's own.
    pub(super) fn set_entry(&self, index: usize, entry: [u64; 2]) -> u64 {
        // SAFETY: the memory is open; there are two.
        unsafe {
            let place = addr_of_mut!((*self.header).entries)
                .cast::<[u64; 2]>()
                .add(index & 1);
            write_volatile(place, entry);
            place as u64
        }
    }

    fn slot(&self, index: u64) -> u64 {
        let records = self.room() * size_of::<Record>() as u64;
        self.start() + size_of::<Header>() as u64 + records + 8 * index
    }

    fn router(&self, index: u64) -> u64 {
        self.text() + STUBS * STUB as u64 + index * TEXT_EACH
    }

    /// Where the displaced prologue of record number `index` belongs, [`ROOM`] bytes.
    pub(super) fn copy(&self, index: u64) -> u64 {
        self.router(index) + 16
    }

    /// Where its selector belongs, [`SELECTOR`] bytes.
    pub(super) fn selector(&self, index: u64) -> u64 {
        self.copy(index) + ROOM as u64
    }

    /// Where a stub belongs, [`STUB`] bytes.
    pub(super) fn stub(&self, index: u64) -> u64 {
        self.text() + (index & (STUBS - 1)) * STUB as u64
    }
}

const _: () = assert!(ROUTER <= 16);

fn round(length: u64) -> u64 {
    length.wrapping_add(PAGE as u64 - 1) & !(PAGE as u64 - 1)
}
