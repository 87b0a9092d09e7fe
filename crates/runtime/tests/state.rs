//! System states, and the functions that wait.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use engraft_abi::{KlpPatch, KlpState, KlpStateCallbacks};
use support::Runtime;

fn patch(states: &'static [KlpState]) -> KlpPatch {
    KlpPatch {
        states: states.as_ptr() as u64,
        ..KlpPatch::default()
    }
}

const fn state(id: u64, version: u32) -> KlpState {
    KlpState {
        id,
        version,
        padding: 0,
        data: 0,
        callbacks: KlpStateCallbacks {
            pre_patch: 0,
            post_patch: 0,
            pre_unpatch: 0,
            post_unpatch: 0,
            shadow_dtor: 0,
        },
        is_shadow: 0,
        block_disable: 0,
        reserved: [0; 6],
    }
}

const END: KlpState = state(0, 0);

static OLD: [KlpState; 3] = [state(1, 1), state(2, 1), END];
static NEWER: [KlpState; 2] = [state(1, 2), END];
static NEWEST: [KlpState; 3] = [state(1, 3), state(3, 3), END];

#[test]
fn states_are_found_in_their_patch() {
    let runtime = Runtime::load();
    // SAFETY: the type is the one in linux/livepatch.h.
    let get: extern "C" fn(*const KlpPatch, u64) -> *const KlpState =
        unsafe { runtime.function("klp_get_state") };
    let old = patch(&OLD);
    assert_eq!(get(&raw const old, 1), &raw const OLD[0]);
    assert_eq!(get(&raw const old, 2), &raw const OLD[1]);
    assert!(get(&raw const old, 3).is_null());
    assert!(get(&raw const old, 0).is_null());
    assert!(get(&KlpPatch::default(), 1).is_null());
    assert!(get(std::ptr::null(), 1).is_null());
}

#[test]
fn the_previous_state_is_the_newest_below_the_patch_in_transition() {
    let runtime = Runtime::load();
    // SAFETY: the type is the one in linux/livepatch.h.
    let previous: extern "C" fn(u64) -> *const KlpState =
        unsafe { runtime.function("klp_get_prev_state") };
    let patches = [patch(&OLD), patch(&NEWER), patch(&NEWEST)];
    let addresses: Vec<u64> = patches
        .iter()
        .map(|patch| &raw const *patch as u64)
        .collect();

    runtime.set_patches(&addresses, 2);
    assert_eq!(previous(1), &raw const NEWER[0]);
    assert_eq!(previous(2), &raw const OLD[1]);
    assert!(previous(3).is_null());

    // Disabling the one in the middle: only what is older counts.
    runtime.set_patches(&addresses, 1);
    assert_eq!(previous(1), &raw const OLD[0]);
    runtime.set_patches(&addresses, 0);
    assert!(previous(1).is_null());
    assert!(runtime.log().is_empty());

    runtime.set_patches(&addresses, u32::MAX);
    assert!(previous(1).is_null() && previous(2).is_null());
    let warning = "livepatch: klp_get_prev_state(1) called outside a transition".to_owned();
    assert_eq!(runtime.log(), [(4, warning)]);
}

#[test]
fn sleeping_takes_the_whole_time() {
    let runtime = Runtime::load();
    // SAFETY: the types are those in linux/delay.h.
    let (msleep, usleep_range): (extern "C" fn(u32), extern "C" fn(u64, u64)) = unsafe {
        (
            runtime.function("engraft_msleep"),
            runtime.function("engraft_usleep_range"),
        )
    };
    let begin = Instant::now();
    msleep(60);
    usleep_range(40_000, 50_000);
    assert!(begin.elapsed() >= Duration::from_millis(100));
}

#[test]
fn the_current_thread_is_named() {
    let runtime = Runtime::load();
    #[repr(C)]
    struct Task {
        pid: i32,
        tgid: i32,
        comm: [u8; 16],
    }
    // SAFETY: the type is the one in linux/sched.h.
    let read: extern "C" fn(*mut Task) -> *mut Task =
        unsafe { runtime.function("engraft_read_task") };
    std::thread::Builder::new()
        .name("worker".to_owned())
        .spawn(move || {
            let mut task = Task {
                pid: 0,
                tgid: 0,
                comm: [0xff; 16],
            };
            assert_eq!(read(&raw mut task), &raw mut task);
            assert_eq!(task.tgid as u32, std::process::id());
            // SAFETY: gettid takes nothing.
            assert_eq!(task.pid, unsafe { libc::gettid() });
            assert_eq!(&task.comm[..7], b"worker\0");
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_mutex_lets_one_in() {
    let runtime = Runtime::load();
    // SAFETY: the types are those in linux/mutex.h.
    let (lock, try_lock, unlock): (
        extern "C" fn(*const AtomicU32),
        extern "C" fn(*const AtomicU32) -> i32,
        extern "C" fn(*const AtomicU32),
    ) = unsafe {
        (
            runtime.function("engraft_mutex_lock"),
            runtime.function("engraft_mutex_trylock"),
            runtime.function("engraft_mutex_unlock"),
        )
    };
    static MUTEX: AtomicU32 = AtomicU32::new(0);
    static COUNT: AtomicU32 = AtomicU32::new(0);
    lock(&raw const MUTEX);
    assert_eq!(try_lock(&raw const MUTEX), 0);
    unlock(&raw const MUTEX);
    assert_eq!(try_lock(&raw const MUTEX), 1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    lock(&raw const MUTEX);
                    // Not one atomic addition: two threads inside would lose counts.
                    let count = COUNT.load(Ordering::Relaxed);
                    std::hint::spin_loop();
                    COUNT.store(count + 1, Ordering::Relaxed);
                    unlock(&raw const MUTEX);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(COUNT.load(Ordering::Relaxed), 0);
        unlock(&raw const MUTEX);
    });
    assert_eq!(
        (COUNT.load(Ordering::Relaxed), MUTEX.load(Ordering::Relaxed)),
        (80_000, 0)
    );
}
