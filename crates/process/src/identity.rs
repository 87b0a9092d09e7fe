//! Who a process is, and what its threads are doing, from /proc.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Error, Kind};

const CAP_SYS_PTRACE: u32 = 19;

/// How long a process may have only threads that are just ending or changing their number.
const CHANGE_PATIENCE: Duration = Duration::from_secs(1);

/// Facts about a process that decide whether it can be worked on.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The process.
    pub pid: i32,
    /// Path of its executable as /proc/PID/exe gives it, without a trailing " (deleted)".
    pub executable: String,
    /// Seccomp mode: 0 none, 1 strict, 2 filter (proc_pid_status(5)).
    pub seccomp: u32,
    /// The processor checks return addresses against a shadow stack.
    pub shadow_stack: bool,
}

impl Identity {
    /// Reads the facts and refuses what cannot be worked on.
    ///
    /// # Errors
    ///
    /// [`Kind::Gone`], [`Kind::NotPermitted`], [`Kind::Traced`], [`Kind::WrongMachine`].
    pub fn read(pid: i32) -> Result<Self, Error> {
        let identity = Self::read_traced(pid)?;
        // A tracer may have some of the threads only. This one may have a stray of its own.
        let own = nix::unistd::gettid().as_raw();
        let tracers = list_threads(pid).into_iter().filter_map(read_tracer);
        match tracers.into_iter().find(|by| *by != own) {
            Some(by) => Err(Error::new(pid, "attach", Kind::Traced { by })),
            None => Ok(identity),
        }
    }

    /// As [`Identity::read`], but does not mind a tracer: for those who only look.
    ///
    /// # Errors
    ///
    /// [`Kind::Gone`], [`Kind::NotPermitted`], [`Kind::WrongMachine`].
    pub fn read_traced(pid: i32) -> Result<Self, Error> {
        let fail = |kind| Error::new(pid, "look at the process", kind);
        let status = Status::read(pid).ok_or_else(|| fail(Kind::Gone))?;
        if status.number("Tgid") != Some(i64::from(pid)) {
            return Err(fail(Kind::Gone));
        }
        if has_ended(pid) {
            return Err(fail(Kind::Gone));
        }
        if is_kernel_thread(pid) {
            let why = "it is a thread of the kernel; choose a program";
            return Err(fail(Kind::NotPermitted(why.into())));
        }
        let link = access_shared(pid, "exe", |path| fs::read_link(path)).map_err(fail)?;
        let file = access_shared(pid, "exe", |path| fs::File::open(path)).map_err(fail)?;
        check_machine(file).map_err(fail)?;
        let text = link.to_string_lossy();
        Ok(Self {
            pid,
            executable: text.strip_suffix(" (deleted)").unwrap_or(&text).to_owned(),
            seccomp: status.seccomp(),
            shadow_stack: status
                .field("x86_Thread_features")
                .is_some_and(|features| features.split_whitespace().any(|name| name == "shstk")),
        })
    }

    /// The executable's file name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.executable
            .rsplit('/')
            .next()
            .unwrap_or(&self.executable)
    }
}

fn check_machine(mut executable: fs::File) -> Result<(), Kind> {
    let mut header = [0u8; 20];
    executable
        .read_exact(&mut header)
        .map_err(|error| Kind::WrongMachine(format!("unreadable executable: {error}")))?;
    match (
        &header[..4],
        header[4],
        u16::from_le_bytes([header[18], header[19]]),
    ) {
        (b"\x7fELF", 2, 62) => Ok(()),
        (b"\x7fELF", 1, machine) => Err(Kind::WrongMachine(format!(
            "a 32-bit program (ELF machine {machine})"
        ))),
        (b"\x7fELF", _, machine) => Err(Kind::WrongMachine(format!(
            "a program for ELF machine {machine}"
        ))),
        _ => Err(Kind::WrongMachine("not an ELF program".into())),
    }
}

/// Accesses a file of /proc that shows what the threads of a process share. A thread through
/// which it is done may end meanwhile, or take over the number of the leader in execve(2): then
/// another one is chosen.
///
/// [`Kind::Gone`], [`Kind::NotPermitted`] and [`Kind::System`].
pub(crate) fn access_shared<T>(
    pid: i32,
    name: &str,
    access: impl Fn(&str) -> io::Result<T>,
) -> Result<T, Kind> {
    let deadline = Instant::now() + CHANGE_PATIENCE;
    loop {
        let thread = living_thread(pid);
        let error = match access(&format!("/proc/{thread}/{name}")) {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        match error.raw_os_error() {
            // The kernel also says so of a thread that has just ended.
            Some(libc::EACCES | libc::EPERM) if is_alive(pid, thread) => {
                return Err(explain_permission(pid));
            }
            None | Some(libc::EACCES | libc::EPERM | libc::ENOENT | libc::ESRCH) => {}
            Some(errno) => return Err(Kind::System(Errno::from_raw(errno))),
        }
        if has_ended(pid) || Instant::now() > deadline {
            return Err(Kind::Gone);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Opens a file below /proc/PID that is the same for all threads of a process, such as `exe`.
///
/// # Errors
///
/// Those of open(2), and ENOENT or ESRCH when the process has ended.
pub fn open_shared(pid: i32, name: &str) -> io::Result<fs::File> {
    let deadline = Instant::now() + CHANGE_PATIENCE;
    loop {
        let thread = living_thread(pid);
        let opened = fs::File::open(format!("/proc/{thread}/{name}"));
        // A thread that has ended meanwhile was no way to the file.
        let settled = opened.is_ok() || is_alive(pid, thread) || has_ended(pid);
        if settled || Instant::now() > deadline {
            return opened;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether every thread of a process has ended.
fn has_ended(pid: i32) -> bool {
    !is_alive(pid, living_thread(pid))
}

/// Whether a process is being killed: its threads have still to notice.
#[must_use]
pub fn is_being_killed(pid: i32) -> bool {
    let status = Status::read(living_thread(pid));
    let pending = |name| u64::from_str_radix(status.as_ref()?.field(name)?, 16).ok();
    let kill = 1 << (libc::SIGKILL - 1);
    ["SigPnd", "ShdPnd"]
        .iter()
        .any(|name| pending(name).is_some_and(|set| set & kill != 0))
}

/// Says why the kernel forbids access to `pid` (ptrace(2), "Ptrace access mode checking").
pub(crate) fn explain_permission(pid: i32) -> Kind {
    // The kernel also says so of what has just ended.
    if has_ended(pid) {
        return Kind::Gone;
    }
    let own = Status::read(std::process::id().cast_signed());
    let capable = own
        .as_ref()
        .is_some_and(|own| own.has_capability(CAP_SYS_PTRACE));
    let uid = |status: &Option<Status>| status.as_ref().and_then(|status| status.number("Uid"));
    let same_user = uid(&own) == uid(&Status::read(pid));
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let why = name_obstacle(capable, same_user, scope.as_deref().map(str::trim));
    Kind::NotPermitted(why.into())
}

fn name_obstacle(capable: bool, same_user: bool, ptrace_scope: Option<&str>) -> &'static str {
    match (capable, same_user, ptrace_scope) {
        (_, _, Some("3")) => {
            "kernel.yama.ptrace_scope is 3: nobody may trace until the next boot; boot with another setting"
        }
        (true, _, _) => {
            "in spite of CAP_SYS_PTRACE: a security module forbids it, or the process is in a \
             user namespace that this one has no rights over; run outside of that restriction"
        }
        (false, false, _) => "it belongs to another user; run as root or with CAP_SYS_PTRACE",
        (false, true, Some("1")) => {
            "kernel.yama.ptrace_scope is 1: only children may be traced; run as root or with \
             CAP_SYS_PTRACE, or set it to 0"
        }
        (false, true, Some("2")) => {
            "kernel.yama.ptrace_scope is 2: only CAP_SYS_PTRACE may trace; run as root"
        }
        (false, true, _) => {
            "it is not dumpable (prctl PR_SET_DUMPABLE, or it changed its user); run as root or \
             with CAP_SYS_PTRACE"
        }
    }
}

/// PF_KTHREAD among the flags in /proc/PID/stat.
fn is_kernel_thread(pid: i32) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let flags = || {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let fields = text.get(text.rfind(')')? + 2..)?;
        fields.split(' ').nth(6)?.parse::<u64>().ok()
    };
    flags().is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// /proc/PID/status (proc_pid_status(5)).
pub(crate) struct Status(String);

impl Status {
    pub(crate) fn read(pid: i32) -> Option<Self> {
        fs::read_to_string(format!("/proc/{pid}/status"))
            .ok()
            .map(Self)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.field(name)?.split_whitespace().next()?.parse().ok()
    }

    /// Seccomp mode: 0 none, 1 strict, 2 filter.
    pub(crate) fn seccomp(&self) -> u32 {
        self.number("Seccomp").unwrap_or(0) as u32
    }

    /// Whether a capability is effective.
    pub(crate) fn has_capability(&self, capability: u32) -> bool {
        self.field("CapEff")
            .and_then(|set| u64::from_str_radix(set, 16).ok())
            .is_some_and(|set| set >> capability & 1 == 1)
    }
}

/// The process that traces a thread, if any.
pub(crate) fn read_tracer(tid: i32) -> Option<i32> {
    let tracer = Status::read(tid)?.number("TracerPid")? as i32;
    (tracer != 0).then_some(tracer)
}

/// Whether a signal would be dropped by the process: ignored, or default and then harmless.
pub(crate) fn ignores_signal(tid: i32, signal: i32) -> bool {
    let Some(status) = Status::read(tid) else {
        return false;
    };
    let holds = |field: &str| {
        status
            .field(field)
            .and_then(|set| u64::from_str_radix(set, 16).ok())
            .is_some_and(|set| set >> (signal - 1) & 1 == 1)
    };
    let harmless = [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT].contains(&signal);
    holds("SigIgn") || (harmless && !holds("SigCgt"))
}

/// What /proc/PID/task/TID/stat says of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadStat {
    /// The thread's name.
    pub comm: String,
    /// R, S, D, T, t, Z, X, I (proc_pid_stat(5)).
    pub state: char,
    /// Clock ticks after boot at which it started: tells it from a later thread of that number.
    pub start_time: u64,
    /// How often it was put on a processor (/proc/PID/task/TID/schedstat), if known.
    pub runs: Option<u64>,
}

/// Reads a thread's state; `None` when it is gone.
#[must_use]
pub fn read_thread_stat(pid: i32, tid: i32) -> Option<ThreadStat> {
    let text = fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let mut fields = text.get(close + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    let runs = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat"))
        .ok()
        .and_then(|text| text.split_whitespace().nth(2)?.parse().ok())
        .filter(|runs| *runs > 0); // kernels that do not count say 0
    Some(ThreadStat {
        comm: text.get(open + 1..close)?.to_owned(),
        state,
        start_time,
        runs,
    })
}

/// A thread that is asleep in the kernel, as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asleep {
    /// The system call; `None` for a page fault.
    pub call: Option<i64>,
    /// Arguments of the system call.
    pub arguments: [u64; 6],
    /// Stack pointer in user space.
    pub rsp: u64,
    /// Where it will go on in user space.
    pub rip: u64,
}

/// Looks at a thread without stopping it (/proc/PID/task/TID/syscall); `None` when it runs or
/// is gone.
#[must_use]
pub fn read_asleep(pid: i32, tid: i32) -> Option<Asleep> {
    parse_asleep(&fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?)
}

fn parse_asleep(text: &str) -> Option<Asleep> {
    let mut fields = text.split_whitespace();
    let call: i64 = fields.next()?.parse().ok()?;
    let numbers: Vec<u64> = fields
        .map(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok())
        .collect::<Option<_>>()?;
    let (rest, [rsp, rip]) = numbers.split_last_chunk()?;
    Some(Asleep {
        call: (call >= 0).then_some(call),
        arguments: rest.try_into().unwrap_or_default(),
        rsp: *rsp,
        rip: *rip,
    })
}

/// Number of threads of a process (/proc/PID/stat); `None` when it is gone.
#[must_use]
pub fn count_threads(pid: i32) -> Option<usize> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.get(text.rfind(')')? + 2..)?
        .split(' ')
        .nth(17)?
        .parse()
        .ok()
}

/// A thread through which /proc shows what the threads of a process share: its leader, or
/// another one where the leader has ended before the rest (`/proc/TID` works for any thread).
#[must_use]
pub fn living_thread(pid: i32) -> i32 {
    if is_alive(pid, pid) {
        return pid;
    }
    let mut others = list_threads(pid).into_iter();
    others.find(|tid| is_alive(pid, *tid)).unwrap_or(pid)
}

fn is_alive(pid: i32, tid: i32) -> bool {
    read_thread_stat(pid, tid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// The threads of a process, as one listing of /proc/PID/task gives them.
#[must_use]
pub fn list_threads(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// The processes that run this file: the same inode, or, when it was replaced on disk
/// meanwhile, one that was started from this path.
///
/// # Errors
///
/// Those of listing /proc.
pub fn find_by_executable(path: &Path) -> io::Result<Vec<i32>> {
    let wanted = fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let absolute = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let link = format!("/proc/{pid}/exe");
        let same = wanted.is_some()
            && fs::metadata(&link)
                .ok()
                .map(|meta| (meta.dev(), meta.ino()))
                == wanted;
        let replaced = || {
            fs::read_link(&link).is_ok_and(|target| {
                target
                    .to_str()
                    .and_then(|text| text.strip_suffix(" (deleted)"))
                    == absolute.to_str()
            })
        };
        if same || replaced() {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself() {
        let pid = std::process::id().cast_signed();
        let identity = Identity::read(pid).expect("own identity");
        assert!(Path::new(&identity.executable).is_absolute());
        assert!(
            find_by_executable(Path::new(&identity.executable))
                .expect("list")
                .contains(&pid)
        );
        let stat = read_thread_stat(pid, pid).expect("own stat");
        assert!(stat.start_time > 0 && stat.runs.is_some());
        assert!(list_threads(pid).contains(&pid));
    }

    #[test]
    fn reads_where_a_thread_sleeps() {
        let in_call = parse_asleep("232 0x4 0x7ffe 0x1 0xffffffff 0x0 0x8 0x7ffc10 0x7f02a\n");
        assert_eq!(
            in_call,
            Some(Asleep {
                call: Some(232),
                arguments: [4, 0x7ffe, 1, 0xffff_ffff, 0, 8],
                rsp: 0x7ffc10,
                rip: 0x7f02a,
            })
        );
        let in_fault = parse_asleep("-1 0x7ffc10 0x401000\n").expect("a place");
        assert_eq!((in_fault.call, in_fault.rip), (None, 0x401000));
        assert_eq!(parse_asleep("running\n"), None);
    }

    #[test]
    fn names_the_capability_or_setting_that_is_missing() {
        for (capable, same_user, scope, expected) in [
            (
                false,
                false,
                None,
                "another user; run as root or with CAP_SYS_PTRACE",
            ),
            (false, false, Some("1"), "another user"),
            (false, true, Some("1"), "ptrace_scope is 1"),
            (false, true, Some("2"), "ptrace_scope is 2"),
            (false, true, Some("3"), "ptrace_scope is 3"),
            (true, false, Some("3"), "ptrace_scope is 3"),
            (false, true, Some("0"), "PR_SET_DUMPABLE"),
            (false, true, None, "PR_SET_DUMPABLE"),
            (true, false, None, "user namespace"),
        ] {
            let why = name_obstacle(capable, same_user, scope);
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn names_a_process_that_does_not_exist() {
        let error = Identity::read(i32::MAX).expect_err("no such process");
        assert!(error.is_gone(), "{error}");
    }
}
