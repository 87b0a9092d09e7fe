//! Running code in the target on a borrowed thread.
//!
//! The protocol and its reasons are described in `engraft_abi`'s mailbox: the thread runs
//! the runtime's service loop, is put back where it was when that is done, and goes back by
//! itself when the tool dies at any moment.

use std::mem::offset_of;
use std::ops::Range;
use std::time::{Duration, Instant};

use engraft_abi::{
    CallFrame, Mailbox, RESULT_SLOTS, ResultSlot, SavedRegisters, TRAP_MAGIC, UpcallKind,
};

use crate::error::{Error, Kind};
use crate::event::Event;
use crate::filters;
use crate::identity::read_thread_stat;
use crate::inside::{has_left, is_elsewhere};
use crate::memory::Memory;
use crate::restart::{NO_CALL, registers_outside};
use crate::sys::{self, Run, SyscallStop};
use crate::thread::Stopped;
use crate::tracer::{StopOutcome, Tracer};

pub use engraft_abi::Command;

/// How long a thread that a killed tool has left in the runtime may take to stop.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a thread that runs a callback is left alone between looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Where the runtime lies in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimePlaces {
    /// `engraft_enter`.
    pub enter: u64,
    /// `engraft_frame`.
    pub frame: u64,
    /// `engraft_mailbox`.
    pub mailbox: u64,
    /// Highest address of the service stack, 16-byte aligned.
    pub stack_top: u64,
    /// From the trap at `engraft_leave` up to `engraft_leave_end`.
    pub leave: Range<u64>,
}

impl RuntimePlaces {
    fn owner(&self) -> u64 {
        self.frame + offset_of!(CallFrame, owner) as u64
    }

    fn last_owner(&self) -> u64 {
        self.frame + offset_of!(CallFrame, last_owner) as u64
    }

    fn entered(&self) -> u64 {
        self.frame + offset_of!(CallFrame, entered) as u64
    }

    fn registers(&self) -> u64 {
        self.frame + offset_of!(CallFrame, registers) as u64
    }

    fn command(&self) -> u64 {
        self.mailbox + offset_of!(Mailbox, command) as u64
    }

    /// The recorded result of a command, if that command has run.
    ///
    /// # Errors
    ///
    /// Those of reading memory.
    pub fn result(&self, memory: &Memory, sequence: u64) -> Result<Option<u64>, Error> {
        let index = sequence % RESULT_SLOTS as u64;
        let address = self.mailbox
            + offset_of!(Mailbox, results) as u64
            + index * size_of::<ResultSlot>() as u64;
        let slot: ResultSlot = memory.read(address)?;
        Ok((slot.sequence == sequence).then_some(slot.value))
    }

    /// Numbers of commands that have been given, the last one among them, whether it has run
    /// or not.
    ///
    /// # Errors
    ///
    /// Those of reading memory.
    pub fn given_commands(&self, memory: &Memory) -> Result<Vec<u64>, Error> {
        let mailbox: Mailbox = memory.read(self.mailbox)?;
        let numbers = mailbox.results.iter().map(|slot| slot.sequence);
        Ok(numbers.chain([mailbox.command.sequence]).collect())
    }

    /// Waits until no thread uses the frame: one borrowed by a tool that was killed may still
    /// be running what it was told to run.
    ///
    /// # Errors
    ///
    /// [`Kind::Strayed`] when it does not come free within `patience`, [`Kind::Suspended`] when
    /// it cannot.
    pub fn wait_until_free(
        &self,
        tracer: &Tracer,
        memory: &Memory,
        patience: Duration,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        loop {
            let owner: u64 = memory.read(self.owner())?;
            let last: u64 = memory.read(self.last_owner())?;
            if owner == 0 && last == 0 {
                return Ok(());
            }
            if owner == 0 && has_left(tracer, memory, last as i32, &self.leave)? {
                memory.write(self.last_owner(), &0u64)?;
                return Ok(());
            }
            if owner != 0 && self.never_entered(tracer, memory, owner as i32)? {
                memory.write(self.owner(), &0u64)?;
                continue;
            }
            if Instant::now() >= deadline {
                let text = format!(
                    "thread {owner} still runs a callback for an engraft that has ended; wait for it"
                );
                return Err(Error::new(
                    memory.pid(),
                    "borrow a thread",
                    Kind::Strayed(text),
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the owner was never pointed at the runtime (its tool died before), has ended, or
    /// is another process' thread (this one was forked meanwhile).
    fn never_entered(&self, tracer: &Tracer, memory: &Memory, owner: i32) -> Result<bool, Error> {
        if read_thread_stat(memory.pid(), owner).is_none() {
            return Ok(true);
        }
        match tracer.stop(owner, LEAVE_PATIENCE)? {
            StopOutcome::Stopped(thread) if thread.in_group_stop() => {
                Err(thread.fail("borrow a thread", Kind::Suspended))
            }
            StopOutcome::Stopped(thread) => {
                let entered: u64 = memory.read(self.entered())?;
                let (rip, rsp) = (thread.registers().rip, thread.registers().rsp);
                // A signal handler may run before its first instruction there.
                let start = self.enter..self.enter + 1;
                Ok(entered == 0
                    && is_elsewhere(memory, &start, rip, rsp)?
                    && is_elsewhere(memory, &self.leave, rip, rsp)?)
            }
            StopOutcome::Gone => Ok(true),
            StopOutcome::Unresponsive => Ok(false),
        }
    }
}

/// What the runtime waits for at its trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upcall {
    /// Why it asks.
    pub kind: UpcallKind,
    /// Argument of the upcall.
    pub argument: u64,
}

/// Lets a thread run to its next event.
type RunThread<'t> = fn(&mut Stopped<'t>, Run) -> Result<Event, Error>;

/// A thread that executes commands, and stands at a trap while none runs. Dropping it gives the
/// thread back.
#[derive(Debug)]
pub struct Borrowed<'t> {
    thread: Option<Stopped<'t>>,
    memory: &'t Memory,
    places: &'t RuntimePlaces,
    /// Registers that the thread has outside.
    outside: crate::thread::Registers,
}

impl<'t> Borrowed<'t> {
    /// Points a stopped thread at the runtime and runs it up to the first trap. The frame must
    /// be free ([`RuntimePlaces::wait_until_free`]).
    ///
    /// # Errors
    ///
    /// [`Kind::Suspended`] for a thread in a group-stop, [`Kind::Strayed`], memory errors.
    pub fn begin(
        mut thread: Stopped<'t>,
        memory: &'t Memory,
        places: &'t RuntimePlaces,
    ) -> Result<Self, Error> {
        if thread.in_group_stop() {
            return Err(thread.fail("run code", Kind::Suspended));
        }
        filters::lift(memory.pid(), thread.tid())?;
        let outside = *thread.registers();
        memory.write(places.registers(), &registers_to_restore(&outside))?;
        memory.write(places.last_owner(), &(thread.tid() as u64))?;
        memory.write(places.command(), &Command::default())?;
        memory.write(places.owner(), &(thread.tid() as u64))?;
        let registers = thread.registers_mut();
        registers.rip = places.enter;
        registers.rsp = places.stack_top;
        registers.orig_rax = NO_CALL;
        registers.rax = 0;
        let mut borrowed = Self {
            thread: Some(thread),
            memory,
            places,
            outside,
        };
        borrowed.run_to_trap()?;
        Ok(borrowed)
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.thread.as_ref().map_or(0, Stopped::tid)
    }

    /// The registers that the thread has outside the runtime: those to unwind from.
    #[must_use]
    pub fn outside(&self) -> &crate::thread::Registers {
        &self.outside
    }

    /// Sets the GS base that the thread has from now on.
    ///
    /// # Errors
    ///
    /// As [`Stopped::set_gs_base`].
    pub fn set_gs_base(&mut self, base: u64) -> Result<bool, Error> {
        self.outside.gs_base = base;
        match &mut self.thread {
            Some(thread) => thread.set_gs_base(base),
            None => Ok(false),
        }
    }

    /// What the runtime asks for now.
    ///
    /// # Errors
    ///
    /// Memory errors; [`Kind::Strayed`] for an unknown upcall.
    pub fn upcall(&self) -> Result<Upcall, Error> {
        let raw: u32 = self
            .memory
            .read(self.places.mailbox + offset_of!(Mailbox, upcall) as u64)?;
        let argument = self
            .memory
            .read(self.places.mailbox + offset_of!(Mailbox, argument) as u64)?;
        let kind = UpcallKind::from_raw(raw).ok_or_else(|| {
            self.strayed(format!("the runtime asks for {raw}, which is not known"))
        })?;
        Ok(Upcall { kind, argument })
    }

    /// Executes one command and returns what the runtime asks for next.
    ///
    /// # Errors
    ///
    /// [`Kind::Gone`] when the thread or its process ends, memory errors.
    pub fn execute(&mut self, command: &Command) -> Result<Upcall, Error> {
        self.memory.write(self.places.command(), command)?;
        self.run_to_trap()?;
        self.upcall()
    }

    /// Sets what `klp_enable_patch` returns to the module if nobody comes to answer it.
    ///
    /// # Errors
    ///
    /// Memory errors.
    pub fn set_unanswered(&self, value: u64) -> Result<(), Error> {
        let at = self.places.mailbox + offset_of!(Mailbox, unanswered) as u64;
        self.memory.write(at, &value)
    }

    /// Gives the thread back, at the place and with the registers that it had.
    ///
    /// # Errors
    ///
    /// [`Kind::Gone`] when the thread or its process ends, memory errors and those of
    /// detaching.
    pub fn finish(mut self) -> Result<(), Error> {
        self.lead_back()
    }

    /// Ends the service loop and restores the thread while it is still held: once this tool
    /// lets go, the thread is nowhere but in its own code.
    fn lead_back(&mut self) -> Result<(), Error> {
        if self.thread.is_none() {
            return Ok(());
        }
        // No command ends every level; klp_enable_patch returns what was set for that.
        self.memory
            .write(self.places.command(), &Command::default())?;
        while self.upcall()?.kind != UpcallKind::None {
            self.run_to_trap_by(Stopped::run_through_group_stop)?;
        }
        self.memory.write(self.places.entered(), &0u64)?;
        // From here on a failure leaves the rest to the thread itself.
        let Some(mut thread) = self.thread.take() else {
            return Ok(());
        };
        // The kernel sets the result of the call that the thread is in; nothing after that.
        if thread.run_through_group_stop(Run::ToSyscall)? == Event::Ended {
            return Err(self.lost());
        }
        *thread.registers_mut() = registers_outside(&self.outside);
        thread.write_registers()?;
        self.memory.write(self.places.owner(), &0u64)?;
        self.memory.write(self.places.last_owner(), &0u64)?;
        thread.release()
    }

    fn run_to_trap(&mut self) -> Result<(), Error> {
        self.run_to_trap_by(Stopped::run_to_event)
    }

    fn run_to_trap_by(&mut self, run: RunThread<'t>) -> Result<(), Error> {
        let Some(mut thread) = self.thread.take() else {
            return Err(self.lost());
        };
        // Only a thread at a trap is kept; any other is let go by a failure.
        loop {
            match run(&mut thread, Run::ToSyscall)? {
                Event::SyscallStop => {
                    let stop = sys::syscall_stop(thread.tid())
                        .map_err(|errno| thread.error("look at a system call", errno))?;
                    if is_trap(&stop) {
                        thread.reload_registers()?;
                        self.thread = Some(thread);
                        return Ok(());
                    }
                }
                Event::Ended => return Err(self.lost()),
                Event::Signal(_) | Event::GroupStop | Event::Interrupted => {}
            }
        }
    }

    fn lost(&mut self) -> Error {
        self.thread = None;
        Error::new(self.memory.pid(), "run code", Kind::Gone)
    }

    fn strayed(&self, text: String) -> Error {
        Error::new(self.memory.pid(), "run code", Kind::Strayed(text))
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        // Where that fails, the runtime ends the session by itself when no command is there.
        let _ = self.lead_back();
    }
}

fn is_trap(stop: &SyscallStop) -> bool {
    matches!(stop, SyscallStop::Entry { number, arguments }
        if *number == libc::SYS_read.cast_unsigned() && arguments[1] == TRAP_MAGIC)
}

fn registers_to_restore(outside: &crate::thread::Registers) -> SavedRegisters {
    let outside = registers_outside(outside);
    SavedRegisters {
        rax: outside.rax,
        rbx: outside.rbx,
        rcx: outside.rcx,
        rdx: outside.rdx,
        rsi: outside.rsi,
        rdi: outside.rdi,
        rbp: outside.rbp,
        rsp: outside.rsp,
        r8: outside.r8,
        r9: outside.r9,
        r10: outside.r10,
        r11: outside.r11,
        r12: outside.r12,
        r13: outside.r13,
        r14: outside.r14,
        r15: outside.r15,
        rip: outside.rip,
        rflags: outside.eflags,
    }
}
