//! One thread at a time acts when libraries come and go, or runs a callback that relies on a
//! library's staying (the kernel: `klp_mutex`). A callback may load a library itself: whoever
//! has the turn may take it again.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::lock::{back_off, current_epoch};
use crate::syscall;

/// The epoch of the process in which it was taken, 0 when it is free; see [`crate::lock`]: a
/// forked child does not wait for a thread that it does not have.
static HOLDER: AtomicU64 = AtomicU64::new(0);

/// The thread that has it.
static THREAD: AtomicU64 = AtomicU64::new(0);

/// The turn; given back by dropping.
pub(crate) struct Turn {
    taken_here: bool,
}

impl Turn {
    /// Waits for the turn.
    pub(crate) fn take() -> Self {
        let (epoch, thread) = (current_epoch(), syscall::gettid());
        let is_own =
            HOLDER.load(Ordering::Acquire) == epoch && THREAD.load(Ordering::Relaxed) == thread;
        if is_own {
            return Self { taken_here: false };
        }
        let mut tries = 0;
        let mut free = 0;
        while let Err(holder) =
            HOLDER.compare_exchange_weak(free, epoch, Ordering::Acquire, Ordering::Relaxed)
        {
            free = if holder == epoch { 0 } else { holder };
            if holder == epoch {
                tries += 1;
                back_off(tries);
            }
        }
        THREAD.store(thread, Ordering::Relaxed);
        Self { taken_here: true }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.taken_here {
            THREAD.store(0, Ordering::Relaxed);
            HOLDER.store(0, Ordering::Release);
        }
    }
}
