//! The allocator and what stands on it.

mod support;

use std::ffi::{CStr, c_char};
use std::sync::Barrier;

use support::Runtime;
use support::random::{Random, seed};

#[derive(Clone, Copy)]
struct Heap {
    kmalloc: extern "C" fn(usize, u32) -> *mut u8,
    kzalloc: extern "C" fn(usize, u32) -> *mut u8,
    kcalloc: extern "C" fn(usize, usize, u32) -> *mut u8,
    krealloc: extern "C" fn(*mut u8, usize, u32) -> *mut u8,
    kfree: extern "C" fn(*mut u8),
    ksize: extern "C" fn(*mut u8) -> usize,
}

impl Heap {
    fn of(runtime: &Runtime) -> Self {
        // SAFETY: the types are those in linux/slab.h.
        unsafe {
            Self {
                kmalloc: runtime.function("engraft_kmalloc"),
                kzalloc: runtime.function("engraft_kzalloc"),
                kcalloc: runtime.function("engraft_kcalloc"),
                krealloc: runtime.function("engraft_krealloc"),
                kfree: runtime.function("engraft_kfree"),
                ksize: runtime.function("engraft_ksize"),
            }
        }
    }
}

const KERNEL: u32 = 0xcc0;
const ZERO: u32 = 0x100;

fn fill(block: *mut u8, size: usize, value: u8) {
    // SAFETY: the block has that many bytes.
    unsafe { block.write_bytes(value, size) };
}

fn holds(block: *const u8, size: usize, value: u8) -> bool {
    // SAFETY: the block has that many bytes.
    unsafe { std::slice::from_raw_parts(block, size) }
        .iter()
        .all(|&byte| byte == value)
}

#[test]
fn blocks_are_aligned_large_enough_and_apart() {
    let heap = Heap::of(&Runtime::load());
    let sizes: Vec<usize> = (0..200)
        .chain([255, 256, 257, 1000, 4096, 40_000, 65_520, 65_521, 200_000])
        .collect();
    let blocks: Vec<*mut u8> = sizes
        .iter()
        .map(|&size| (heap.kmalloc)(size, KERNEL))
        .collect();
    for (number, (&block, &size)) in blocks.iter().zip(&sizes).enumerate() {
        assert_eq!(block as usize % 16, 0);
        assert!((heap.ksize)(block) >= size, "{size}");
        fill(block, (heap.ksize)(block), number as u8);
    }
    for (number, (&block, &size)) in blocks.iter().zip(&sizes).enumerate() {
        assert!(holds(block, (heap.ksize)(block), number as u8), "{size}");
        (heap.kfree)(block);
    }
}

#[test]
fn zeroed_blocks_are_zero_even_when_used_before() {
    let heap = Heap::of(&Runtime::load());
    for size in [1, 24, 100, 5000, 100_000] {
        let first = (heap.kmalloc)(size, KERNEL);
        fill(first, size, 0xff);
        (heap.kfree)(first);
        let second = (heap.kzalloc)(size, KERNEL);
        assert!(holds(second, size, 0));
        fill(second, size, 0xff);
        (heap.kfree)(second);
        let third = (heap.kmalloc)(size, KERNEL | ZERO);
        assert!(holds(third, size, 0));
    }
}

#[test]
fn impossible_sizes_give_null() {
    let heap = Heap::of(&Runtime::load());
    for size in [
        usize::MAX,
        usize::MAX - 15,
        usize::MAX - 16,
        usize::MAX - 4096,
        1 << 62,
    ] {
        assert!((heap.kmalloc)(size, KERNEL).is_null(), "{size:#x}");
        assert!((heap.kzalloc)(size, KERNEL).is_null(), "{size:#x}");
    }
    assert!((heap.kcalloc)(1 << 33, 1 << 33, KERNEL).is_null());
    assert!(!(heap.kcalloc)(3, 5, KERNEL).is_null());
}

#[test]
fn krealloc_keeps_what_is_there() {
    let heap = Heap::of(&Runtime::load());
    let mut block = (heap.krealloc)(std::ptr::null_mut(), 10, KERNEL);
    fill(block, 10, 7);
    for size in [20, 100, 5000, 70_000, 300_000] {
        block = (heap.krealloc)(block, size, KERNEL);
        assert!(holds(block, 10, 7), "{size}");
    }
    assert_eq!((heap.krealloc)(block, 10, KERNEL), block);
    assert!((heap.krealloc)(block, usize::MAX, KERNEL).is_null());
    assert!(holds(block, 10, 7));
    assert!((heap.krealloc)(block, 0, KERNEL).is_null());
}

#[test]
fn a_block_is_freed_once() {
    let runtime = Runtime::load();
    let heap = Heap::of(&runtime);
    let block = (heap.kmalloc)(40, KERNEL);
    (heap.kfree)(block);
    (heap.kfree)(block);
    (heap.kfree)(std::ptr::null_mut());
    let mut foreign = [0_u128; 4];
    let middle = (&raw mut foreign[2]).cast();
    (heap.kfree)(middle);
    let line = |place: *mut u8| {
        (
            3,
            format!("kfree: {:016x} is not a block in use", place as u64),
        )
    };
    assert_eq!(runtime.log(), [line(block), line(middle)]);
    let (first, second) = ((heap.kmalloc)(40, KERNEL), (heap.kmalloc)(40, KERNEL));
    assert_ne!(first, second);
}

#[test]
fn eight_threads_never_share_a_block() {
    let heap = Heap::of(&Runtime::load());
    let seed = seed();
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let start = &start;
            scope.spawn(move || {
                let mut random = Random::new(seed.wrapping_add(thread));
                let mut blocks: Vec<(*mut u8, usize, u8)> = Vec::new();
                start.wait();
                for step in 0..40_000 {
                    if blocks.len() < 60 && random.below(2) == 0 {
                        // Few sizes, so that the threads fight for the same lists.
                        let size = random.pick(&[8, 8, 8, 40, 300, 70_000]);
                        let block = (heap.kmalloc)(size, KERNEL);
                        assert!(!block.is_null(), "seed {seed}");
                        fill(block, size, step as u8 ^ thread as u8);
                        blocks.push((block, size, step as u8 ^ thread as u8));
                    } else if !blocks.is_empty() {
                        let index = random.below(blocks.len() as u64) as usize;
                        let (block, size, value) = blocks.swap_remove(index);
                        assert!(holds(block, size, value), "seed {seed}, step {step}");
                        (heap.kfree)(block);
                    }
                }
            });
        }
    });
}

#[test]
fn strings_are_copied() {
    let runtime = Runtime::load();
    // SAFETY: the types are those in linux/string.h.
    let (kstrdup, kstrndup, kmemdup, strscpy) = unsafe {
        (
            runtime.function::<extern "C" fn(*const c_char, u32) -> *mut c_char>("engraft_kstrdup"),
            runtime.function::<extern "C" fn(*const c_char, usize, u32) -> *mut c_char>(
                "engraft_kstrndup",
            ),
            runtime.function::<extern "C" fn(*const c_char, usize, u32) -> *mut [c_char; 3]>(
                "engraft_kmemdup",
            ),
            runtime.function::<extern "C" fn(*mut c_char, *const c_char, usize) -> isize>(
                "engraft_strscpy",
            ),
        )
    };
    // SAFETY: what the functions return and fill are C strings.
    let text = |place: *const c_char| unsafe { CStr::from_ptr(place) };
    let source = c"some text".as_ptr();
    assert_eq!(text(kstrdup(source, KERNEL)), c"some text");
    assert!(kstrdup(std::ptr::null(), KERNEL).is_null());
    assert_eq!(text(kstrndup(source, 4, KERNEL)), c"some");
    assert_eq!(text(kstrndup(source, 400, KERNEL)), c"some text");
    // SAFETY: three bytes were copied.
    let copied = unsafe { *kmemdup(source, 3, KERNEL) };
    assert_eq!(copied, [b's', b'o', b'm'].map(|byte| byte as c_char));
    let mut buffer = [0x55 as c_char; 16];
    assert_eq!(strscpy(buffer.as_mut_ptr(), source, 10), 9);
    assert_eq!(text(buffer.as_ptr()), c"some text");
    assert_eq!(strscpy(buffer.as_mut_ptr(), source, 5), -7);
    assert_eq!(text(buffer.as_ptr()), c"some");
    assert_eq!(strscpy(buffer.as_mut_ptr(), source, 0), -7);
    assert_eq!(text(buffer.as_ptr()), c"some");
}
