//! The registers a walk starts from, and those it recovers on its way.

/// The integer registers of a stopped thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the processor's own names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
}

/// DWARF number of the frame pointer (System V x86-64 ABI, figure 3.36).
pub(crate) const RBP: usize = 6;
/// DWARF number of the stack pointer (System V x86-64 ABI, figure 3.36).
pub(crate) const RSP: usize = 7;
/// DWARF number of the return address column (System V x86-64 ABI, figure 3.36).
pub(crate) const RETURN_ADDRESS: usize = 16;
/// Number of general registers; they are DWARF columns 0 to 15.
pub(crate) const GENERAL: usize = 16;

/// General registers by DWARF number; `None` where the value is lost.
pub(crate) type Recovered = [Option<u64>; GENERAL];

/// Registers a callee need not preserve (System V x86-64 ABI, figure 3.4).
const CALLER_SAVED: [usize; 9] = [0, 1, 2, 4, 5, 8, 9, 10, 11];

impl Registers {
    /// In DWARF order, which is not the order of the instruction encoding.
    pub(crate) fn recovered(&self) -> Recovered {
        [
            self.rax, self.rdx, self.rcx, self.rbx, self.rsi, self.rdi, self.rbp, self.rsp,
            self.r8, self.r9, self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
        .map(Some)
    }
}

/// The registers of a thread that is asleep in a system call and was not stopped.
pub(crate) fn only_stack_pointer(rsp: u64) -> Recovered {
    let mut registers = [None; GENERAL];
    registers[RSP] = Some(rsp);
    registers
}

/// DWARF number of a register that a function must preserve, from its number in instructions.
pub(crate) fn dwarf_number(number: u8) -> usize {
    match number {
        5 => RBP,
        other => other.into(), // rbx and r12 to r15 are the same
    }
}

/// Forgets what a call may have overwritten.
pub(crate) fn forget_caller_saved(registers: &mut Recovered) {
    for number in CALLER_SAVED {
        registers[number] = None;
    }
}
