//! A stopped thread, and letting it go as if nothing had happened.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::error::{Error, Kind};
use crate::event::{Event, wait_for_event};
use crate::memory::Memory;
use crate::sys::{self, Run};
use crate::tracer::Tracer;
use crate::{identity, restart};

/// Offset of `rseq_cs` in `struct rseq`, and of `start_ip` and `post_commit_offset` in
/// `struct rseq_cs` (linux/rseq.h).
const RSEQ_CS: u64 = 8;
const RSEQ_CS_START: u64 = 8;
const RSEQ_CS_LENGTH: u64 = 16;

/// General registers of a stopped thread.
pub type Registers = libc::user_regs_struct;

/// A thread that stands still. Dropping it lets it go.
#[derive(Debug)]
pub struct Stopped<'t> {
    tracer: &'t Tracer,
    tid: i32,
    registers: Box<Registers>,
    changed: bool,
    signal: Option<i32>,
    group_stop: bool,
    released: bool,
}

impl<'t> Stopped<'t> {
    /// Reads the registers and mends a system call that the stop has cut short.
    pub(crate) fn take(
        tracer: &'t Tracer,
        tid: i32,
        signal: Option<i32>,
        group_stop: bool,
    ) -> Result<Option<Self>, Error> {
        let registers = match ptrace::getregs(Pid::from_raw(tid)) {
            Ok(registers) => registers,
            // ESRCH on a stopped thread can only mean that SIGKILL has taken it.
            Err(Errno::ESRCH) => {
                tracer.expect_end_of(tid);
                return Ok(None);
            }
            Err(errno) => {
                return Err(Error::system(
                    tracer.pid(),
                    format!("registers of thread {tid}"),
                    errno,
                ));
            }
        };
        let mut stopped = Self {
            tracer,
            tid,
            registers: Box::new(registers),
            changed: false,
            signal,
            group_stop,
            released: false,
        };
        // A signal whose handler is about to run interrupts the call with or without a tracer.
        if signal.is_none_or(|signal| identity::ignores_signal(tid, signal)) {
            stopped.changed = restart::mend(&mut stopped.registers);
            // At once: whoever kills this tool must not make the call fail.
            stopped.write_registers()?;
        }
        Ok(Some(stopped))
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Its registers.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Whether it is stopped by job control as well.
    #[must_use]
    pub fn in_group_stop(&self) -> bool {
        self.group_stop
    }

    /// Whether a signal is about to be delivered to it.
    #[must_use]
    pub fn has_signal(&self) -> bool {
        self.signal.is_some()
    }

    /// Whether the thread is inside a restartable sequence (rseq(2)). It must not run anything
    /// else then: the kernel would take the sequence for left, and not restart it although
    /// another thread has come in between.
    ///
    /// # Errors
    ///
    /// Those of reading memory.
    pub fn is_in_restartable_sequence(&self, memory: &Memory) -> Result<bool, Error> {
        let address = match sys::rseq_address(self.tid) {
            // Kernels before 5.13 cannot tell; C libraries use it with later ones only.
            Ok(0) | Err(Errno::EIO | Errno::EINVAL | Errno::ESRCH) => return Ok(false),
            Ok(address) => address,
            Err(errno) => return Err(self.error("restartable sequence", errno)),
        };
        let sequence: u64 = memory.read(address + RSEQ_CS)?;
        if sequence == 0 {
            return Ok(false);
        }
        let start: u64 = memory.read(sequence + RSEQ_CS_START)?;
        let length: u64 = memory.read(sequence + RSEQ_CS_LENGTH)?;
        Ok(self.registers.rip.wrapping_sub(start) < length)
    }

    /// Sets the thread's GS base; takes effect now. False when the thread has died.
    ///
    /// # Errors
    ///
    /// [`Kind::System`].
    pub fn set_gs_base(&mut self, base: u64) -> Result<bool, Error> {
        self.registers.gs_base = base;
        self.changed = true;
        self.write_registers()
    }

    /// Makes the thread go on at another address; takes effect now. False when it has died.
    ///
    /// # Errors
    ///
    /// [`Kind::System`].
    pub fn move_to(&mut self, rip: u64) -> Result<bool, Error> {
        self.registers.rip = rip;
        self.changed = true;
        self.write_registers()
    }

    pub(crate) fn registers_mut(&mut self) -> &mut Registers {
        self.changed = true;
        &mut self.registers
    }

    pub(crate) fn reload_registers(&mut self) -> Result<(), Error> {
        *self.registers = ptrace::getregs(Pid::from_raw(self.tid))
            .map_err(|errno| self.error("read registers", errno))?;
        self.changed = false;
        Ok(())
    }

    /// Writes changed registers. False when the thread has died.
    pub(crate) fn write_registers(&mut self) -> Result<bool, Error> {
        if !self.changed {
            return Ok(true);
        }
        match ptrace::setregs(Pid::from_raw(self.tid), *self.registers) {
            Ok(()) => {
                self.changed = false;
                Ok(true)
            }
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(self.error("set registers", errno)),
        }
    }

    /// Lets the thread run under observation and waits for its next stop, whose signal, if
    /// any, is kept for the next run. Job control holds it for as long as it likes.
    pub(crate) fn run_to_event(&mut self, how: Run) -> Result<Event, Error> {
        let mut event = self.run_through_group_stop(how)?;
        while event == Event::GroupStop {
            sys::listen(self.tid).map_err(|errno| self.error("listen", errno))?;
            event = self.wait_for_event()?;
        }
        Ok(event)
    }

    /// The same for a thread whose stop by job control has to wait: the next run leads it
    /// through, and it stops when it is let go.
    pub(crate) fn run_through_group_stop(&mut self, how: Run) -> Result<Event, Error> {
        if !self.write_registers()? {
            self.released = true;
            self.tracer.expect_end_of(self.tid);
            return Ok(Event::Ended);
        }
        let signal = self.signal.take().unwrap_or(0);
        match sys::run(self.tid, how, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(self.error("resume", errno)),
        }
        self.wait_for_event()
    }

    fn wait_for_event(&mut self) -> Result<Event, Error> {
        let event = wait_for_event(self.tid).map_err(|errno| self.error("wait", errno))?;
        match event {
            Event::Ended => {
                self.released = true;
                self.tracer.detached(self.tid);
            }
            Event::Signal(signal) => self.signal = Some(signal),
            _ => {}
        }
        Ok(event)
    }

    pub(crate) fn error(&self, context: &str, errno: Errno) -> Error {
        Error::system(
            self.tracer.pid(),
            format!("{context} of thread {}", self.tid),
            errno,
        )
    }

    pub(crate) fn fail(&self, context: &str, kind: Kind) -> Error {
        Error::new(
            self.tracer.pid(),
            format!("{context} in thread {}", self.tid),
            kind,
        )
    }

    /// Lets the thread go on.
    ///
    /// # Errors
    ///
    /// [`Kind::System`]. A thread that died meanwhile is not an error.
    pub fn release(mut self) -> Result<(), Error> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.released, true) {
            return Ok(());
        }
        let written = self.write_registers();
        let signal = self.signal.take().unwrap_or(0);
        match sys::run(self.tid, Run::Detach, signal) {
            Ok(()) => {
                self.tracer.detached(self.tid);
                written.map(drop)
            }
            Err(Errno::ESRCH) => {
                self.tracer.expect_end_of(self.tid);
                Ok(())
            }
            Err(errno) => Err(self.error("detach", errno)),
        }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // Nobody to tell; the kernel detaches when this process ends.
        let _ = self.let_go();
    }
}
