//! A target that looks for traces of being stopped finds none.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use engraft_process::{
    ArenaPlan, Memory, Slack, StopOutcome, Tracer, create_arena, list_threads, read_maps, stop_all,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct Target {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    _directory: tempfile::TempDir,
}

impl Target {
    fn start(fixture: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let program = directory.path().join("target");
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(fixture);
        let status = Command::new("cc")
            .args(["-O2", "-pthread", "-o"])
            .arg(&program)
            .arg(source)
            .args(flags)
            .status()
            .expect("cc runs");
        assert!(status.success());
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("target starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("first line");
        assert_eq!(line, "ready\n");
        Self {
            child,
            output,
            _directory: directory,
        }
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Ends the target and returns what it has noticed.
    fn finish(mut self) -> Vec<String> {
        self.child
            .stdin
            .take()
            .expect("piped")
            .write_all(b"\n")
            .expect("target listens");
        let lines: Vec<String> = self
            .output
            .by_ref()
            .lines()
            .map(|line| line.expect("text"))
            .collect();
        assert!(self.child.wait().expect("child").success());
        assert_eq!(lines.last().map(String::as_str), Some("end"));
        lines[..lines.len() - 1].to_vec()
    }
}

use std::io::Read as _;

#[test]
fn no_call_returns_early_when_threads_are_stopped_one_by_one() {
    let target = Target::start("blocked.c", &[]);
    let tracer = Tracer::new(target.pid());
    for _ in 0..20 {
        for tid in list_threads(target.pid()) {
            match tracer.stop(tid, Duration::from_secs(2)).expect("stop") {
                StopOutcome::Stopped(stopped) => stopped.release().expect("release"),
                other => panic!("thread {tid}: {other:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(target.finish(), Vec::<String>::new());
}

#[test]
fn no_call_returns_early_when_all_threads_are_stopped_together() {
    let target = Target::start("blocked.c", &[]);
    let tracer = Tracer::new(target.pid());
    for _ in 0..20 {
        let mut seen = 0;
        let held = stop_all(&tracer, None, &mut |_| seen += 1).expect("stop all");
        assert_eq!(seen, list_threads(target.pid()).len());
        let report = held.release().expect("release");
        assert_eq!(report.threads, seen);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(target.finish(), Vec::<String>::new());
}

/// Bytes behind the end of a text segment's contents, up to the end of its page.
fn find_slack(memory: &Memory, pid: i32) -> u64 {
    let maps = read_maps(pid).expect("maps");
    let base = maps[0].start;
    let headers: u64 = memory.read(base + 32).expect("e_phoff");
    let count: u16 = memory.read(base + 56).expect("e_phnum");
    let bias = if memory.read::<u16>(base + 16).expect("e_type") == 3 {
        base
    } else {
        0
    };
    for index in 0..u64::from(count) {
        let header = base + headers + index * 56;
        let kind: u32 = memory.read(header).expect("p_type");
        let flags: u32 = memory.read(header + 4).expect("p_flags");
        if kind == 1 && flags & 1 == 1 {
            let address: u64 = memory.read(header + 16).expect("p_vaddr");
            let size: u64 = memory.read(header + 32).expect("p_filesz");
            return bias + (address + size).next_multiple_of(16);
        }
    }
    panic!("no text segment");
}

fn count_descriptors(pid: i32) -> usize {
    let list = std::fs::read_dir(format!("/proc/{pid}/fd"));
    list.expect("descriptors").count()
}

#[test]
fn an_arena_appears_and_nothing_else_changes() {
    for flags in [&[][..], &["-no-pie"], &["-static"]] {
        let target = Target::start("blocked.c", flags);
        let pid = target.pid();
        let memory = Memory::open(pid).expect("memory");
        let tracer = Tracer::new(pid);
        let before = read_maps(pid).expect("maps");
        let fds_before = count_descriptors(pid);
        let slack = find_slack(&memory, pid);
        let place = Slack {
            address: slack,
            original: None,
        };
        let mut slack_before = [0; 400];
        memory.read_bytes(slack, &mut slack_before).expect("slack");
        let mut address = before[0]
            .start
            .checked_sub(0x200_0000)
            .unwrap_or(0x7000_0000);
        // On every thread in turn, whatever it is blocked in.
        for tid in list_threads(pid) {
            let plan = ArenaPlan {
                name: "engraft",
                address,
                read_only: 0x2000,
                executable: 0x3000,
                writable: 0x1000,
            };
            let StopOutcome::Stopped(thread) =
                tracer.stop(tid, Duration::from_secs(2)).expect("stop")
            else {
                panic!("thread {tid} cannot be stopped");
            };
            create_arena(thread, &memory, &place, &plan).expect("arena");
            address += 0x8000;
        }
        let after = read_maps(pid).expect("maps");
        let ours: Vec<_> = after
            .iter()
            .filter(|mapping| mapping.path.starts_with("/memfd:engraft"))
            .collect();
        assert_eq!(ours.len(), 3 * list_threads(pid).len());
        assert!(
            ours.iter()
                .all(|mapping| !(mapping.write && mapping.execute))
        );
        let mut slack_after = [0; 400];
        memory.read_bytes(slack, &mut slack_after).expect("slack");
        assert_eq!(slack_before, slack_after);
        assert_eq!(count_descriptors(pid), fds_before);
        assert_eq!(target.finish(), Vec::<String>::new(), "{flags:?}");
    }
}

/// The handler runs before the first instruction of the code that maps memory, and returns to it.
#[test]
fn an_arena_appears_although_a_signal_waits() {
    const ARENAS: u64 = 8;
    let target = Target::start("signalled.c", &[]);
    let pid = target.pid();
    let memory = Memory::open(pid).expect("memory");
    let tracer = Tracer::new(pid);
    let first = read_maps(pid).expect("maps")[0].start;
    let before = count_descriptors(pid);
    let place = Slack {
        address: find_slack(&memory, pid),
        original: None,
    };
    for number in 1..=ARENAS {
        let plan = ArenaPlan {
            name: "engraft",
            address: first - 0x200_0000 + number * 0x8000,
            read_only: 0x2000,
            executable: 0x3000,
            writable: 0x1000,
        };
        let outcome = tracer.stop(pid, Duration::from_secs(2)).expect("stop");
        let StopOutcome::Stopped(thread) = outcome else {
            panic!("{outcome:?}");
        };
        kill(Pid::from_raw(pid), Signal::SIGALRM).expect("signal");
        create_arena(thread, &memory, &place, &plan).expect("arena");
        let maps = read_maps(pid).expect("maps");
        let ours = maps.iter().filter(|m| m.path.starts_with("/memfd:engraft"));
        assert_eq!(ours.count() as u64, 3 * number);
    }
    assert_eq!(count_descriptors(pid), before);
    assert_eq!(target.finish(), [format!("{ARENAS} signals")]);
}
