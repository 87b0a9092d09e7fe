//! The system calls that nix does not wrap.

use nix::errno::Errno;

fn ptrace(request: libc::c_uint, tid: i32, address: usize, data: usize) -> Result<i64, Errno> {
    // SAFETY: callers pass requests whose address and data are either plain numbers or
    // pointers to live local variables of the size the request writes (see each caller).
    let result = unsafe { libc::ptrace(request, tid, address, data) };
    Errno::result(result)
}

/// PTRACE_LISTEN: leaves a thread in its group-stop (ptrace(2)).
pub(crate) fn listen(tid: i32) -> Result<(), Errno> {
    ptrace(libc::PTRACE_LISTEN, tid, 0, 0).map(drop)
}

/// Ways to let a stopped thread run. Never by single steps: a thread whose tracer is killed
/// goes on stepping, into a SIGTRAP that kills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// PTRACE_DETACH.
    Detach,
    /// PTRACE_SYSCALL: to the next system call entry or exit.
    ToSyscall,
}

/// Lets a thread run, delivering a signal unless it is 0. Signals go by number: real-time
/// signals have no name in nix.
pub(crate) fn run(tid: i32, how: Run, signal: i32) -> Result<(), Errno> {
    let request = match how {
        Run::Detach => libc::PTRACE_DETACH,
        Run::ToSyscall => libc::PTRACE_SYSCALL,
    };
    ptrace(request, tid, 0, signal as usize).map(drop)
}

/// PTRACE_POKEDATA of one word.
pub(crate) fn poke(tid: i32, address: u64, word: u64) -> Result<(), Errno> {
    ptrace(libc::PTRACE_POKEDATA, tid, address as usize, word as usize).map(drop)
}

/// PTRACE_PEEKDATA of one word.
pub(crate) fn peek(tid: i32, address: u64) -> Result<u64, Errno> {
    Errno::clear();
    // SAFETY: PEEKDATA takes a number as address and ignores data; it only reads the tracee.
    let word = unsafe { libc::ptrace(libc::PTRACE_PEEKDATA, tid, address as usize, 0usize) };
    match Errno::last_raw() {
        0 => Ok(word.cast_unsigned()),
        raw => Err(Errno::from_raw(raw)),
    }
}

/// Address of a thread's `struct rseq`, 0 when it has registered none
/// (PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13).
pub(crate) fn rseq_address(tid: i32) -> Result<u64, Errno> {
    // SAFETY: the struct consists of integers only; zero is a valid value.
    let mut configuration: libc::ptrace_rseq_configuration = unsafe { std::mem::zeroed() };
    ptrace(
        libc::PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size_of_val(&configuration),
        std::ptr::from_mut(&mut configuration) as usize,
    )?;
    Ok(configuration.rseq_abi_pointer)
}

/// What a syscall stop is about (PTRACE_GET_SYSCALL_INFO, Linux 5.3).
pub(crate) enum SyscallStop {
    /// Before the call.
    Entry { number: u64, arguments: [u64; 6] },
    /// After it, with the raw result.
    Exit { result: i64 },
    /// Not a syscall stop.
    Other,
}

pub(crate) fn syscall_stop(tid: i32) -> Result<SyscallStop, Errno> {
    // SAFETY: the struct consists of integers only; zero is a valid value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    ptrace(
        libc::PTRACE_GET_SYSCALL_INFO,
        tid,
        size_of_val(&info),
        std::ptr::from_mut(&mut info) as usize,
    )?;
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says that the entry member is the one the kernel filled in.
            let entry = unsafe { info.u.entry };
            SyscallStop::Entry {
                number: entry.nr,
                arguments: entry.args,
            }
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: `op` says that the exit member is the one the kernel filled in.
            let exit = unsafe { info.u.exit };
            SyscallStop::Exit { result: exit.sval }
        }
        _ => SyscallStop::Other,
    })
}

/// Takes note of the end of a traced thread, if it has ended; of no other event. Any thread
/// of the tracing process may.
pub(crate) fn note_end(tid: i32) {
    // SAFETY: an all-zero siginfo_t is a valid value, and waitid writes one into the live
    // local variable.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::__WALL;
        libc::waitid(libc::P_PID, tid.cast_unsigned(), &raw mut info, options);
    }
}

/// The components of extended state that the processor saves by xsave (XCR0), the same for
/// every process of the machine.
#[must_use]
pub fn xsave_mask() -> u64 {
    #[target_feature(enable = "xsave")]
    fn read() -> u64 {
        // SAFETY: the feature is enabled here and the caller has checked that the processor
        // has it; register 0 always exists then.
        unsafe { std::arch::x86_64::_xgetbv(0) }
    }
    if !std::arch::is_x86_feature_detected!("xsave") {
        return 0;
    }
    // SAFETY: the processor has xsave, by the check above.
    unsafe { read() }
}

/// The processor's time stamp counter.
#[must_use]
pub fn read_tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; it only reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}
