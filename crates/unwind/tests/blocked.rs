//! Threads that are blocked where threads usually are: every one must be walked to its bottom,
//! through the functions that are known to be on its stack.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use engraft_unwind::{End, MAX_FRAMES, RangeHit, ReasonKind, Trace, Unwinder};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use support::Program;
use support::address_space::AddressSpace;
use support::tracee::registers_of;

const THREADS: usize = 7;

/// Functions to be found in this order, others between them, by thread; the first one names
/// the thread.
const EXPECTED: [&[&str]; THREADS] = [
    &["wait_in_cond", "run"],
    &["wait_in_epoll", "run"],
    &["wait_in_read", "run"],
    &["wait_in_nanosleep", "run"],
    &["wait_in_read", "handler", "wait_in_handler", "run"],
    &[
        "wait_in_read",
        "handler",
        "wait_in_handler_on_alternate_stack",
        "run",
    ],
    &["wait_in_nanosleep", "main"],
];

struct Running {
    child: Child,
    seized: Vec<Pid>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // The leader's end is only reported when the tracer has taken note of all the others'.
        for &thread in self
            .seized
            .iter()
            .filter(|thread| thread.as_raw() != self.pid())
        {
            let _ = waitpid(thread, Some(WaitPidFlag::__WALL));
        }
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(program: &Program) -> Self {
        let child = Command::new(&program.path).stdout(Stdio::null()).spawn();
        Self {
            child: child.expect("fixture starts"),
            seized: Vec::new(),
        }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The threads, once all are there and asleep in a system call that waits.
    fn blocked_threads(&self) -> Vec<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let threads = self.threads();
            if threads.len() == THREADS && threads.iter().all(|&thread| self.is_blocked(thread)) {
                return threads;
            }
            assert!(
                Instant::now() < deadline,
                "threads do not block: {threads:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn threads(&self) -> Vec<i32> {
        let entries = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("task list");
        let names = entries.map(|entry| entry.expect("entry").file_name());
        let numbers = names.map(|name| name.to_str().and_then(|name| name.parse().ok()));
        let mut threads: Vec<i32> = numbers.map(|number| number.expect("thread id")).collect();
        threads.sort_unstable();
        threads
    }

    /// In futex, epoll_wait, read, nanosleep or clock_nanosleep: nothing else waits for long.
    fn is_blocked(&self, thread: i32) -> bool {
        let path = format!("/proc/{}/task/{thread}/syscall", self.pid());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let number = text.split_whitespace().next().unwrap_or_default();
        ["202", "232", "281", "0", "35", "230"].contains(&number)
    }
}

fn names(space: &AddressSpace, trace: &Trace) -> Vec<String> {
    let frames = trace.frames.iter();
    frames.map(|frame| space.name(frame.lookup_pc)).collect()
}

fn contains_in_order(names: &[String], expected: &[&str]) -> bool {
    let mut names = names.iter();
    expected
        .iter()
        .all(|wanted| names.any(|name| name == wanted))
}

/// Starts the fixture, stops all its threads and hands over their traces.
fn walk_blocked(compiler: &str) -> (AddressSpace, Vec<Trace>) {
    let program = support::compile("blocked.c", compiler);
    let mut running = Running::start(&program);
    let threads = running.blocked_threads();
    for thread in threads.iter().copied().map(Pid::from_raw) {
        running.seized.push(thread);
        ptrace::seize(thread, ptrace::Options::empty()).expect("seize");
        ptrace::interrupt(thread).expect("interrupt");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("thread stops");
    }
    let space = AddressSpace::of(running.pid());
    let mut unwinder = Unwinder::new(&space.code);
    let walk = |&thread: &i32| {
        let registers = registers_of(Pid::from_raw(thread));
        let before = space.memory.reads.get();
        let trace = unwinder.walk(&space.memory, &registers);
        let reads = space.memory.reads.get() - before;
        (trace, reads)
    };
    let walked: Vec<_> = threads.iter().map(walk).collect();
    let traces = walked.iter().map(|(trace, _)| trace.clone()).collect();
    for (trace, reads) in &walked {
        // A window of the stack or two (smaller near its end), and each call site once.
        let most = 12 + trace.frames.len();
        assert!(
            *reads <= most,
            "{reads} reads for {} frames",
            trace.frames.len()
        );
    }
    (space, traces)
}

fn check(compiler: &str) {
    let (space, traces) = walk_blocked(compiler);
    let mut missing: Vec<&[&str]> = EXPECTED.to_vec();
    for trace in &traces {
        let names = names(&space, trace);
        assert!(
            trace.is_complete(),
            "{compiler}: {:?} after {names:?}",
            trace.end
        );
        assert!(trace.frames.len() < MAX_FRAMES);
        // The longest match first: what a handler does, others do as well.
        missing.sort_by_key(|expected| std::cmp::Reverse(expected.len()));
        let found = missing
            .iter()
            .position(|expected| contains_in_order(&names, expected));
        missing.remove(found.unwrap_or_else(|| panic!("{compiler}: unexpected {names:?}")));
        check_hits(&space, trace, &names);
    }
    assert!(missing.is_empty(), "{compiler}: no thread for {missing:?}");
}

/// `handler` is found on the stacks that it is on, and on no others.
fn check_hits(space: &AddressSpace, trace: &Trace, names: &[String]) {
    let start = space.symbols.address("handler");
    let size = space.symbols.size(start);
    let ranges = [0..1, start..start + size];
    let expected = names.iter().position(|name| name == "handler");
    let expected = expected.map(|frame| RangeHit { frame, range: 1 });
    assert_eq!(trace.first_hit(&ranges), expected);
}

#[test]
fn every_blocked_thread_reaches_its_bottom_in_glibc() {
    check("gcc -O2");
}

#[test]
fn every_blocked_thread_reaches_its_bottom_without_optimization() {
    check("gcc -O0");
}

#[test]
fn every_blocked_thread_reaches_its_bottom_in_a_static_executable() {
    check("gcc -O2 -static");
}

#[test]
fn every_blocked_thread_reaches_its_bottom_in_a_stripped_static_executable() {
    let (_, traces) = walk_blocked("gcc -O2 -static -s");
    for trace in traces {
        // Only the main thread needs a name, which the ELF header's entry point supplies.
        assert!(trace.is_complete(), "{:?}", trace.end);
    }
}

/// musl brings no call frame information: doubt, for every thread.
#[test]
fn no_blocked_thread_reaches_a_bottom_in_musl() {
    let (_, traces) = walk_blocked("musl-gcc -O2");
    for trace in traces {
        match trace.end {
            End::Unreliable(reason) => {
                assert_eq!(reason.kind, ReasonKind::NoFrameDescription);
                // Which of musl's two names is mapped depends on how it was installed.
                let text = reason.to_string();
                let named = text.contains("ld-musl") || text.contains("in libc.so");
                assert!(named, "{text}");
            }
            End::Bottom => panic!("a bottom after {:?}", trace.frames),
        }
    }
}
