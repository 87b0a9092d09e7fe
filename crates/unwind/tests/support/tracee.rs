//! A fixture under ptrace. All calls must come from the thread that started it.

use std::process::{Child, Command, Stdio};

use engraft_unwind::Registers;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Program;

/// A child that asked to be traced and stopped before `main`.
pub(crate) struct Tracee {
    pub(crate) pid: Pid,
    child: Child,
}

/// What a resumed tracee came back with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Trap,
    Signal(Signal),
    Gone,
}

impl Tracee {
    pub(crate) fn start(program: &Program) -> Self {
        let child = Command::new(&program.path)
            .stdout(Stdio::null())
            .spawn()
            .expect("fixture starts");
        let pid = Pid::from_raw(child.id() as i32);
        let status = waitpid(pid, None).expect("wait");
        assert_eq!(status, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL).expect("options");
        Self { pid, child }
    }

    pub(crate) fn registers(&self) -> Registers {
        registers_of(self.pid)
    }

    /// Executes one instruction, delivering `signal` first.
    pub(crate) fn step(&self, signal: Option<Signal>) -> Stop {
        ptrace::step(self.pid, signal).expect("step");
        self.wait()
    }

    /// Runs up to the instruction at `address`.
    pub(crate) fn run_to(&self, address: u64) {
        let word = ptrace::read(self.pid, address as ptrace::AddressType).expect("read");
        let breakpoint = (word & !0xff) | 0xcc;
        ptrace::write(self.pid, address as ptrace::AddressType, breakpoint).expect("write");
        ptrace::cont(self.pid, None).expect("continue");
        assert_eq!(self.wait(), Stop::Trap);
        ptrace::write(self.pid, address as ptrace::AddressType, word).expect("write");
        let mut registers = ptrace::getregs(self.pid).expect("registers");
        assert_eq!(registers.rip, address + 1);
        registers.rip = address;
        ptrace::setregs(self.pid, registers).expect("registers");
    }

    fn wait(&self) -> Stop {
        match waitpid(self.pid, None).expect("wait") {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Stop::Trap,
            WaitStatus::Stopped(_, signal) => Stop::Signal(signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Stop::Gone,
            other => panic!("unexpected {other:?}"),
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Registers of a stopped, traced thread.
pub(crate) fn registers_of(thread: Pid) -> Registers {
    let raw = ptrace::getregs(thread).expect("registers");
    Registers {
        rax: raw.rax,
        rbx: raw.rbx,
        rcx: raw.rcx,
        rdx: raw.rdx,
        rsi: raw.rsi,
        rdi: raw.rdi,
        rbp: raw.rbp,
        rsp: raw.rsp,
        r8: raw.r8,
        r9: raw.r9,
        r10: raw.r10,
        r11: raw.r11,
        r12: raw.r12,
        r13: raw.r13,
        r14: raw.r14,
        r15: raw.r15,
        rip: raw.rip,
    }
}
