//! Running code in the target: which thread is borrowed for it, and the conversation.

use std::mem;
use std::time::Duration;

use engraft_abi::{Command, CommandKind, UpcallKind};
use engraft_process::{Borrowed, Registers, StopOutcome, Stopped, Stops, Upcall, is_timed_wait};
use engraft_unwind::{End, Trace, Unwinder};
use nix::errno::Errno;

use crate::control::order_threads;
use crate::error::Error;
use crate::live::{Guard, Live};
use crate::objects::LoadedObject;
use crate::stacks::{Stacks, unwind_registers};

const STOP_PATIENCE: Duration = Duration::from_millis(200);

/// How long a callback that a killed tool has started may go on.
const CALLBACK_PATIENCE: Duration = Duration::from_secs(30);

/// How often the threads are looked through for one to borrow.
const ATTEMPTS: u32 = 200;

/// No command's number gets there by counting.
const MAX_COMMAND: u64 = 1 << 61;

const PAUSE: Duration = Duration::from_millis(5);

/// The instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Calls in which a thread waits for events or time. No allocator, loader or stdio lock is
/// ever held across one of these by a C library.
const WAITING_CALLS: [i64; 24] = [
    7,   // poll
    23,  // select
    34,  // pause
    35,  // nanosleep
    43,  // accept
    45,  // recvfrom
    47,  // recvmsg
    61,  // wait4
    65,  // semop
    70,  // msgrcv
    128, // rt_sigtimedwait
    130, // rt_sigsuspend
    208, // io_getevents
    219, // restart_syscall
    220, // semtimedop
    230, // clock_nanosleep
    232, // epoll_wait
    247, // waitid
    270, // pselect6
    271, // ppoll
    281, // epoll_pwait
    288, // accept4
    299, // recvmmsg
    441, // epoll_pwait2
];

/// After so many looks a thread is taken that waits for some time: a callback that waits, too,
/// would end its wait.
const GENTLE_ATTEMPTS: u32 = 1;

/// After so many looks a thread that waits inside stdio is taken: it holds the lock of one
/// stream, which only code that uses the same stream would notice.
const STRICT_ATTEMPTS: u32 = 2;

/// Bytes of stack that are looked through where it cannot be unwound.
const MAX_STACK: u64 = 256 << 10;

/// System calls that allocators make while they hold their lock.
const ALLOCATOR_CALLS: [i64; 8] = [
    9,   // mmap
    10,  // mprotect
    11,  // munmap
    12,  // brk
    24,  // sched_yield
    25,  // mremap
    28,  // madvise
    202, // futex
];

/// Functions that hold the allocator's lock.
const ALLOCATORS: [&str; 13] = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "reallocarray",
    "valloc",
    "pvalloc",
    "malloc_trim",
    "mallinfo",
    "mallopt",
];

/// The same by the start of their names.
const ALLOCATOR_PREFIXES: [&str; 8] = [
    "_int_",
    "tcache_",
    "sysmalloc",
    "systrim",
    "arena_",
    "__libc_malloc",
    "__malloc",
    "__libc_free",
];

/// Functions that hold another lock which code run on the thread may need: the loader's, the
/// unwinder's.
const LOCK_HOLDERS: [&str; 26] = [
    "dlopen",
    "dlclose",
    "dlsym",
    "dlmopen",
    "dladdr",
    "dl_iterate_phdr",
    "exit",
    "quick_exit",
    "abort",
    "fork",
    "vfork",
    "getaddrinfo",
    "tzset",
    "localtime_r",
    "mktime",
    "setlocale",
    "syslog",
    "getenv",
    "setenv",
    "pthread_create",
    "pthread_exit",
    "pthread_once",
    "atexit",
    "_Unwind_Find_FDE",
    "__register_frame_info_bases",
    "__deregister_frame_info_bases",
];

/// The same by the start of their names.
const LOCK_HOLDER_PREFIXES: [&str; 1] = ["_dl_"];

/// Functions that hold the lock of a stream, by the start of their names.
const STREAM_PREFIXES: [&str; 17] = [
    "_IO_",
    "__vfprintf",
    "vfprintf",
    "fprintf",
    "printf",
    "vprintf",
    "puts",
    "fputs",
    "fputc",
    "putc",
    "fwrite",
    "fread",
    "fgets",
    "getline",
    "fflush",
    "__stdio",
    "__toread",
];

/// What a thread may be holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holding {
    Nothing,
    Stream,
    Allocator,
    Lock,
}

impl<'e> Live<'e> {
    /// Calls a function in the target and returns rax. A call of that number that has been
    /// made before, by this tool or another, is not made again: its result is returned.
    pub(crate) fn call(
        &mut self,
        sequence: u64,
        function: u64,
        arguments: &[u64],
    ) -> Result<u64, Error> {
        if self.session.is_none() {
            self.wait_for_runtime()?;
        }
        if let Some(value) = self.places.result(&self.process.memory, sequence)? {
            return Ok(value);
        }
        let mut upcall = self.start_call(sequence, function, arguments)?;
        while upcall.kind == UpcallKind::EnablePatch {
            // Only a module's init function may enable a patch.
            upcall = self.answer(Errno::EBUSY as i32)?;
        }
        self.result_of(sequence)
    }

    /// As [`Self::call`], with one argument, but only while the guard holds; 0 otherwise.
    pub(crate) fn call_guarded(
        &mut self,
        sequence: u64,
        function: u64,
        argument: u64,
        guard: Option<Guard>,
    ) -> Result<u64, Error> {
        let Some(guard) = guard else {
            return self.call(sequence, function, &[argument]);
        };
        if self.session.is_none() {
            self.wait_for_runtime()?;
        }
        if let Some(value) = self.places.result(&self.process.memory, sequence)? {
            return Ok(value);
        }
        let command = Command {
            kind: CommandKind::CallWhile as u32,
            sequence,
            target: function,
            arguments: [argument, 0, 0, 0, guard.place, guard.load],
            ..Command::default()
        };
        let mut upcall = self.execute(&command)?;
        while upcall.kind == UpcallKind::EnablePatch {
            upcall = self.answer(Errno::EBUSY as i32)?;
        }
        self.result_of(sequence)
    }

    /// Waits until no thread runs code that a killed tool has started.
    pub(crate) fn wait_for_runtime(&self) -> Result<(), Error> {
        Ok(self.places.wait_until_free(
            &self.process.tracer,
            &self.process.memory,
            CALLBACK_PATIENCE,
        )?)
    }

    /// Starts a call; returns what the runtime asks for next.
    pub(crate) fn start_call(
        &mut self,
        sequence: u64,
        function: u64,
        arguments: &[u64],
    ) -> Result<Upcall, Error> {
        let mut command = Command {
            kind: CommandKind::Call as u32,
            sequence,
            target: function,
            ..Command::default()
        };
        for (place, argument) in command.arguments.iter_mut().zip(arguments) {
            *place = *argument;
        }
        self.execute(&command)
    }

    /// Answers `klp_enable_patch` with 0 or minus the errno given.
    pub(crate) fn answer(&mut self, errno: i32) -> Result<Upcall, Error> {
        let sequence = self.next_command();
        let value = (-i64::from(errno)).cast_unsigned();
        let command = Command {
            kind: CommandKind::Return as u32,
            sequence,
            arguments: [value, 0, 0, 0, 0, 0],
            ..Command::default()
        };
        self.execute(&command)
    }

    /// The result of a call that has ended.
    pub(crate) fn result_of(&self, sequence: u64) -> Result<u64, Error> {
        self.places.result(&self.process.memory, sequence)?.ok_or_else(|| {
            let message = "the runtime has lost the result of a call; something has overwritten its memory";
            Error::other("run code in the target", Errno::EIO, message)
        })
    }

    /// Whether a command has been carried out, possibly for a tool that was killed.
    pub(crate) fn has_run(&self, sequence: u64) -> Result<bool, Error> {
        if self.session.is_none() {
            self.wait_for_runtime()?;
        }
        Ok(self
            .places
            .result(&self.process.memory, sequence)?
            .is_some())
    }

    /// Makes sure that numbers which a killed tool has used and not recorded are not used again:
    /// results are looked up by number.
    pub(crate) fn skip_used_commands(&mut self) -> Result<(), Error> {
        let given = self.places.given_commands(&self.process.memory)?;
        // Odd numbers are callbacks', which the rules count.
        // Nor do numbers count that no tool can have come to.
        let possible = |number: &u64| number.is_multiple_of(2) && *number < MAX_COMMAND;
        let last = given.into_iter().filter(possible).max();
        let next = &mut self.records.next_command;
        *next = (*next).max(last.unwrap_or(0) + 2);
        Ok(())
    }

    /// A number that no command had before.
    pub(crate) fn next_command(&mut self) -> u64 {
        let number = self.records.next_command;
        self.records.next_command += 2;
        number
    }

    /// Gives the borrowed thread back.
    pub(crate) fn end_session(&mut self) -> Result<(), Error> {
        match self.session.take() {
            Some(session) => Ok(session.finish()?),
            None => Ok(()),
        }
    }

    fn execute(&mut self, command: &Command) -> Result<Upcall, Error> {
        if self.session.is_none() {
            self.session = Some(self.borrow_thread()?);
        }
        match &mut self.session {
            Some(session) => Ok(session.execute(command)?),
            None => Err(Error::other(
                "run code in the target",
                Errno::EIO,
                "no thread",
            )),
        }
    }

    /// Borrows a thread that holds no lock which the code may need.
    fn borrow_thread(&mut self) -> Result<Borrowed<'e>, Error> {
        self.wait_for_runtime()?;
        let stacks = Stacks::read(self.process, &self.objects, Some(self.records))?;
        let mut unwinder = stacks.unwinder();
        let mut stops = Stops::default();
        let mut hindrance = "it has no threads".to_owned();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                self.process.memory.check_alive()?;
                mem::take(&mut stops).let_get_on(self.process.pid, PAUSE);
            }
            for tid in order_threads(self.process.pid) {
                let StopOutcome::Stopped(thread) = self.process.tracer.stop(tid, STOP_PATIENCE)?
                else {
                    hindrance = format!("thread {tid} does not stop");
                    continue;
                };
                stops.note(self.process.pid, tid);
                match self.find_hindrance(&thread, &stacks, &mut unwinder, attempt)? {
                    None => {
                        return Ok(Borrowed::begin(thread, &self.process.memory, self.places)?);
                    }
                    Some(why) => hindrance = format!("thread {tid} {why}"),
                }
            }
        }
        let message = format!("no thread is at a place where it can run code: {hindrance}");
        Err(
            Error::other("run code in the target", Errno::EBUSY, message)
                .with_help("try again; continue the process (kill -CONT) if it is stopped"),
        )
    }

    /// Why a stopped thread cannot be borrowed, if it cannot.
    fn find_hindrance(
        &self,
        thread: &Stopped<'_>,
        stacks: &Stacks,
        unwinder: &mut Unwinder<'_>,
        attempt: u32,
    ) -> Result<Option<String>, Error> {
        let memory = &self.process.memory;
        let registers = thread.registers();
        let hindrance = if thread.in_group_stop() {
            "is stopped by job control"
        } else if thread.has_signal() {
            "is about to get a signal"
        } else if thread.is_in_restartable_sequence(memory)? {
            "is inside a restartable sequence (rseq)"
        } else if attempt < GENTLE_ATTEMPTS && is_timed_wait(registers) {
            "waits for some time"
        } else {
            let trace = unwinder.walk(&stacks.memory(memory), &unwind_registers(registers));
            let limit = if attempt < STRICT_ATTEMPTS {
                Holding::Nothing
            } else {
                Holding::Stream
            };
            if self.may_hold(registers, &trace) <= limit {
                return Ok(None);
            }
            let place = self.objects.describe(registers.rip);
            let place = place.unwrap_or_else(|| format!("{:#x}", registers.rip));
            let doubt = match &trace.end {
                End::Bottom => String::new(),
                End::Unreliable(reason) => format!("; its stack is unreliable: {reason}"),
            };
            let text = format!("holds, or may hold, a lock of the C library in {place}{doubt}");
            return Ok(Some(text));
        };
        Ok(Some(hindrance.to_owned()))
    }

    fn may_hold(&self, registers: &Registers, trace: &Trace) -> Holding {
        let frames = trace
            .frames
            .iter()
            .map(|frame| self.held_by(frame.lookup_pc));
        let on_stack = frames.max().unwrap_or(Holding::Nothing);
        let call = self.call_of(registers);
        let complete = trace.end == End::Bottom;
        let behind_call = complete && self.is_behind_call(registers);
        let waits = call.is_some_and(|call| complete || WAITING_CALLS.contains(&call));
        let known = waits || behind_call;
        if known || on_stack >= Holding::Allocator {
            on_stack
        } else if let Some(call) = call {
            // The allocator is not in a call that it does not make; its return addresses are
            // among the words of most stacks.
            let ignored = if ALLOCATOR_CALLS.contains(&call) {
                Holding::Nothing
            } else {
                Holding::Allocator
            };
            self.held_by_words(registers, ignored).max(Holding::Stream)
        } else if complete && self.is_program_code(registers.rip) {
            on_stack
        } else {
            Holding::Lock
        }
    }

    /// The system call that a thread is in, or is about to make: one that was lent before may
    /// not have come to the call that it was taken from.
    fn call_of(&self, registers: &Registers) -> Option<i64> {
        let call = registers.orig_rax.cast_signed();
        if call >= 0 && (-516..0).contains(&registers.rax.cast_signed()) {
            return Some(call);
        }
        let mut instruction = [0; SYSCALL.len()];
        let read = self
            .process
            .memory
            .read_bytes(registers.rip, &mut instruction);
        (read.is_ok() && instruction == SYSCALL).then(|| registers.rax.cast_signed())
    }

    /// Whether a thread has just come back from a system call: it holds what it held in the call.
    /// A program that makes one call after the other is seldom seen anywhere else, since a stop
    /// takes effect on the way out of the kernel.
    fn is_behind_call(&self, registers: &Registers) -> bool {
        let mut instruction = [0; SYSCALL.len()];
        let before = registers.rip.wrapping_sub(SYSCALL.len() as u64);
        let read = self.process.memory.read_bytes(before, &mut instruction);
        // The instruction leaves the address behind it in rcx (Intel SDM, SYSCALL).
        read.is_ok() && instruction == SYSCALL && registers.rcx == registers.rip
    }

    /// Where a stack cannot be unwound, every word on it counts as a return address.
    fn held_by_words(&self, registers: &Registers, ignored: Holding) -> Holding {
        let Ok(maps) = self.process.maps() else {
            return Holding::Lock;
        };
        let Some(mapping) = maps.iter().find(|mapping| mapping.contains(registers.rsp)) else {
            return Holding::Lock;
        };
        let length = (mapping.end - registers.rsp).min(MAX_STACK);
        let mut bytes = vec![0; length as usize];
        if self
            .process
            .memory
            .read_bytes(registers.rsp, &mut bytes)
            .is_err()
        {
            return Holding::Lock;
        }
        let (words, _) = bytes.as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        words
            .map(|word| (word, self.held_by(word.wrapping_sub(1))))
            // A word that is a function's address does not lead into the function before it.
            .filter(|(word, held)| *held != ignored && !self.starts_function(*word))
            .map(|(_, held)| held)
            .max()
            .unwrap_or(Holding::Nothing)
    }

    fn starts_function(&self, address: u64) -> bool {
        let object = self.objects.containing(address);
        object
            .and_then(|object| object.symbols().containing(address))
            .is_some_and(|(_, offset)| offset == 0)
    }

    fn is_program_code(&self, pc: u64) -> bool {
        self.objects.containing(pc).is_some_and(|object| {
            // A static executable holds the C library, too: there the names must tell.
            (object.symbols().lookup("malloc").is_empty() || object.is_main)
                && !object.name.starts_with("ld-")
                && !object.name.starts_with("libgcc_s")
                && object.name != "[vdso]"
        })
    }

    fn held_by(&self, pc: u64) -> Holding {
        // The runtime has locks of its own, around shadow variables.
        if self.records.runtime.text.contains(pc) {
            return Holding::Lock;
        }
        let in_text =
            |object: &&LoadedObject| object.image.segment_at(pc).is_some_and(|s| s.executable);
        let Some(object) = self.objects.containing(pc).filter(in_text) else {
            return Holding::Nothing;
        };
        if object.name.starts_with("libgcc_s") {
            return Holding::Lock;
        }
        let is_loader = object.name.starts_with("ld-linux");
        let Some((symbol, _)) = object.symbols().containing(pc) else {
            return if is_loader {
                Holding::Lock
            } else {
                Holding::Nothing
            };
        };
        let name = &*symbol.name;
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if LOCK_HOLDERS.contains(&name)
            || starts(&LOCK_HOLDER_PREFIXES)
            || (is_loader && name != "_start")
        {
            Holding::Lock
        } else if ALLOCATORS.contains(&name) || starts(&ALLOCATOR_PREFIXES) {
            Holding::Allocator
        } else if starts(&STREAM_PREFIXES) {
            Holding::Stream
        } else {
            Holding::Nothing
        }
    }
}
