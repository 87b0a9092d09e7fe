//! A forked child under ptrace.

use std::mem::{MaybeUninit, size_of};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use libc::{c_int, c_uint, pid_t, user_regs_struct};

/// Signal number of a system call stop under PTRACE_O_TRACESYSGOOD.
const SYSCALL_STOP: c_int = libc::SIGTRAP | 0x80;

/// A child process; killed when dropped while it still runs.
pub(crate) struct Tracee {
    pid: pid_t,
    reaped: bool,
}

impl Tracee {
    /// Forks; the child runs `body` and exits with its result. `body` must confine itself to
    /// what is allowed after a fork of one thread of many.
    pub(crate) fn fork(body: impl FnOnce() -> c_int) -> Self {
        // SAFETY: the child calls `body` and _exit only.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            // SAFETY: ends the child without running the parent's exit handlers.
            0 => unsafe { libc::_exit(body()) },
            pid => Self { pid, reaped: false },
        }
    }

    pub(crate) fn pid(&self) -> pid_t {
        self.pid
    }

    fn request(&self, request: c_uint, address: usize, data: usize) {
        // SAFETY: each caller passes what the request wants.
        let result = unsafe { libc::ptrace(request, self.pid, address, data) };
        assert_eq!(
            result,
            0,
            "ptrace {request:#x}: {}",
            std::io::Error::last_os_error()
        );
    }

    /// Attaches and stops the child where it is.
    pub(crate) fn seize_and_stop(&self) {
        self.request(libc::PTRACE_SEIZE, 0, libc::PTRACE_O_TRACESYSGOOD as usize);
        self.request(libc::PTRACE_INTERRUPT, 0, 0);
        let status = self.wait();
        assert!(libc::WIFSTOPPED(status), "status {status:#x}");
        assert_eq!(status >> 16, libc::PTRACE_EVENT_STOP);
    }

    pub(crate) fn registers(&self) -> user_regs_struct {
        let mut registers = MaybeUninit::<user_regs_struct>::uninit();
        self.request(libc::PTRACE_GETREGS, 0, registers.as_mut_ptr() as usize);
        // SAFETY: the request succeeded and filled the structure.
        unsafe { registers.assume_init() }
    }

    pub(crate) fn set_registers(&self, registers: &user_regs_struct) {
        self.request(libc::PTRACE_SETREGS, 0, &raw const *registers as usize);
    }

    /// Lets the child run to its next system call stop.
    pub(crate) fn run_to_syscall_stop(&self) {
        self.request(libc::PTRACE_SYSCALL, 0, 0);
        let status = self.wait();
        assert!(
            libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == SYSCALL_STOP,
            "status {status:#x}, registers {:x?}",
            if libc::WIFSTOPPED(status) {
                Some(self.registers().rip)
            } else {
                None
            }
        );
    }

    pub(crate) fn detach(&self) {
        self.request(libc::PTRACE_DETACH, 0, 0);
    }

    fn wait(&self) -> c_int {
        let mut status = 0;
        // SAFETY: the status is a live int.
        let pid = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
        assert_eq!(pid, self.pid);
        status
    }

    /// The child's exit code, which must come within half a minute.
    pub(crate) fn exit_code(mut self) -> c_int {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut status = 0;
        // SAFETY: the status is a live int.
        while unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL | libc::WNOHANG) } == 0
        {
            assert!(Instant::now() < deadline, "the child hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.reaped = !libc::WIFSTOPPED(status);
        assert!(libc::WIFEXITED(status), "status {status:#x}");
        libc::WEXITSTATUS(status)
    }

    /// Reads the child's memory.
    pub(crate) fn read<T: Copy>(&self, address: u64) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        let local = io_vector(value.as_mut_ptr().cast(), size_of::<T>());
        let remote = io_vector(address as *mut _, size_of::<T>());
        // SAFETY: the local part is `value`; the remote part is another process's affair.
        let read = unsafe {
            libc::process_vm_readv(self.pid, &raw const local, 1, &raw const remote, 1, 0)
        };
        assert_eq!(read, size_of::<T>() as isize);
        // SAFETY: all bytes were read; the callers read plain data.
        unsafe { value.assume_init() }
    }

    /// Writes the child's memory.
    pub(crate) fn write<T: Copy>(&self, address: u64, mut value: T) {
        let local = io_vector((&raw mut value).cast(), size_of::<T>());
        let remote = io_vector(address as *mut _, size_of::<T>());
        // SAFETY: the local part is `value`; the remote part is another process's affair.
        let written = unsafe {
            libc::process_vm_writev(self.pid, &raw const local, 1, &raw const remote, 1, 0)
        };
        assert_eq!(written, size_of::<T>() as isize);
    }
}

fn io_vector(base: *mut libc::c_void, length: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base,
        iov_len: length,
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: the child is ours and has not been waited for.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, null_mut(), libc::__WALL);
            }
        }
    }
}
