//! Raw system calls (x86-64: number in rax, arguments in rdi, rsi, rdx, r10, r8, r9; the
//! result in rax, a negated error number from -4095 to -1; rcx and r11 are lost).

use core::arch::asm;

pub(crate) const READ: u64 = 0;
const MMAP: u64 = 9;
const MUNMAP: u64 = 11;
const RT_SIGPROCMASK: u64 = 14;
const SCHED_YIELD: u64 = 24;
const MADVISE: u64 = 28;
const NANOSLEEP: u64 = 35;
const GETPID: u64 = 39;
const PRCTL: u64 = 157;
const GETTID: u64 = 186;
const FUTEX: u64 = 202;

pub(crate) const EPERM: i64 = -1;
pub(crate) const EINTR: i64 = -4;
pub(crate) const E2BIG: i64 = -7;
pub(crate) const EINVAL: i64 = -22;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// Zeroes the memory, now.
pub(crate) const MADV_DONTNEED: u64 = 4;
/// A forked child finds zeros there (Linux 4.14).
pub(crate) const MADV_WIPEONFORK: u64 = 18;

/// Makes system call `number`.
///
/// # Safety
/// What the call does to the process must be what the caller's contract allows.
pub(crate) unsafe fn syscall6(number: u64, arguments: [u64; 6]) -> u64 {
    let result: u64;
    // SAFETY: the caller vouches for the effect; the instruction changes only the registers named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// Number of the calling thread, as its own PID namespace counts.
pub(crate) fn gettid() -> u64 {
    // SAFETY: gettid has no effect.
    unsafe { syscall6(GETTID, [0; 6]) }
}

/// Number of the calling process, as its own PID namespace counts.
pub(crate) fn getpid() -> u64 {
    // SAFETY: getpid has no effect.
    unsafe { syscall6(GETPID, [0; 6]) }
}

/// New zeroed private memory, `length` being a multiple of [`PAGE`]; null when refused.
pub(crate) fn map(length: usize) -> *mut u8 {
    const READ_WRITE: u64 = 1 | 2;
    const PRIVATE_ANONYMOUS: u64 = 2 | 0x20;
    // SAFETY: the kernel chooses the place, so nothing that exists is touched.
    let address = unsafe {
        syscall6(
            MMAP,
            [0, length as u64, READ_WRITE, PRIVATE_ANONYMOUS, u64::MAX, 0],
        )
    };
    if is_error(address) {
        core::ptr::null_mut()
    } else {
        address as *mut u8
    }
}

/// Takes a mapping away.
///
/// # Safety
/// The range is a mapping of [`map`]'s that nobody uses any more.
pub(crate) unsafe fn unmap(start: *mut u8, length: usize) {
    // SAFETY: the caller's contract.
    unsafe { syscall6(MUNMAP, [start as u64, length as u64, 0, 0, 0, 0]) };
}

/// Gives advice about a mapping; false when the kernel does not take it.
///
/// # Safety
/// The range is a mapping of [`map`]'s, and what the advice does to it is wanted.
pub(crate) unsafe fn advise(start: *mut u8, length: usize, advice: u64) -> bool {
    // SAFETY: the caller's contract.
    !is_error(unsafe { syscall6(MADVISE, [start as u64, length as u64, advice, 0, 0, 0]) })
}

/// Replaces the thread's mask of blocked signals; returns the old one, or `mask` when the
/// call is refused.
pub(crate) fn set_signal_mask(mask: u64) -> u64 {
    const SIG_SETMASK: u64 = 2;
    let mut old = mask;
    let set = [
        SIG_SETMASK,
        &raw const mask as u64,
        &raw mut old as u64,
        8,
        0,
        0,
    ];
    // SAFETY: both pointers are to live 8-byte sets.
    unsafe { syscall6(RT_SIGPROCMASK, set) };
    old
}

/// Lets other threads run.
pub(crate) fn sched_yield() {
    // SAFETY: no effect on memory.
    unsafe { syscall6(SCHED_YIELD, [0; 6]) };
}

/// Sleeps for the whole time, whatever signals are handled meanwhile.
pub(crate) fn sleep(nanoseconds: u64) {
    const SECOND: u64 = 1_000_000_000;
    let mut time = [nanoseconds / SECOND, nanoseconds % SECOND];
    let place = time.as_mut_ptr() as u64;
    // SAFETY: both pointers are to a live timespec; the kernel writes the rest of the time.
    while unsafe { syscall6(NANOSLEEP, [place, place, 0, 0, 0, 0]) } == EINTR as u64 {}
}

/// Waits while `word` is `expected`, or less long.
pub(crate) fn futex_wait(word: &core::sync::atomic::AtomicU32, expected: u32) {
    const WAIT_PRIVATE: u64 = 128;
    let arguments = [
        word.as_ptr() as u64,
        WAIT_PRIVATE,
        u64::from(expected),
        0,
        0,
        0,
    ];
    // SAFETY: the word is live.
    unsafe { syscall6(FUTEX, arguments) };
}

/// Wakes one thread that waits for `word`.
pub(crate) fn futex_wake(word: &core::sync::atomic::AtomicU32) {
    const WAKE_PRIVATE: u64 = 1 | 128;
    // SAFETY: the word is live.
    unsafe { syscall6(FUTEX, [word.as_ptr() as u64, WAKE_PRIVATE, 1, 0, 0, 0]) };
}

/// Writes the thread's name, at most 15 bytes and a zero.
pub(crate) fn read_name(name: &mut [u8; 16]) {
    const PR_GET_NAME: u64 = 16;
    // SAFETY: the kernel writes 16 bytes.
    unsafe { syscall6(PRCTL, [PR_GET_NAME, name.as_mut_ptr() as u64, 0, 0, 0, 0]) };
}

fn is_error(result: u64) -> bool {
    result > -4096_i64 as u64
}
