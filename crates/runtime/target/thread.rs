//! `linux/delay.h`, `linux/sched.h` and `linux/mutex.h`: waiting, and who is waiting.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::syscall;

/// `struct task_struct` of `linux/sched.h`.
#[repr(C)]
pub(crate) struct Task {
    pid: i32,
    tgid: i32,
    comm: [u8; 16],
}

/// Fills in what is true of the calling thread and returns `task`; stands behind `current`.
///
/// # Safety
/// `task` can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_read_task(task: *mut Task) -> *mut Task {
    let mut comm = [0; 16];
    syscall::read_name(&mut comm);
    let (pid, tgid) = (syscall::gettid() as i32, syscall::getpid() as i32);
    // SAFETY: the caller's contract.
    unsafe { task.write(Task { pid, tgid, comm }) };
    task
}

/// `void schedule(void)`: lets other threads run.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn engraft_schedule() {
    syscall::sched_yield();
}

/// `void msleep(unsigned int milliseconds)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn engraft_msleep(milliseconds: u32) {
    syscall::sleep(u64::from(milliseconds) * 1_000_000);
}

/// `void usleep_range(unsigned long min, unsigned long max)`: at least `min` microseconds.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn engraft_usleep_range(min: u64, _max: u64) {
    syscall::sleep(min.saturating_mul(1000));
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const WAITED_FOR: u32 = 2;

/// `void mutex_lock(struct mutex *)`.
///
/// # Safety
/// `mutex` is a live, aligned `struct mutex`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_mutex_lock(mutex: *mut u32) {
    // SAFETY: the caller's contract.
    let word = unsafe { AtomicU32::from_ptr(mutex) };
    if word
        .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
    {
        return;
    }
    while word.swap(WAITED_FOR, Ordering::Acquire) != FREE {
        syscall::futex_wait(word, WAITED_FOR);
    }
}

/// `int mutex_trylock(struct mutex *)`: 1 when the lock is now held by the caller.
///
/// # Safety
/// As for [`engraft_mutex_lock`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_mutex_trylock(mutex: *mut u32) -> i32 {
    // SAFETY: the caller's contract.
    let word = unsafe { AtomicU32::from_ptr(mutex) };
    i32::from(
        word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok(),
    )
}

/// `void mutex_unlock(struct mutex *)`.
///
/// # Safety
/// As for [`engraft_mutex_lock`]; the caller holds the lock.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_mutex_unlock(mutex: *mut u32) {
    // SAFETY: the caller's contract.
    let word = unsafe { AtomicU32::from_ptr(mutex) };
    if word.swap(FREE, Ordering::Release) == WAITED_FOR {
        syscall::futex_wake(word);
    }
}
