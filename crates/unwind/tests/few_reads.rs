//! A stopped thread waits while its stack is read, so that takes few system calls.

mod support;

use engraft_unwind::Unwinder;
use support::address_space::AddressSpace;
use support::tracee::{Stop, Tracee};

#[test]
fn a_stack_is_read_at_once() {
    let program = support::compile("calls.c", "gcc -O2 -include begin_traced.h");
    let tracee = Tracee::start(&program);
    let deep = AddressSpace::of(tracee.pid.as_raw()).symbols.address("use");
    tracee.run_to(deep);
    assert_eq!(tracee.step(None), Stop::Trap);
    let space = AddressSpace::of(tracee.pid.as_raw());
    let registers = tracee.registers();
    let mut unwinder = Unwinder::new(&space.code);
    assert!(unwinder.walk(&space.memory, &registers).is_complete());
    let before = space.memory.reads.get();
    assert!(unwinder.walk(&space.memory, &registers).is_complete());
    let reads = space.memory.reads.get() - before;
    // 16 KiB at once, or what is left of the stack in up to three tries.
    assert!(reads <= 3, "{reads} reads");
}
