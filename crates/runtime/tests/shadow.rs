//! Shadow variables: semantics, many threads, signals, forks, and speed.

mod support;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::Runtime;
use support::random::{Random, seed};
use support::tracee::Tracee;

type Constructor = extern "C" fn(u64, *mut u64, u64) -> c_int;
type Destructor = extern "C" fn(u64, *mut u64);

/// The functions under test; objects are mere numbers, data begin with a word.
#[derive(Clone, Copy)]
struct Shadow {
    get: extern "C" fn(u64, u64) -> *mut u64,
    alloc: extern "C" fn(u64, u64, usize, u32, Option<Constructor>, u64) -> *mut u64,
    get_or_alloc: extern "C" fn(u64, u64, usize, u32, Option<Constructor>, u64) -> *mut u64,
    free: extern "C" fn(u64, u64, Option<Destructor>),
    free_all: extern "C" fn(u64, Option<Destructor>),
}

impl Shadow {
    fn of(runtime: &Runtime) -> Self {
        // SAFETY: the types have the layout of those in linux/livepatch.h.
        unsafe {
            Self {
                get: runtime.function("klp_shadow_get"),
                alloc: runtime.function("klp_shadow_alloc"),
                get_or_alloc: runtime.function("klp_shadow_get_or_alloc"),
                free: runtime.function("klp_shadow_free"),
                free_all: runtime.function("klp_shadow_free_all"),
            }
        }
    }

    fn has(&self, object: u64, id: u64) -> bool {
        !(self.get)(object, id).is_null()
    }

    fn value(&self, object: u64, id: u64) -> Option<u64> {
        let data = (self.get)(object, id);
        // SAFETY: the tests that use this do not free the variable at the same time.
        (!data.is_null()).then(|| unsafe { data.read() })
    }
}

const KERNEL: u32 = 0xcc0;

extern "C" fn store(_object: u64, data: *mut u64, value: u64) -> c_int {
    // SAFETY: the data have eight bytes.
    unsafe { data.write(value) };
    0
}

extern "C" fn refuse(_object: u64, _data: *mut u64, _value: u64) -> c_int {
    -22
}

#[test]
fn a_variable_is_there_from_alloc_to_free() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    assert!(!shadow.has(1, 1));
    let data = (shadow.alloc)(1, 1, 100, KERNEL, None, 0);
    assert_eq!(data as u64 % 16, 0);
    // SAFETY: a hundred bytes were asked for.
    assert_eq!(unsafe { data.cast::<[u8; 100]>().read() }, [0; 100]);
    assert_eq!((shadow.get)(1, 1), data);
    assert!(!shadow.has(1, 2) && !shadow.has(2, 1) && !shadow.has(0, 0));
    assert_eq!(
        (shadow.get_or_alloc)(1, 1, 100, KERNEL, Some(refuse), 0),
        data
    );
    (shadow.free)(1, 2, None);
    assert!(shadow.has(1, 1));
    (shadow.free)(1, 1, None);
    assert!(!shadow.has(1, 1));
    (shadow.free)(1, 1, None);
    let again = (shadow.get_or_alloc)(1, 1, 8, KERNEL, Some(store), 77);
    assert_eq!(shadow.value(1, 1), Some(77));
    assert_eq!((shadow.get)(1, 1), again);
    assert!(runtime.log().is_empty());
}

#[test]
fn null_objects_and_empty_data_are_possible() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    let data = (shadow.alloc)(0, 0, 0, KERNEL, None, 0);
    assert!(!data.is_null());
    assert_eq!((shadow.get)(0, 0), data);
    assert!(!shadow.has(0, 1) && !shadow.has(1, 0));
    (shadow.free)(0, 0, None);
    assert!(!shadow.has(0, 0));
    assert!((shadow.alloc)(0, 0, usize::MAX - 8, KERNEL, None, 0).is_null());
    assert!((shadow.alloc)(0, 0, 1 << 60, KERNEL, None, 0).is_null());
    assert!(!shadow.has(0, 0));
}

#[test]
fn duplicates_and_failed_constructors_are_reported_as_by_the_kernel() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    assert!((shadow.alloc)(0xabc, 0x1234, 8, KERNEL, Some(refuse), 0).is_null());
    assert!(!shadow.has(0xabc, 0x1234));
    assert!((shadow.get_or_alloc)(0xabc, 0x1234, 8, KERNEL, Some(refuse), 0).is_null());
    assert!(!(shadow.alloc)(0xabc, 0x1234, 8, KERNEL, Some(store), 5).is_null());
    assert!((shadow.alloc)(0xabc, 0x1234, 8, KERNEL, Some(store), 6).is_null());
    assert_eq!(shadow.value(0xabc, 0x1234), Some(5));
    let failed =
        "livepatch: Failed to construct shadow variable <0000000000000abc, 1234> (-22)".to_owned();
    let duplicate = "livepatch: Duplicate shadow variable <0000000000000abc, 1234>".to_owned();
    assert_eq!(
        runtime.log(),
        [(3, failed.clone()), (3, failed), (4, duplicate)]
    );
}

static DESTROYED: AtomicU64 = AtomicU64::new(0);
static SHADOW_GET: AtomicU64 = AtomicU64::new(0);

extern "C" fn add_value(object: u64, data: *mut u64) {
    // SAFETY: the address was put there by the test; the data are this variable's.
    let (get, value) = unsafe {
        type Get = extern "C" fn(u64, u64) -> *mut u64;
        let get = SHADOW_GET.load(Ordering::Relaxed) as *const c_void;
        (std::mem::transmute::<*const c_void, Get>(get), data.read())
    };
    // The variable is out of sight when its destructor runs.
    assert!(get(object, 7).is_null());
    DESTROYED.fetch_add(value, Ordering::Relaxed);
}

#[test]
fn destructors_see_data_that_nobody_can_find_any_more() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    SHADOW_GET.store(runtime.symbol("klp_shadow_get"), Ordering::Relaxed);
    for object in 0..1000 {
        assert!(!(shadow.alloc)(object, 7, 8, KERNEL, Some(store), object).is_null());
        assert!(!(shadow.alloc)(object, 8, 8, KERNEL, Some(store), object).is_null());
    }
    (shadow.free)(500, 7, Some(add_value));
    assert_eq!(DESTROYED.swap(0, Ordering::Relaxed), 500);
    (shadow.free)(500, 7, Some(add_value));
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 0);
    (shadow.free_all)(7, Some(add_value));
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 999 * 1000 / 2 - 500);
    for object in 0..1000 {
        assert!(!shadow.has(object, 7));
        assert_eq!(shadow.value(object, 8), Some(object));
    }
    (shadow.free_all)(8, None);
    assert!((0..1000).all(|object| !shadow.has(object, 8)));
}

#[test]
fn random_operations_agree_with_a_model() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    let seed = seed();
    let mut random = Random::new(seed);
    let mut model = HashMap::<(u64, u64), u64>::new();
    for step in 0..300_000 {
        // Phases of growth and of decay, so that the table is rebuilt in both directions.
        let growing = step / 30_000 % 2 == 0;
        let key = (16 * random.below(20_000), random.below(3));
        let present = model.contains_key(&key);
        match random.below(if growing { 12 } else { 40 }) {
            0..9 if growing => {
                let data = (shadow.alloc)(key.0, key.1, 8, KERNEL, Some(store), step);
                assert_eq!(data.is_null(), present, "seed {seed}, step {step}");
                model.entry(key).or_insert(step);
            }
            9 | 10 => {
                let data = (shadow.get_or_alloc)(key.0, key.1, 8, KERNEL, Some(store), step);
                let expected = *model.entry(key).or_insert(step);
                // SAFETY: the variable is there and nobody else uses it.
                assert_eq!(unsafe { data.read() }, expected, "seed {seed}, step {step}");
            }
            11 if random.below(3000) == 0 => {
                (shadow.free_all)(key.1, None);
                model.retain(|other, _| other.1 != key.1);
            }
            _ => {
                (shadow.free)(key.0, key.1, None);
                model.remove(&key);
            }
        }
        let other = (16 * random.below(20_000), random.below(3));
        let expected = model.get(&other).copied();
        assert_eq!(
            shadow.value(other.0, other.1),
            expected,
            "seed {seed}, step {step}"
        );
    }
    for (key, value) in model {
        assert_eq!(
            shadow.value(key.0, key.1),
            Some(value),
            "seed {seed}, key {key:?}"
        );
    }
}

#[test]
fn new_keys_for_ever_do_not_need_more_memory_for_ever() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    let mapped = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
    };
    // In a child, where no other test maps anything.
    in_child(|| {
        let mut before = 0;
        for object in 0..2_000_000 {
            if object == 200_000 {
                before = mapped();
            }
            if (shadow.alloc)(object, 1, 8, KERNEL, None, 0).is_null() {
                return 1;
            }
            if object >= 1000 {
                (shadow.free)(object - 1000, 1, None);
            }
        }
        // Without reuse it would be 80 MB for the data and 40 MB for the keys.
        c_int::from(mapped() > before + (1 << 20)) * 2
    });
}

#[test]
fn eight_threads_change_their_own_and_see_what_stays() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    let seed = seed();
    const STABLE: u64 = 5000;
    let stable: Vec<u64> = (0..STABLE)
        .map(|object| (shadow.alloc)(1 << 40 | object, 9, 8, KERNEL, Some(store), object) as u64)
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (stable, done) = (&stable, &done);
            scope.spawn(move || {
                let mut random = Random::new(seed ^ 0x5555 ^ reader);
                while !done.load(Ordering::Relaxed) {
                    let object = random.below(STABLE);
                    let data = (shadow.get)(1 << 40 | object, 9) as u64;
                    assert_eq!(
                        data, stable[object as usize],
                        "seed {seed}, object {object}"
                    );
                    assert!(!shadow.has(1 << 40 | object, 10), "seed {seed}");
                }
            });
        }
        let writers: Vec<_> = (0..6)
            .map(|thread: u64| {
                scope.spawn(move || {
                    let mut random = Random::new(seed.wrapping_add(thread));
                    let mut model = HashMap::new();
                    for step in 0..60_000 {
                        let limit = if step / 20_000 % 2 == 0 { 4000 } else { 40 };
                        let object = (thread << 32) | (8 * random.below(limit));
                        if random.below(2) == 0 {
                            let data = (shadow.alloc)(object, 1, 24, KERNEL, Some(store), step);
                            assert_eq!(data.is_null(), model.contains_key(&object), "seed {seed}");
                            model.entry(object).or_insert(step);
                        } else {
                            (shadow.free)(object, 1, None);
                            model.remove(&object);
                        }
                        let expected = model.get(&object).copied();
                        assert_eq!(shadow.value(object, 1), expected, "seed {seed}, {step}");
                    }
                    for (object, value) in model {
                        assert_eq!(shadow.value(object, 1), Some(value), "seed {seed}");
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "seed {seed}");
    });
}

extern "C" fn count(_object: u64, data: *mut u64, counter: u64) -> c_int {
    // SAFETY: the counter is a static of the test.
    unsafe { &*(counter as *const AtomicU32) }.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the data have eight bytes.
    unsafe { data.write(1) };
    0
}

#[test]
fn of_many_threads_that_want_a_variable_one_constructs_it() {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    const OBJECTS: u64 = 3000;
    let results: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let counter = &raw const COUNTER as u64;
                    (0..OBJECTS)
                        .map(|object| {
                            (shadow.get_or_alloc)(object, 3, 8, KERNEL, Some(count), counter) as u64
                        })
                        .collect()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(results.iter().all(|result| *result == results[0]));
    assert!(!results[0].contains(&0));
    assert_eq!(COUNTER.load(Ordering::Relaxed), OBJECTS as u32);
}

/// Runs `body` in a child, where a deadlock does not stop the tests.
fn in_child(body: impl FnOnce() -> c_int) {
    assert_eq!(Tracee::fork(body).exit_code(), 0);
}

static IN_CONSTRUCTOR: AtomicBool = AtomicBool::new(false);
static LEAVE_CONSTRUCTOR: AtomicBool = AtomicBool::new(false);

/// Lets the constructor go when the test ends, however it ends: its thread is waited for.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        LEAVE_CONSTRUCTOR.store(true, Ordering::Release);
    }
}

extern "C" fn wait_in_constructor(_object: u64, data: *mut u64, value: u64) -> c_int {
    IN_CONSTRUCTOR.store(true, Ordering::Release);
    while !LEAVE_CONSTRUCTOR.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    store(0, data, value)
}

#[test]
fn a_child_is_not_locked_out_by_a_thread_that_it_does_not_have() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    assert!(!(shadow.alloc)(1, 1, 8, KERNEL, Some(store), 11).is_null());
    std::thread::scope(|scope| {
        scope.spawn(|| (shadow.alloc)(2, 1, 8, KERNEL, Some(wait_in_constructor), 22) as u64);
        let release = Release;
        while !IN_CONSTRUCTOR.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        in_child(|| {
            // The variable that was under construction has never come to be.
            let fine = shadow.value(1, 1) == Some(11)
                && !shadow.has(2, 1)
                && !(shadow.alloc)(2, 1, 8, KERNEL, Some(store), 33).is_null()
                && shadow.value(2, 1) == Some(33);
            (shadow.free)(1, 1, None);
            // A grandchild, the lock being free.
            let grandchild = Tracee::fork(|| {
                (shadow.free)(2, 1, None);
                c_int::from(shadow.has(2, 1))
            });
            c_int::from(!fine || shadow.has(1, 1) || grandchild.exit_code() != 0)
        });
        // Here the lock still holds others back.
        let other = scope.spawn(|| (shadow.free)(1, 1, None));
        std::thread::sleep(Duration::from_millis(50));
        assert!(shadow.has(1, 1));
        drop(release);
        other.join().unwrap();
    });
    assert!(!shadow.has(1, 1));
    assert_eq!(shadow.value(2, 1), Some(22));
}

static HANDLER_SHADOW: RwLock<Option<Shadow>> = RwLock::new(None);
static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn handle_signal(_signal: c_int) {
    let number = HANDLED.fetch_add(1, Ordering::Relaxed);
    if let Some(shadow) = HANDLER_SHADOW.try_read().ok().and_then(|shadow| *shadow) {
        (shadow.get_or_alloc)(number % 50, 5, 64, KERNEL, Some(store), number);
        (shadow.free)((number + 25) % 50, 5, None);
    }
}

#[test]
fn signal_handlers_may_use_everything() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    *HANDLER_SHADOW.write().unwrap() = Some(shadow);
    in_child(|| {
        let interval = libc::timeval {
            tv_sec: 0,
            tv_usec: 50,
        };
        let timer = libc::itimerval {
            it_interval: interval,
            it_value: interval,
        };
        // SAFETY: the handler does nothing but atomics and the functions under test.
        unsafe {
            libc::signal(
                libc::SIGVTALRM,
                handle_signal as *const () as libc::sighandler_t,
            );
            if libc::setitimer(libc::ITIMER_VIRTUAL, &raw const timer, null_mut()) != 0 {
                return 1;
            }
        }
        let begin = Instant::now();
        let mut object = 1000;
        while begin.elapsed() < Duration::from_secs(2) {
            object += 1;
            if (shadow.alloc)(object, 5, 64, KERNEL, Some(store), object).is_null()
                || shadow.value(object, 5) != Some(object)
            {
                return 2;
            }
            (shadow.free)(object, 5, None);
        }
        c_int::from(HANDLED.load(Ordering::Relaxed) < 50) * 3
    });
}

#[test]
fn a_million_variables_are_found_about_as_fast_as_in_a_hash_map() {
    let runtime = Runtime::load();
    let shadow = Shadow::of(&runtime);
    const COUNT: u64 = 1_000_000;
    let object = |number: u64| 0x7f00_0000_0000 + 48 * number;
    let begin = Instant::now();
    for number in 0..COUNT {
        assert!(!(shadow.alloc)(object(number), 1, 8, KERNEL, Some(store), number).is_null());
    }
    let filled = begin.elapsed();
    let map: RwLock<HashMap<(u64, u64), u64>> = RwLock::new(
        (0..COUNT)
            .map(|number| ((object(number), 1), number))
            .collect(),
    );
    let measure = |mut lookup: Box<dyn FnMut(u64) -> bool + '_>| {
        let mut random = Random::new(1);
        let begin = Instant::now();
        for _ in 0..COUNT {
            assert!(lookup(object(random.below(COUNT))));
        }
        begin.elapsed()
    };
    let ours = measure(Box::new(|object| shadow.has(object, 1)));
    let theirs = measure(Box::new(|object| {
        map.read().unwrap().contains_key(&(object, 1))
    }));
    println!("fill {filled:?}, {COUNT} lookups: {ours:?}, in a locked HashMap: {theirs:?}");
    assert!(ours < 2 * theirs, "{ours:?} against {theirs:?}");
}
