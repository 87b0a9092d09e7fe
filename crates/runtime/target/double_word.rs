//! Two words that are exchanged together.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

/// Two words, 16-byte aligned as `cmpxchg16b` demands. Every processor with %gs-base
/// instructions, which the tool requires, has that instruction.
#[repr(C, align(16))]
pub(crate) struct DoubleWord {
    words: UnsafeCell<[u64; 2]>,
}

// SAFETY: both words are accessed atomically only.
unsafe impl Sync for DoubleWord {}

impl DoubleWord {
    pub(crate) const fn new(first: u64, second: u64) -> Self {
        Self {
            words: UnsafeCell::new([first, second]),
        }
    }

    /// Both words, which may be from different moments: only a successful [`Self::exchange`]
    /// shows that they belong together.
    pub(crate) fn load(&self) -> (u64, u64) {
        let words = self.words.get().cast::<u64>();
        // SAFETY: both are live and aligned; every access to them is atomic.
        let (first, second) = unsafe {
            (
                AtomicU64::from_ptr(words),
                AtomicU64::from_ptr(words.add(1)),
            )
        };
        // The second word carries the tag and must not be newer than the first.
        let tag = second.load(Ordering::Acquire);
        (first.load(Ordering::Acquire), tag)
    }

    /// Replaces `old` by `new`; false when the words are not `old`.
    pub(crate) fn exchange(&self, old: (u64, u64), new: (u64, u64)) -> bool {
        let done: u8;
        // SAFETY: the place is live and aligned. LLVM keeps rbx for itself, so it is put back.
        unsafe {
            asm!(
                "xchg {low}, rbx",
                "lock cmpxchg16b [{place}]",
                "sete {done}",
                "mov rbx, {low}",
                low = inout(reg) new.0 => _,
                place = in(reg) self.words.get(),
                done = out(reg_byte) done,
                inout("rax") old.0 => _,
                inout("rdx") old.1 => _,
                in("rcx") new.1,
                options(nostack)
            );
        }
        done != 0
    }
}
