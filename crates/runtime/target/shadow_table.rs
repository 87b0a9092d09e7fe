//! The index of shadow variables: (object, id) to data.
//!
//! Readers take no lock, write nothing and may be stopped anywhere for any time; there is no
//! grace period. It is correct because
//!
//! * a slot's key is written once in a table's life, before its `data` word leaves 0. A
//!   variable that is freed leaves its key behind with [`FREED`]; only the same key can have
//!   the slot again. So a reader that sees `data` sees the key that belongs to it;
//! * a table that is replaced (to grow, shrink, or shed freed keys) is complete before it is
//!   published, and [`GENERATION`] rises afterwards. Memory of the old one is reused or wiped
//!   only after that, and never unmapped. A reader compares the generation before and after
//!   it has searched and begins anew if it has changed; otherwise the table was current for
//!   the whole search.
//!
//! Writers hold the lock of `shadow.rs`. Every change becomes visible by one store, so a
//! forked child finds the table consistent even if a writer was under way; only the two
//! counters may be off by one then, which [`ROOM_FOR_ERROR`] slots allow for.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use crate::syscall;

#[repr(C)]
struct Slot {
    object: AtomicU64,
    id: AtomicU64,
    /// 0: never used, and the end of a search. [`FREED`]. Else the variable's data.
    data: AtomicU64,
}

const FREED: u64 = 1;

/// One page of slots.
const SMALLEST_BITS: u32 = 7;

/// Slots that stay empty whatever the counters say.
const ROOM_FOR_ERROR: usize = 8;

/// The current table: the address of its first slot (page aligned) and in the low bits the
/// binary logarithm of their number; 0 at first.
static TABLE: AtomicU64 = AtomicU64::new(0);

/// Rises each time [`TABLE`] has changed.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Slots whose key is written, and those among them that are not freed.
static USED: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Memory of replaced tables by size, zeroed, or 0. There is never more than one of a size
/// besides the current table, because a table of that size takes this memory first.
static SPARE: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

#[derive(Clone, Copy)]
struct Table {
    slots: *const Slot,
    bits: u32,
}

impl Table {
    fn current() -> Option<Self> {
        let word = TABLE.load(Ordering::Acquire);
        let mask = syscall::PAGE as u64 - 1;
        let bits = (word & mask) as u32;
        (word != 0).then_some(Self {
            slots: (word & !mask) as *const Slot,
            bits,
        })
    }

    fn as_word(self) -> u64 {
        self.slots as u64 | u64::from(self.bits)
    }

    fn count(self) -> usize {
        1 << self.bits
    }

    fn length(self) -> usize {
        table_length(self.bits)
    }

    fn slot(self, index: usize) -> &'static Slot {
        // SAFETY: the index is reduced to the table's slots, and tables are never unmapped.
        unsafe { &*self.slots.add(index & (self.count() - 1)) }
    }

    /// The slot of a key with the data that is in it, or the empty slot that ends the search;
    /// None when there is neither, as may be in a table that is being wiped.
    fn search(self, object: u64, id: u64) -> Option<(&'static Slot, u64)> {
        let start = (mix(object, id) >> (64 - self.bits)) as usize;
        for step in 0..self.count() {
            let slot = self.slot(start.wrapping_add(step));
            let data = slot.data.load(Ordering::Acquire);
            let same = slot.object.load(Ordering::Relaxed) == object
                && slot.id.load(Ordering::Relaxed) == id;
            if data == 0 || same {
                return Some((slot, data));
            }
        }
        None
    }
}

fn table_length(bits: u32) -> usize {
    (size_of::<Slot>() << bits).next_multiple_of(syscall::PAGE)
}

/// Spreads keys, mostly multiples of 16 with a few small numbers, over 64 bits.
fn mix(object: u64, id: u64) -> u64 {
    let mut hash = object ^ id.rotate_left(32) ^ id;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^= hash >> 32;
    hash.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// The data of a variable, or 0. Needs no lock.
pub(crate) fn find(object: u64, id: u64) -> u64 {
    loop {
        let generation = GENERATION.load(Ordering::Acquire);
        let found = Table::current().and_then(|table| table.search(object, id));
        fence(Ordering::Acquire);
        if GENERATION.load(Ordering::Relaxed) == generation {
            return match found {
                None | Some((_, 0 | FREED)) => 0,
                Some((_, data)) => data,
            };
        }
    }
}

/// Makes sure that one more variable can be inserted; false when there is no memory.
/// Needs the lock.
pub(crate) fn reserve() -> bool {
    let Some(table) = Table::current() else {
        return rebuild();
    };
    let limit = table.count() / 4 * 3 - ROOM_FOR_ERROR;
    // A full table can still take a variable or two, should the bigger one be refused.
    USED.load(Ordering::Relaxed) < limit
        || rebuild()
        || USED.load(Ordering::Relaxed) < table.count() / 8 * 7
}

/// Inserts a variable that is not there. Needs the lock, and [`reserve`] before.
pub(crate) fn insert(object: u64, id: u64, data: u64) {
    let Some((slot, old)) = Table::current().and_then(|table| table.search(object, id)) else {
        return;
    };
    if old == 0 {
        slot.object.store(object, Ordering::Relaxed);
        slot.id.store(id, Ordering::Relaxed);
        USED.fetch_add(1, Ordering::Relaxed);
    }
    LIVE.fetch_add(1, Ordering::Relaxed);
    slot.data.store(data, Ordering::Release);
}

/// Takes a variable out; its data, or 0 when it is not there. Needs the lock.
pub(crate) fn remove(object: u64, id: u64) -> u64 {
    match Table::current().and_then(|table| table.search(object, id)) {
        None | Some((_, 0 | FREED)) => 0,
        Some((slot, data)) => {
            empty(slot);
            data
        }
    }
}

/// Takes out every variable with this id and hands each to `each` as (object, data).
/// Needs the lock.
pub(crate) fn remove_all(id: u64, mut each: impl FnMut(u64, u64)) {
    let Some(table) = Table::current() else {
        return;
    };
    for index in 0..table.count() {
        let slot = table.slot(index);
        let data = slot.data.load(Ordering::Relaxed);
        if data > FREED && slot.id.load(Ordering::Relaxed) == id {
            empty(slot);
            each(slot.object.load(Ordering::Relaxed), data);
        }
    }
}

fn empty(slot: &Slot) {
    slot.data.store(FREED, Ordering::Release);
    LIVE.store(
        LIVE.load(Ordering::Relaxed).saturating_sub(1),
        Ordering::Relaxed,
    );
}

/// Gives memory back when few variables are left. Needs the lock.
pub(crate) fn shrink() {
    if let Some(table) = Table::current()
        && table.bits > SMALLEST_BITS
        && LIVE.load(Ordering::Relaxed) < table.count() / 16
    {
        // Without memory for the smaller table the larger one stays.
        rebuild();
    }
}

/// Replaces the table by one that is at most half full, without freed keys.
fn rebuild() -> bool {
    let old = Table::current();
    let live = LIVE.load(Ordering::Relaxed) + ROOM_FOR_ERROR;
    let bits = live
        .saturating_mul(2)
        .next_power_of_two()
        .trailing_zeros()
        .max(SMALLEST_BITS);
    let Some(new) = obtain(bits) else {
        return false;
    };
    let mut live = 0;
    if let Some(old) = old {
        for index in 0..old.count() {
            live += usize::from(carry_over(old.slot(index), new));
        }
    }
    USED.store(live, Ordering::Relaxed);
    LIVE.store(live, Ordering::Relaxed);
    TABLE.store(new.as_word(), Ordering::Release);
    GENERATION.fetch_add(1, Ordering::SeqCst);
    if let Some(old) = old {
        retire(old);
    }
    true
}

fn carry_over(slot: &Slot, new: Table) -> bool {
    let data = slot.data.load(Ordering::Relaxed);
    if data <= FREED {
        return false;
    }
    let object = slot.object.load(Ordering::Relaxed);
    let id = slot.id.load(Ordering::Relaxed);
    let Some((place, _)) = new.search(object, id) else {
        return false;
    };
    place.object.store(object, Ordering::Relaxed);
    place.id.store(id, Ordering::Relaxed);
    place.data.store(data, Ordering::Release);
    true
}

/// Zeroed memory for a table.
fn obtain(bits: u32) -> Option<Table> {
    let spare = SPARE.get(bits as usize)?.swap(0, Ordering::Relaxed);
    let address = match spare {
        0 => syscall::map(table_length(bits)) as u64,
        _ => spare,
    };
    (address != 0).then_some(Table {
        slots: address as *const Slot,
        bits,
    })
}

/// Wipes a replaced table and keeps its address range for the next one of that size.
///
/// In a child that was forked halfway through this the range is lost.
fn retire(table: Table) {
    let start = table.slots.cast_mut().cast::<u8>();
    // SAFETY: the table's own mapping, which only readers that will begin anew still look at.
    if !unsafe { syscall::advise(start, table.length(), syscall::MADV_DONTNEED) } {
        // Locked memory (mlockall) is not given back.
        for index in 0..table.count() {
            let slot = table.slot(index);
            slot.data.store(0, Ordering::Relaxed);
            slot.object.store(0, Ordering::Relaxed);
            slot.id.store(0, Ordering::Relaxed);
        }
    }
    if let Some(spare) = SPARE.get(table.bits as usize) {
        spare.store(table.slots as u64, Ordering::Relaxed);
    }
}
