//! Costs that a stopped thread pays for. Limits are far above what is measured on an idle
//! machine (printed), and far below what a mistake in kind would cost.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engraft_unwind::{Cfi, CodeMap, CodeObject, Section, Unwinder};
use object::{Object, ObjectSection};
use support::address_space::AddressSpace;
use support::tracee::{Stop, Tracee};

const WALKS: u32 = 2_000;

#[test]
fn a_frame_takes_about_a_microsecond() {
    let program = support::compile("calls.c", "gcc -O2 -include begin_traced.h");
    let tracee = Tracee::start(&program);
    let deep = AddressSpace::of(tracee.pid.as_raw()).symbols.address("use");
    tracee.run_to(deep);
    assert_eq!(tracee.step(None), Stop::Trap);
    let space = AddressSpace::of(tracee.pid.as_raw());
    let registers = tracee.registers();
    let mut unwinder = Unwinder::new(&space.code);
    let frames = unwinder.walk(&space.memory, &registers).frames.len() as u32;
    let reads = space.memory.reads.get();
    let start = Instant::now();
    for _ in 0..WALKS {
        assert!(unwinder.walk(&space.memory, &registers).is_complete());
    }
    let elapsed = start.elapsed();
    let reads = (space.memory.reads.get() - reads) as u32;
    println!("{frames} frames: {:?} a frame", elapsed / (WALKS * frames));
    // 16 KiB at once, or what is left of the stack in up to three tries.
    assert!(reads <= 3 * WALKS, "{reads} reads for {WALKS} walks");
    assert!(elapsed / (WALKS * frames) < Duration::from_micros(30));
}

#[test]
fn a_map_of_two_hundred_objects_is_built_at_once() {
    let libc = std::fs::read("/lib/x86_64-linux-gnu/libc.so.6").expect("C library");
    let file = object::File::parse(libc.as_slice()).expect("ELF");
    let section = |name| {
        let section = file.section_by_name(name).expect("section");
        let bytes: Arc<[u8]> = section.data().expect("data").into();
        (section.address(), bytes)
    };
    let (eh_frame, header) = (section(".eh_frame"), section(".eh_frame_hdr"));
    let start = Instant::now();
    let mut code = CodeMap::new();
    for number in 0..200_u64 {
        let bias = 0x7f00_0000_0000 + (number << 24);
        let placed = |(address, bytes): &(u64, Arc<[u8]>)| Section {
            address: bias + address,
            bytes: bytes.clone(),
        };
        let cfi = Cfi::new(placed(&eh_frame), Some(&placed(&header)));
        code.add_object(CodeObject {
            name: format!("library {number}").into(),
            text: (0..3)
                .map(|part| bias + (part << 20)..bias + ((part + 1) << 20))
                .collect(),
            cfi: Some(Arc::new(cfi)),
            entries: Vec::new(),
        })
        .expect("object");
    }
    let elapsed = start.elapsed();
    println!("200 objects: {elapsed:?}");
    assert!(elapsed < Duration::from_millis(50), "{elapsed:?}");
}
