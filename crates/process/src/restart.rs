//! System calls that a stop cuts short, and how they go on unnoticed.

use crate::thread::Registers;

const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

/// Length of the `syscall` instruction.
const SYSCALL_LENGTH: u64 = 2;

/// What `orig_rax` holds when a thread is in no call: the kernel restarts none then.
pub(crate) const NO_CALL: u64 = u64::MAX;

/// Calls that return a bare EINTR when a tracer stops them (measured; signal(7) and ptrace(2)
/// BUGS name most of them). Elsewhere the kernel uses one of its restart codes.
const BARE_EINTR: [i64; 17] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    333, // io_pgetevents
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_connect,
];

/// Makes a call that was cut short with a bare EINTR start again by itself: the kernel
/// treats -ERESTARTNOHAND as "restart, or EINTR if a handler runs", which is what happens
/// to a call that nobody has stopped. True when the registers were changed.
pub(crate) fn mend(registers: &mut Registers) -> bool {
    let cut = registers.rax.cast_signed() == -i64::from(libc::EINTR);
    let mendable = cut && BARE_EINTR.contains(&registers.orig_rax.cast_signed());
    if mendable {
        registers.rax = ERESTARTNOHAND.cast_unsigned();
    }
    mendable
}

/// Where a stopped thread goes on when it is not the kernel that resumes it, but code that
/// was run on it meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// Next instruction.
    pub rip: u64,
    /// rax at that instruction.
    pub rax: u64,
}

/// Whether the kernel keeps for the thread how much of its wait is left (nanosleep, poll with
/// a time-out). Any such wait of code that is run on the thread meanwhile makes the kernel
/// forget it, and then the thread's own ends early, with EINTR.
#[must_use]
pub fn is_timed_wait(registers: &Registers) -> bool {
    let in_call = registers.orig_rax.cast_signed() >= 0;
    in_call && registers.rax.cast_signed() == ERESTART_RESTARTBLOCK && !is_endless_poll(registers)
}

fn is_endless_poll(registers: &Registers) -> bool {
    let timeout = registers.rdx as i32;
    registers.orig_rax.cast_signed() == libc::SYS_poll && timeout < 0
}

/// Computes the resume point that has the effect of the kernel's own restart.
#[must_use]
pub fn resume_point(registers: &Registers) -> Resume {
    let in_call = registers.orig_rax.cast_signed() >= 0;
    let again = registers.rip.wrapping_sub(SYSCALL_LENGTH);
    match registers.rax.cast_signed() {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND if in_call => Resume {
            rip: again,
            rax: registers.orig_rax,
        },
        // Nothing of its time is used up.
        ERESTART_RESTARTBLOCK if is_endless_poll(registers) => Resume {
            rip: again,
            rax: registers.orig_rax,
        },
        ERESTART_RESTARTBLOCK if in_call => Resume {
            rip: again,
            rax: libc::SYS_restart_syscall.cast_unsigned(),
        },
        _ => Resume {
            rip: registers.rip,
            rax: registers.rax,
        },
    }
}

/// Registers with which a stopped thread goes on after code that was run on it.
pub(crate) fn registers_outside(stopped: &Registers) -> Registers {
    let resume = resume_point(stopped);
    Registers {
        rip: resume.rip,
        rax: resume.rax,
        orig_rax: NO_CALL,
        ..*stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped_in(call: i64, result: i64) -> Registers {
        // SAFETY: user_regs_struct consists of integers; zero is a valid value.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        registers.rip = 0x1002;
        registers.orig_rax = call.cast_unsigned();
        registers.rax = result.cast_unsigned();
        registers
    }

    #[test]
    fn mends_only_bare_eintr_of_the_listed_calls() {
        let mut registers = stopped_in(libc::SYS_epoll_wait, -4);
        assert!(mend(&mut registers));
        assert_eq!(registers.rax.cast_signed(), ERESTARTNOHAND);
        for (call, result) in [(libc::SYS_epoll_wait, 3), (libc::SYS_read, -4), (-1, -4)] {
            let mut registers = stopped_in(call, result);
            assert!(!mend(&mut registers));
            assert_eq!(registers.rax.cast_signed(), result);
        }
    }

    #[test]
    fn resumes_where_the_kernel_would() {
        let restart = |call, result| resume_point(&stopped_in(call, result));
        assert_eq!(
            restart(libc::SYS_poll, -516),
            Resume {
                rip: 0x1000,
                rax: 219
            }
        );
        let mut endless = stopped_in(libc::SYS_poll, -516);
        assert!(is_timed_wait(&endless));
        endless.rdx = u64::from(u32::MAX);
        assert!(!is_timed_wait(&endless));
        assert_eq!(
            resume_point(&endless),
            Resume {
                rip: 0x1000,
                rax: 7
            }
        );
        assert_eq!(
            restart(libc::SYS_read, -512),
            Resume {
                rip: 0x1000,
                rax: 0
            }
        );
        assert_eq!(
            restart(libc::SYS_read, 7),
            Resume {
                rip: 0x1002,
                rax: 7
            }
        );
        let running = stopped_in(-1, -512);
        assert_eq!(
            resume_point(&running),
            Resume {
                rip: 0x1002,
                rax: running.rax
            }
        );
    }
}
