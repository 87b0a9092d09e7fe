//! Signal return trampolines without call frame information (musl, hand-written restorers).
//!
//! A thread that arrives at `rt_sigreturn` with a stack pointer S resumes the context at S,
//! whoever wrote the code: that is the kernel's interface, not a guess. The layout is that
//! of `struct ucontext` and `struct sigcontext` in the kernel's x86 uapi headers.

use engraft_elf::{ReadMemory, Unreadable};

use crate::registers::{GENERAL, RSP, Recovered};
use crate::stack::StackReader;

/// `mov $15, %rax; syscall`, as musl and others write it.
const LONG_FORM: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/// `mov $15, %eax; syscall`.
const SHORT_FORM: [u8; 7] = [0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// Offset of the saved registers in a `struct ucontext`.
const SAVED_REGISTERS: u64 = 40;
/// DWARF numbers in the order of `struct sigcontext`: r8-r15, rdi, rsi, rbp, rbx, rdx, rax,
/// rcx, rsp.
const SAVED_ORDER: [usize; GENERAL] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7];

/// What a signal interrupted.
pub(crate) struct Interrupted {
    pub(crate) pc: u64,
    pub(crate) slot: u64,
    pub(crate) registers: Recovered,
}

/// Whether the code at `pc` is a call of `rt_sigreturn`.
pub(crate) fn is_sigreturn(memory: &dyn ReadMemory, pc: u64) -> bool {
    let mut short = [0; SHORT_FORM.len()];
    let mut long = [0; LONG_FORM.len()];
    memory
        .read(pc, &mut short)
        .is_ok_and(|()| short == SHORT_FORM)
        || memory.read(pc, &mut long).is_ok_and(|()| long == LONG_FORM)
}

/// Reads the context that `rt_sigreturn` would resume with stack pointer `rsp`.
pub(crate) fn read_context(
    stack: &mut StackReader<'_>,
    rsp: u64,
) -> Result<Interrupted, Unreadable> {
    let saved = |index: usize| rsp.wrapping_add(SAVED_REGISTERS + 8 * index as u64);
    let mut registers = [None; GENERAL];
    for (index, number) in SAVED_ORDER.into_iter().enumerate() {
        registers[number] = Some(stack.word(saved(index))?);
    }
    debug_assert!(registers[RSP].is_some());
    let slot = saved(GENERAL);
    Ok(Interrupted {
        pc: stack.word(slot)?,
        slot,
        registers,
    })
}
