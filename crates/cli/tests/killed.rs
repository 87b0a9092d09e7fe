//! SIGKILL at any system call of any command: the target serves on, and the next command
//! finishes or takes back what was begun.
//!
//! The command is followed with ptrace and killed before its n-th system call, counted from
//! the first that touches the target. ENGRAFT_KILLS=all kills at every one of them,
//! ENGRAFT_KILLS=N at N of each command; ENGRAFT_SEED chooses which.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Program, Workshop, engraft, run_checked, stderr};

/// Kills of each command, unless ENGRAFT_KILLS says otherwise.
const KILLS: u64 = 35;

/// pwrite64 and ptrace: with one of these a command first does something to its target.
const TOUCHING: [u64; 2] = [18, 101];

struct Scene {
    _workshop: Workshop,
    program: Program,
    path: PathBuf,
    modules: [String; 2],
    code: BTreeMap<u64, Vec<u8>>,
}

/// What the target says about itself.
#[derive(Debug, PartialEq)]
struct Report {
    /// Version of the code that all threads run, 0 for the original; -1 when they differ.
    version: i64,
    /// Calls of epoll_wait that ended with EINTR. The kernel ends it so when its thread is
    /// stopped; the tool mends that at once, unless it is killed right between.
    cut: i64,
    /// By patch: how often pre_patch, post_patch, pre_unpatch, post_unpatch, init and exit
    /// ran since the last report.
    events: [[i64; 6]; 2],
    /// By patch: how far its state is, and the shadow variables that the state owns.
    states: [[i64; 2]; 2],
}

/// A state that is not there, and one that is.
const ABSENT: [i64; 2] = [0, 0];
const PRESENT: [i64; 2] = [2, 1];

const NOTHING: [i64; 6] = [0; 6];

impl Scene {
    fn set() -> Self {
        let workshop = Workshop::new();
        let fixture = |name: &str| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");
            fs::read_to_string(format!("{path}{name}")).unwrap()
        };
        let path = workshop.program("served", &fixture("served.c"), &["-pthread"]);
        let source = workshop.write("fix.c", &fixture("served_fix.c"));
        let modules = [1, 2].map(|version| {
            let output = workshop.path(&format!("fix{version}.lp"));
            let mut cc = engraft();
            cc.arg("cc").arg(&source).arg("-o").arg(&output);
            cc.args(["-D", &format!("VERSION={version}")]);
            if version == 1 {
                cc.args(["-D", "LINGER"]);
            }
            run_checked(&mut cc);
            output.to_str().unwrap().to_owned()
        });
        let program = Program::start(&path);
        let code = code_of(program.pid());
        Self {
            _workshop: workshop,
            program,
            path,
            modules,
            code,
        }
    }

    /// A target that was never patched.
    fn start_anew(&mut self) {
        self.program = Program::start(&self.path);
        self.code = code_of(self.program.pid());
    }

    /// The command line with module files for their names.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = engraft();
        for word in words {
            command.arg(match *word {
                "fix1.lp" => &self.modules[0],
                "fix2.lp" => &self.modules[1],
                word => word,
            });
        }
        command.args(["--pid", &self.program.pid().to_string()]);
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) {
        run_checked(&mut self.command(words));
    }

    fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What the target has seen, which must be nothing wrong.
    #[track_caller]
    fn report(&mut self) -> Report {
        let line = self.program.ask("report");
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<i64>().unwrap();
        assert_eq!(
            words[2..8],
            ["wrong", "0", "mixed", "0", "interrupted", "0"],
            "{line}"
        );
        let events = |patch: usize| std::array::from_fn(|event| number(11 + 6 * patch + event));
        Report {
            cut: number(9),
            version: number(1),
            events: [events(0), events(1)],
            states: [[number(24), number(27)], [number(25), number(28)]],
        }
    }

    /// Goes on with a transition that an earlier command has left.
    fn settle(&self) {
        let running = &self.status()["transition"];
        if let Some(patch) = running["patch"].as_str() {
            let verb = match running["target"].as_str() {
                Some("patched") => "enable",
                _ => "disable",
            };
            self.run(&[verb, patch]);
        }
    }

    /// The version that the state says is in force.
    fn version_by_status(&self) -> i64 {
        let status = self.status();
        assert_eq!(status["transition"], Value::Null, "{status}");
        let patches = status["patches"].as_array().unwrap();
        let enabled = patches.iter().filter(|patch| patch["state"] == "enabled");
        let newest = enabled.max_by_key(|patch| patch["stack_order"].as_u64());
        newest.map_or(0, |patch| match patch["name"].as_str() {
            Some("fix1") => 1,
            Some("fix2") => 2,
            other => panic!("{other:?}"),
        })
    }

    /// Takes everything off; the original is back.
    fn clear(&mut self) {
        for patch in self.status()["patches"].as_array().unwrap().iter().rev() {
            let name = patch["name"].as_str().unwrap();
            if patch["state"] == "enabled" {
                self.run(&["disable", name]);
            }
            self.run(&["unload", name]);
        }
        let report = self.report();
        assert_eq!((report.version, report.states), (0, [ABSENT, ABSENT]));
        assert_eq!(self.status()["patches"], Value::Array(Vec::new()));
        assert!(
            code_of(self.program.pid()) == self.code,
            "code is not the original"
        );
    }
}

/// The executable's own code.
fn code_of(pid: i32) -> BTreeMap<u64, Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut code = BTreeMap::new();
    for line in maps
        .lines()
        .filter(|line| line.contains("r-xp") && line.ends_with("/served"))
    {
        let (start, rest) = line.split_once('-').unwrap();
        let [start, end] = [start, rest.split(' ').next().unwrap()]
            .map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut bytes, start).unwrap();
        code.insert(start, bytes);
    }
    code
}

/// How a followed command ended.
enum End {
    Killed,
    /// By itself, after so many system calls.
    Exited(ExitStatus, u64),
}

/// Runs a command and kills it before its n-th system call from the first that touches the
/// target.
fn run_killed(mut command: Command, n: u64) -> End {
    // SAFETY: ptrace(PTRACE_TRACEME) is one system call, which a forked child may make.
    let command = unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let wait = || waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    assert!(
        matches!(wait(), WaitStatus::Stopped(_, Signal::SIGTRAP)),
        "its exec is seen first"
    );
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(pid, options).unwrap();
    let (mut calls, mut entering, mut signal) = (0, false, None);
    loop {
        ptrace::syscall(pid, signal.take()).unwrap();
        match wait() {
            WaitStatus::PtraceSyscall(_) => {
                entering = !entering;
                let touches = || TOUCHING.contains(&ptrace::getregs(pid).unwrap().orig_rax);
                if !entering || (calls == 0 && !touches()) {
                    continue;
                }
                calls += 1;
                if calls == n {
                    kill(pid, Signal::SIGKILL).unwrap();
                    assert!(matches!(
                        wait(),
                        WaitStatus::Signaled(_, Signal::SIGKILL, _)
                    ));
                    let _ = child.wait(); // has been waited for
                    return End::Killed;
                }
            }
            WaitStatus::Stopped(_, other) => signal = Some(other),
            WaitStatus::Exited(_, code) => {
                let _ = child.wait();
                return End::Exited(
                    std::os::unix::process::ExitStatusExt::from_raw(code << 8),
                    calls,
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A command that is killed, and what may come of it.
struct Case {
    /// Commands that make the state in which it is given.
    before: &'static [&'static [&'static str]],
    /// A thread is inside a function that it is about.
    lingering: bool,
    command: &'static [&'static str],
    /// What the user tries after it has died, and the refusals that are right then.
    next: &'static [&'static str],
    refusals: &'static [&'static str],
    /// The ends that are right: version, and what ran of both patches.
    ends: &'static [(i64, [[i64; 6]; 2])],
    /// The target is a new one each time.
    anew: bool,
}

impl Case {
    fn check(&self) {
        let seed = std::env::var("ENGRAFT_SEED").map_or(1, |seed| seed.parse::<u64>().unwrap());
        let mut scene = Scene::set();
        self.prepare(&mut scene);
        let End::Exited(status, calls) = run_killed(scene.command(self.command), u64::MAX) else {
            panic!("nobody has killed it");
        };
        assert!(status.success(), "{:?}: {status}", self.command);
        self.conclude(&mut scene, false, "not killed");
        let kills = match std::env::var("ENGRAFT_KILLS").as_deref() {
            Ok("all") => calls,
            Ok(number) => number.parse().unwrap(),
            Err(_) => KILLS,
        };
        let stride = (calls / kills).max(1);
        let (mut killed, mut ends) = (0, BTreeMap::<i64, u32>::new());
        let mut n = 1 + seed % stride;
        while n <= calls {
            if self.anew {
                scene.start_anew();
            }
            self.prepare(&mut scene);
            let what = format!("killed before call {n} of {calls}, seed {seed}");
            let was_killed = match run_killed(scene.command(self.command), n) {
                End::Killed => true,
                End::Exited(status, _) => {
                    assert!(status.success(), "{what}: {status}");
                    false
                }
            };
            killed += u64::from(was_killed);
            let version = self.conclude(&mut scene, was_killed, &what);
            *ends.entry(version).or_default() += 1;
            n += stride;
        }
        println!(
            "{}: {calls} system calls, killed at {killed}, stride {stride}, seed {seed}; \
             versions afterwards: {ends:?}",
            self.command.join(" ")
        );
        assert!(killed > 0, "it always came through");
    }

    fn prepare(&self, scene: &mut Scene) {
        if self.lingering {
            assert_eq!(scene.program.ask("linger"), "inside");
        }
        for command in self.before {
            scene.run(command);
        }
        // Only the thread that is inside shall be left.
        while self.lingering
            && scene.status()["transition"]["blockers"]
                .as_array()
                .unwrap()
                .len()
                > 1
        {
            scene.run(&["enable", "fix1", "--no-wait"]);
        }
        assert_eq!(scene.report().cut, 0, "{:?}", self.before);
    }

    /// Finishes or takes back, looks at what came of it, and clears up. Gives the version.
    fn conclude(&self, scene: &mut Scene, was_killed: bool, what: &str) -> i64 {
        let output = scene.command(self.next).output().unwrap();
        let said = stderr(&output);
        let right = self.refusals.iter().any(|refusal| said.contains(refusal));
        assert!(
            output.status.success() || (output.status.code() == Some(1) && right),
            "{what}: {:?}: {said}",
            self.next
        );
        scene.settle();
        let report = scene.report();
        let by_status = scene.version_by_status();
        assert_eq!(report.version, by_status, "{what}: {said}");
        let end = (report.version, report.events);
        assert!(self.ends.contains(&end), "{what}: {report:?} after: {said}");
        let states = match report.version {
            1 => [PRESENT, ABSENT],
            2 => [ABSENT, PRESENT],
            _ => [ABSENT, ABSENT],
        };
        assert_eq!(report.states, states, "{what}: {report:?} after: {said}");
        assert!(report.cut <= i64::from(was_killed), "{what}: {report:?}");
        if self.lingering {
            assert_eq!(scene.program.ask("leave"), "outside");
        }
        scene.clear();
        report.version
    }
}

/// What ran of a patch that was loaded and enabled.
const LOADED: [i64; 6] = [1, 1, 0, 0, 1, 0];

/// What may have run of one whose loading was taken back.
const UNDONE: [[i64; 6]; 3] = [NOTHING, [0, 0, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0]];

#[test]
fn loading_into_a_target_that_was_never_patched() {
    Case {
        before: &[],
        lingering: false,
        command: &["load", "fix1.lp"],
        next: &["enable", "fix1"],
        refusals: &["(ENOENT)", "is already enabled"],
        ends: &[
            (1, [LOADED, NOTHING]),
            (0, [UNDONE[0], NOTHING]),
            (0, [UNDONE[1], NOTHING]),
            (0, [UNDONE[2], NOTHING]),
        ],
        anew: true,
    }
    .check();
}

#[test]
fn loading_a_replacement() {
    Case {
        before: &[&["load", "fix1.lp"]],
        lingering: false,
        command: &["load", "fix2.lp"],
        next: &["enable", "fix2"],
        refusals: &["(ENOENT)", "is already enabled"],
        ends: &[
            (2, [NOTHING, LOADED]),
            (1, [NOTHING, UNDONE[0]]),
            (1, [NOTHING, UNDONE[1]]),
            (1, [NOTHING, UNDONE[2]]),
        ],
        anew: false,
    }
    .check();
}

#[test]
fn disabling() {
    Case {
        before: &[&["load", "fix2.lp"]],
        lingering: false,
        command: &["disable", "fix2"],
        next: &["disable", "fix2"],
        refusals: &["is not enabled"],
        ends: &[(0, [NOTHING, [0, 0, 1, 1, 0, 0]])],
        anew: false,
    }
    .check();
}

#[test]
fn enabling_again() {
    Case {
        before: &[&["load", "fix1.lp", "--no-enable"]],
        lingering: false,
        command: &["enable", "fix1"],
        next: &["enable", "fix1"],
        refusals: &["is already enabled"],
        ends: &[(1, [[1, 1, 0, 0, 0, 0], NOTHING])],
        anew: false,
    }
    .check();
}

#[test]
fn reversing() {
    Case {
        before: &[&["load", "fix1.lp", "--no-wait"]],
        lingering: true,
        command: &["disable", "fix1"],
        next: &["disable", "fix1"],
        refusals: &["is not enabled"],
        ends: &[(0, [[0, 0, 0, 1, 0, 0], NOTHING])],
        anew: false,
    }
    .check();
}

#[test]
fn forcing() {
    Case {
        before: &[&["load", "fix1.lp", "--no-wait"]],
        lingering: true,
        command: &["force"],
        next: &["force"],
        refusals: &["no transition is running"],
        ends: &[(1, [[0, 1, 0, 0, 0, 0], NOTHING])],
        anew: false,
    }
    .check();
}

#[test]
fn unloading() {
    Case {
        before: &[&["load", "fix1.lp"], &["disable", "fix1"]],
        lingering: false,
        command: &["unload", "fix1"],
        next: &["unload", "fix1"],
        refusals: &["(ENOENT)"],
        ends: &[(0, [[0, 0, 0, 0, 0, 1], NOTHING])],
        anew: false,
    }
    .check();
}
