//! Getting memory in a target that holds nothing of ours yet.
//!
//! A few instructions are put where the target has executable bytes that it never executes
//! (the rest of a text segment's last page). They carry everything as immediate values:
//! the system calls to make, then the registers to restore, then a jump back. A tool killed
//! at any moment leaves a thread that finishes them and goes on.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};
use crate::event::Event;
use crate::filters;
use crate::identity::list_threads;
use crate::inside::has_left;
use crate::memory::Memory;
use crate::restart::{NO_CALL, registers_outside, resume_point};
use crate::sys::{self, Run, SyscallStop};
use crate::thread::Stopped;
use crate::tracer::Tracer;

/// How long a thread may take to leave the code of a killed tool.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

const MAP_FIXED_NOREPLACE: u32 = libc::MAP_FIXED_NOREPLACE as u32;

/// A mapping of a private memfd, in three parts: read-only, executable, writable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaPlan {
    /// Name of the memfd, as /proc/PID/maps shows it behind `/memfd:`.
    pub name: &'static str,
    /// First address; nothing may be mapped there.
    pub address: u64,
    /// Bytes of the read-only part, a multiple of the page size; the parts follow each other.
    pub read_only: u64,
    /// Bytes of the executable part.
    pub executable: u64,
    /// Bytes of the writable part.
    pub writable: u64,
}

impl ArenaPlan {
    /// Length of the whole mapping in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.read_only + self.executable + self.writable
    }

    /// Bytes of code needed to create it.
    pub const CODE_ROOM: usize = 400;
}

/// `lea name(%rip), %rdi` without its operand: how the code begins.
const FIRST_INSTRUCTION: [u8; 3] = [0x48, 0x8d, 0x3d];

const CALLS: [(&str, i64); 6] = [
    ("memfd_create", libc::SYS_memfd_create),
    ("ftruncate", libc::SYS_ftruncate),
    ("mmap", libc::SYS_mmap),
    ("mprotect", libc::SYS_mprotect),
    ("mprotect", libc::SYS_mprotect),
    ("close", libc::SYS_close),
];

/// Executable bytes that the target never executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slack {
    /// Address of at least [`ArenaPlan::CODE_ROOM`] bytes.
    pub address: u64,
    /// What its first bytes were before anybody used them, where that is known.
    pub original: Option<Vec<u8>>,
}

impl Slack {
    fn range(&self) -> Range<u64> {
        self.address..self.address + ArenaPlan::CODE_ROOM as u64
    }
}

/// Waits until no thread can be in code that a killed tool has left in the slack, and puts
/// back what was there before.
///
/// # Errors
///
/// [`Kind::Strayed`] when a thread stays in it.
pub fn clear_slack(tracer: &Tracer, memory: &Memory, slack: &Slack) -> Result<(), Error> {
    let mut start = [0; FIRST_INSTRUCTION.len()];
    memory.read_bytes(slack.address, &mut start)?;
    if start != FIRST_INSTRUCTION {
        return Ok(());
    }
    let deadline = Instant::now() + LEAVE_PATIENCE;
    for tid in list_threads(memory.pid()) {
        while !has_left(tracer, memory, tid, &slack.range())? {
            if Instant::now() > deadline {
                let text = format!(
                    "thread {tid} still runs code for an engraft that has ended; try again"
                );
                return Err(Error::new(memory.pid(), "map memory", Kind::Strayed(text)));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    if let Some(original) = &slack.original {
        // Where the kernel forbids it, nothing is lost: nobody executes these bytes.
        let _ = memory.write_bytes(slack.address, original);
    }
    Ok(())
}

/// Makes the stopped thread create the mapping, by way of code in the slack, in which no
/// thread may be ([`clear_slack`]). The bytes are put back and the thread goes on where
/// it was.
///
/// # Errors
///
/// [`Kind::RemoteCall`] with the call that failed (nothing is left behind then),
/// [`Kind::Suspended`], [`Kind::Gone`].
pub fn create_arena(
    mut thread: Stopped<'_>,
    memory: &Memory,
    slack: &Slack,
    plan: &ArenaPlan,
) -> Result<(), Error> {
    if thread.in_group_stop() {
        return Err(thread.fail("map memory", Kind::Suspended));
    }
    filters::lift(memory.pid(), thread.tid())?;
    let outside = *thread.registers();
    let code = assemble(plan, &outside);
    debug_assert!(code.len() <= ArenaPlan::CODE_ROOM);
    let mut before = vec![0; code.len()];
    memory.read_bytes(slack.address, &mut before)?;
    let original = slack
        .original
        .as_ref()
        .and_then(|bytes| bytes.get(..code.len()));
    let before = original.unwrap_or(&before);
    memory.write_through(thread.tid(), slack.address, &code)?;

    let registers = thread.registers_mut();
    registers.rip = slack.address;
    registers.orig_rax = NO_CALL;
    let results = run_calls(&mut thread, &slack.range())?;
    // What the rest of the code would do. Not step by step: a thread whose tool is killed
    // in between would be killed by its next step.
    *thread.registers_mut() = registers_outside(&outside);
    if !thread.write_registers()? {
        return Err(thread.fail("map memory", Kind::Gone));
    }
    memory.write_through(thread.tid(), slack.address, before)?;
    let failed = CALLS
        .iter()
        .zip(&results)
        .find(|(_, result)| (-4095..0).contains(*result));
    let failure = failed.map(|((name, _), result)| {
        let errno = nix::errno::Errno::from_raw(-(*result as i32));
        thread.fail("map memory", Kind::RemoteCall { name, errno })
    });
    thread.release()?;
    failure.map_or(Ok(()), Err)
}

/// Runs the calls of the code at `code` and returns their raw results. A signal handler may
/// make calls of its own in between, the last of which, rt_sigreturn(2), ends in the code.
fn run_calls(thread: &mut Stopped<'_>, code: &Range<u64>) -> Result<Vec<i64>, Error> {
    let mut results = Vec::new();
    let mut in_call = false;
    while results.len() < CALLS.len() {
        if thread.run_to_event(Run::ToSyscall)? == Event::Ended {
            return Err(thread.fail("map memory", Kind::Gone));
        }
        thread.reload_registers()?;
        match sys::syscall_stop(thread.tid()) {
            Ok(SyscallStop::Entry { .. }) => in_call = code.contains(&thread.registers().rip),
            Ok(SyscallStop::Exit { result }) if in_call => {
                in_call = false;
                results.push(result);
            }
            _ => {}
        }
    }
    Ok(results)
}

/// Numbers of the general registers as instructions encode them.
#[derive(Clone, Copy)]
enum Reg {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
}

struct Code(Vec<u8>);

impl Code {
    /// `movabs $value, %reg`: touches no flags.
    fn set(&mut self, reg: Reg, value: u64) {
        let number = reg as u8;
        self.0.extend([0x48 | number >> 3, 0xb8 | number & 7]);
        self.0.extend(value.to_le_bytes());
    }

    fn call(&mut self, number: i64) {
        self.set(Reg::Rax, number.cast_unsigned());
        self.0.extend([0x0f, 0x05]);
    }
}

fn assemble(plan: &ArenaPlan, outside: &crate::thread::Registers) -> Vec<u8> {
    let mut code = Code(Vec::new());
    let writable_at = plan.address + plan.read_only + plan.executable;

    code.0.extend(FIRST_INSTRUCTION);
    let name_operand = code.0.len();
    code.0.extend([0; 4]);
    code.set(Reg::Rsi, u64::from(libc::MFD_CLOEXEC));
    code.call(libc::SYS_memfd_create);
    code.0.extend([0x49, 0x89, 0xc0]); // mov %rax, %r8: system calls keep r8
    code.0.extend([0x4c, 0x89, 0xc7]); // mov %r8, %rdi
    code.set(Reg::Rsi, plan.length());
    code.call(libc::SYS_ftruncate);
    code.set(Reg::Rdi, plan.address);
    code.set(Reg::Rsi, plan.length());
    // Executable first: rights are only taken away after that, which no policy forbids.
    code.set(Reg::Rdx, (libc::PROT_READ | libc::PROT_EXEC) as u64);
    code.set(
        Reg::R10,
        u64::from(libc::MAP_PRIVATE as u32 | MAP_FIXED_NOREPLACE),
    );
    code.set(Reg::R9, 0);
    code.call(libc::SYS_mmap);
    for (address, length, protection) in [
        (plan.address, plan.read_only, libc::PROT_READ),
        (
            writable_at,
            plan.writable,
            libc::PROT_READ | libc::PROT_WRITE,
        ),
    ] {
        code.set(Reg::Rdi, address);
        code.set(Reg::Rsi, length);
        code.set(Reg::Rdx, protection as u64);
        code.call(libc::SYS_mprotect);
    }
    code.0.extend([0x4c, 0x89, 0xc7]); // mov %r8, %rdi
    code.call(libc::SYS_close);

    let resume = resume_point(outside);
    for (reg, value) in [
        (Reg::Rdi, outside.rdi),
        (Reg::Rsi, outside.rsi),
        (Reg::Rdx, outside.rdx),
        (Reg::R10, outside.r10),
        (Reg::R8, outside.r8),
        (Reg::R9, outside.r9),
        (Reg::Rcx, outside.rcx),
        (Reg::R11, outside.r11),
        (Reg::Rax, resume.rax),
    ] {
        code.set(reg, value);
    }
    code.0.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp *0(%rip)
    code.0.extend(resume.rip.to_le_bytes());
    let name_at = code.0.len();
    code.0.extend(plan.name.as_bytes());
    code.0.push(0);
    let distance = (name_at - (name_operand + 4)) as u32;
    code.0[name_operand..name_operand + 4].copy_from_slice(&distance.to_le_bytes());
    code.0
}
