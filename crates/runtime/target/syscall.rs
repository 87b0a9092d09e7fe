//! Raw system calls (x86-64: number in rax, arguments in rdi, rsi, rdx, r10, r8, r9; the
//! result in rax, a negated error number from -4095 to -1; rcx and r11 are lost).

use core::arch::asm;

pub(crate) const READ: u64 = 0;
const CLOSE: u64 = 3;
const FSTAT: u64 = 5;
const MMAP: u64 = 9;
const MPROTECT: u64 = 10;
const MUNMAP: u64 = 11;
const RT_SIGPROCMASK: u64 = 14;
const PREAD64: u64 = 17;
const SCHED_YIELD: u64 = 24;
const MADVISE: u64 = 28;
const NANOSLEEP: u64 = 35;
const GETPID: u64 = 39;
const PRCTL: u64 = 157;
const GETTID: u64 = 186;
const FUTEX: u64 = 202;
const OPENAT: u64 = 257;

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

/// New zeroed private memory of whole pages at exactly this address; false when something is
/// there already or the kernel refuses.
pub(crate) fn map_at(address: u64, length: u64) -> bool {
    const READ_WRITE: u64 = 1 | 2;
    const PRIVATE_ANONYMOUS: u64 = 2 | 0x20;
    const FIXED_NOREPLACE: u64 = 0x10_0000;
    let flags = PRIVATE_ANONYMOUS | FIXED_NOREPLACE;
    // SAFETY: nothing that exists is touched.
    let mapped = unsafe { syscall6(MMAP, [address, length, READ_WRITE, flags, u64::MAX, 0]) };
    if mapped == address {
        return true;
    }
    if !is_error(mapped) {
        // A kernel before 4.17 takes the address as a hint only.
        // SAFETY: nobody has seen the mapping.
        unsafe { syscall6(MUNMAP, [mapped, length, 0, 0, 0, 0]) };
    }
    false
}

/// Changes the protection of whole pages (mprotect(2)); 0 or a negated error number.
///
/// # Safety
/// Nobody relies on what the new protection forbids.
pub(crate) unsafe fn protect(start: u64, length: u64, protection: u64) -> i64 {
    // SAFETY: the caller's contract.
    unsafe { syscall6(MPROTECT, [start, length, protection, 0, 0, 0]) as i64 }
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

/// Whether the bytes at `address` can be read, eight of them. The kernel copies the set before
/// it looks at what shall be done with it, and there is no such operation: nothing changes.
pub(crate) fn is_readable(address: u64) -> bool {
    const NO_OPERATION: u64 = u64::MAX;
    // SAFETY: the kernel refuses the operation, whether it could read the set or not.
    let result = unsafe { syscall6(RT_SIGPROCMASK, [NO_OPERATION, address, 0, 8, 0, 0]) };
    address != 0 && result == EINVAL as u64
}

/// A file that is open for reading; closed when dropped.
pub(crate) struct OpenFile(u64);

impl OpenFile {
    /// Opens a regular file; a pipe or device of that name is not waited for. Programs that the
    /// process starts meanwhile do not get it.
    ///
    /// # Safety
    /// `path` is a C string.
    pub(crate) unsafe fn open(path: *const u8) -> Option<Self> {
        const AT_FDCWD: u64 = -100_i64 as u64;
        const NOCTTY_NONBLOCK_CLOEXEC: u64 = 0o400 | 0o4000 | 0o2_000_000;
        let arguments = [AT_FDCWD, path as u64, NOCTTY_NONBLOCK_CLOEXEC, 0, 0, 0];
        // SAFETY: opening a file to read it changes nothing but the lowest free descriptor.
        let descriptor = unsafe { syscall6(OPENAT, arguments) };
        (!is_error(descriptor)).then_some(Self(descriptor))
    }

    /// Its length in bytes; `None` when it is not a regular file.
    pub(crate) fn length(&self) -> Option<u64> {
        // struct stat is 144 bytes long, st_mode the low half of word 3, st_size word 6.
        const KIND: u64 = 0o170_000;
        const REGULAR: u64 = 0o100_000;
        let mut stat = [0_u64; 18];
        // SAFETY: the kernel writes a struct stat.
        let result = unsafe { syscall6(FSTAT, [self.0, stat.as_mut_ptr() as u64, 0, 0, 0, 0]) };
        (result == 0 && stat[3] & KIND == REGULAR).then_some(stat[6])
    }

    /// Reads exactly `length` bytes from `offset` on; false when the file has less.
    ///
    /// # Safety
    /// `length` bytes can be written at `place`.
    pub(crate) unsafe fn read_at(&self, place: *mut u8, length: usize, offset: u64) -> bool {
        let mut done = 0;
        while done < length {
            let rest = (length - done) as u64;
            let to = place as u64 + done as u64;
            // SAFETY: the kernel writes at most the rest of the caller's bytes.
            let result = unsafe {
                syscall6(
                    PREAD64,
                    [self.0, to, rest, offset.wrapping_add(done as u64), 0, 0],
                )
            };
            match result {
                0 => return false,
                count if !is_error(count) => done += count as usize,
                error if error == EINTR as u64 => {}
                _ => return false,
            }
        }
        true
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own.
        unsafe { syscall6(CLOSE, [self.0, 0, 0, 0, 0, 0]) };
    }
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
