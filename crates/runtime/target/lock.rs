//! The one lock: what the kernel does under `spin_lock_irqsave`.
//!
//! * Signals are blocked while it is held, so that a handler on the same thread cannot wait
//!   for it.
//! * Whoever waits spins, then yields, then sleeps, so that a holder of lower real-time
//!   priority on the same processor gets to run.
//! * A forked child has only the thread that forked. If another thread held the lock then,
//!   nobody will release it there. So the lock word names the process in which it was taken,
//!   by an epoch that a fork changes; a word of another epoch is free. What the lock
//!   protects must therefore be consistent after every single store.
//!
//! The tool must not run module code while it keeps a thread stopped that may hold the lock.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::syscall;

/// A lock that is a word in memory, 0 when free.
pub(crate) struct SpinLock {
    holder: AtomicU64,
}

/// Holds a [`SpinLock`]; released by dropping.
pub(crate) struct Guard<'a> {
    lock: &'a SpinLock,
    signal_mask: u64,
}

impl SpinLock {
    pub(crate) const fn new() -> Self {
        Self {
            holder: AtomicU64::new(0),
        }
    }

    /// Waits for the lock. Not to be called by the thread that holds it.
    pub(crate) fn lock(&self) -> Guard<'_> {
        let signal_mask = syscall::set_signal_mask(u64::MAX);
        let epoch = current_epoch();
        let mut tries = 0;
        let mut free = 0;
        while let Err(holder) =
            self.holder
                .compare_exchange_weak(free, epoch, Ordering::Acquire, Ordering::Relaxed)
        {
            free = if holder == epoch { 0 } else { holder };
            if holder == epoch {
                tries += 1;
                back_off(tries);
            }
        }
        Guard {
            lock: self,
            signal_mask,
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.lock.holder.store(0, Ordering::Release);
        syscall::set_signal_mask(self.signal_mask);
    }
}

/// Waits a little, longer the more often that was to no avail.
pub(crate) fn back_off(tries: u32) {
    match tries {
        0..=200 => core::hint::spin_loop(),
        201..=300 => syscall::sched_yield(),
        _ => syscall::sleep(50_000),
    }
}

/// A word that reads 0 in every new process, in memory that fork wipes; set up by the first
/// thread that locks anything.
static MARKER: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// The marker when the kernel refuses such memory: forks are not noticed then.
static FIXED_MARKER: AtomicU64 = AtomicU64::new(u64::MAX);

/// The highest epoch used so far, here or in any ancestor.
static LAST_EPOCH: AtomicU64 = AtomicU64::new(0);

/// The epoch of this process, never 0.
///
/// A child finds the marker wiped and takes an epoch above `LAST_EPOCH`, of which it has a
/// copy. That is raised before the new epoch gets into the marker and so before any lock word
/// can carry it: a grandchild, whenever it is forked, starts above every epoch in use.
pub(crate) fn current_epoch() -> u64 {
    // SAFETY: the marker points to a static or to a page that is never unmapped.
    let marker = unsafe { &*find_marker() };
    match marker.load(Ordering::Acquire) {
        0 => {
            let next = LAST_EPOCH.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
            marker
                .compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire)
                .map_or_else(|faster| faster, |_| next)
        }
        epoch => epoch,
    }
}

fn find_marker() -> *mut AtomicU64 {
    let known = MARKER.load(Ordering::Acquire);
    if !known.is_null() {
        return known;
    }
    let made = make_marker();
    let null = core::ptr::null_mut();
    match MARKER.compare_exchange(null, made, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => made,
        Err(faster) => {
            if made != FIXED_MARKER.as_ptr().cast() {
                // SAFETY: nobody has seen this page.
                unsafe { syscall::unmap(made.cast(), syscall::PAGE) };
            }
            faster
        }
    }
}

fn make_marker() -> *mut AtomicU64 {
    let page = syscall::map(syscall::PAGE);
    if page.is_null() {
        return FIXED_MARKER.as_ptr().cast();
    }
    // SAFETY: the page is new.
    if unsafe { syscall::advise(page, syscall::PAGE, syscall::MADV_WIPEONFORK) } {
        return page.cast();
    }
    // SAFETY: nobody has seen the page.
    unsafe { syscall::unmap(page, syscall::PAGE) };
    FIXED_MARKER.as_ptr().cast()
}
