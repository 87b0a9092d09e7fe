//! The tool's side of the conversation with the runtime, on a stopped child.

use std::mem::offset_of;

use engraft_abi::{
    CallFrame, Command, CommandKind, Mailbox, RESULT_SLOTS, ResultSlot, SavedRegisters, TRAP_MAGIC,
    UpcallKind,
};
use libc::user_regs_struct;

use super::Runtime;
use super::tracee::Tracee;

/// A child whose only thread is lent to the runtime.
pub(crate) struct Session<'a> {
    tracee: &'a Tracee,
    frame: u64,
    mailbox: u64,
    sequence: u64,
}

impl<'a> Session<'a> {
    /// Points the stopped child at the runtime, to come back to `registers` afterwards.
    pub(crate) fn enter(
        runtime: &Runtime,
        tracee: &'a Tracee,
        registers: &user_regs_struct,
        stack_top: u64,
    ) -> Self {
        assert_eq!(stack_top % 16, 0);
        let frame = runtime.symbol(engraft_runtime::SYM_FRAME);
        let mailbox = runtime.symbol(engraft_runtime::SYM_MAILBOX);
        tracee.write(
            frame + offset_of!(CallFrame, registers) as u64,
            saved(registers),
        );
        tracee.write(
            frame + offset_of!(CallFrame, owner) as u64,
            tracee.pid() as u64,
        );
        let entry = user_regs_struct {
            rip: runtime.symbol(engraft_runtime::SYM_ENTER),
            rsp: stack_top,
            orig_rax: u64::MAX,
            ..*registers
        };
        tracee.set_registers(&entry);
        Self {
            tracee,
            frame,
            mailbox,
            sequence: 1000,
        }
    }

    /// Lets the child run until the runtime asks; returns what it asks for.
    pub(crate) fn wait_for_question(&self) -> (UpcallKind, u32, u64) {
        loop {
            self.tracee.run_to_syscall_stop();
            let registers = self.tracee.registers();
            let at_entry = registers.rax as i64 == -i64::from(libc::ENOSYS);
            if at_entry
                && registers.orig_rax == libc::SYS_read as u64
                && registers.rdi == u64::MAX
                && registers.rsi == TRAP_MAGIC
            {
                let upcall = self.field(offset_of!(Mailbox, upcall));
                let upcall = UpcallKind::from_raw(upcall).unwrap();
                return (
                    upcall,
                    self.field(offset_of!(Mailbox, depth)),
                    self.field(offset_of!(Mailbox, argument)),
                );
            }
        }
    }

    /// Writes a command for the question at hand; returns its number.
    pub(crate) fn answer(&mut self, kind: CommandKind, target: u64, arguments: &[u64]) -> u64 {
        self.sequence += 1;
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        self.tracee.write(
            self.mailbox + offset_of!(Mailbox, command) as u64,
            Command {
                kind: kind as u32,
                reserved: 0,
                sequence: self.sequence,
                target,
                arguments: all,
            },
        );
        self.sequence
    }

    /// Answers, waits for the next question (which must be `Ready` at depth 1), and returns
    /// the result.
    pub(crate) fn execute(&mut self, kind: CommandKind, target: u64, arguments: &[u64]) -> u64 {
        let sequence = self.answer(kind, target, arguments);
        let (upcall, depth, _) = self.wait_for_question();
        assert_eq!((upcall, depth), (UpcallKind::Ready, 1));
        self.result(sequence)
    }

    /// The result of a command that is done.
    pub(crate) fn result(&self, sequence: u64) -> u64 {
        let index = sequence % RESULT_SLOTS as u64;
        let slot: ResultSlot =
            self.field(offset_of!(Mailbox, results) + index as usize * size_of::<ResultSlot>());
        assert_eq!(slot.sequence, sequence);
        slot.value
    }

    /// (owner, last owner, entered).
    pub(crate) fn frame_marks(&self) -> (u64, u64, u64) {
        let read = |at: usize| self.tracee.read(self.frame + at as u64);
        (
            read(offset_of!(CallFrame, owner)),
            read(offset_of!(CallFrame, last_owner)),
            read(offset_of!(CallFrame, entered)),
        )
    }

    fn field<T: Copy>(&self, at: usize) -> T {
        self.tracee.read(self.mailbox + at as u64)
    }
}

fn saved(registers: &user_regs_struct) -> SavedRegisters {
    SavedRegisters {
        rax: registers.rax,
        rbx: registers.rbx,
        rcx: registers.rcx,
        rdx: registers.rdx,
        rsi: registers.rsi,
        rdi: registers.rdi,
        rbp: registers.rbp,
        rsp: registers.rsp,
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rip: registers.rip,
        rflags: registers.eflags,
    }
}
