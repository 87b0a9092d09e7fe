//! perf names patched functions and unwinds through them, once it has been told of them.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{Program, Workshop, engraft, livepatch, run_checked, stderr, stdout};

/// Nearly all time passes in inner(), by way of middle() and of a library's through().
const PROGRAM: &str = r#"
#include <stdio.h>
#include <unistd.h>
#include <sys/prctl.h>
#define SEPARATE __attribute__((noipa))
volatile unsigned one = 1;
extern unsigned through(unsigned (*next)(unsigned), unsigned x);
SEPARATE unsigned inner(unsigned x)
{
	for (unsigned i = 0; i < 1000; i++)
		x = x * 3 + one;
	return x;
}
SEPARATE unsigned middle(unsigned x)
{
	unsigned several[20];
	for (unsigned i = 0; i < 20; i++)
		several[i] = i + x;
	return inner(several[3 * one]) + several[x % 20];
}
SEPARATE unsigned outer(unsigned x) { return middle(x * one) + one; }
int main(void)
{
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	puts("ready");
	fflush(stdout);
	for (unsigned i = 0, x = 1; getppid() != 1; i++) {
		x += outer(x) + through(inner, x);
		if (i % 1000 == 0)
			usleep(2000);
	}
	return 0;
}
"#;

const LIBRARY: &str = r#"
unsigned through(unsigned (*next)(unsigned), unsigned x) { return next(x) + 1; }
"#;

const MIDDLE: &str = r#"
extern volatile unsigned one;
extern unsigned inner(unsigned x);
static unsigned __attribute__((noipa)) helper(unsigned x)
{
	unsigned several[10];
	for (unsigned i = 0; i < 10; i++)
		several[i] = i * x;
	return inner(several[3 * one]) + several[x % 10];
}
static unsigned longer(unsigned x)
{
	unsigned several[40];
	for (unsigned i = 0; i < 40; i++)
		several[i] = i * one + x;
	return helper(several[30 * one]) + several[x % 40];
}
"#;

const THROUGH: &str = r#"
typedef unsigned function(unsigned);
static unsigned __attribute__((noipa)) detour(function *next, unsigned x) { return next(x + 1) + x; }
static unsigned detouring(function *next, unsigned x) { return detour(next, x) + 2; }
"#;

/// Programs under perf, whose cache is in their directory.
struct Scene {
    workshop: Workshop,
    program: PathBuf,
}

impl Scene {
    fn set() -> Self {
        let workshop = Workshop::new();
        let shared = ["-shared", "-fPIC", "-fomit-frame-pointer"];
        workshop.program("libthrough.so", LIBRARY, &shared);
        let directory = workshop.path("");
        let search = format!("-Wl,-rpath,{}", directory.display());
        let flags = ["-fomit-frame-pointer", "libthrough.so", &search];
        let program = workshop.program("program", PROGRAM, &flags);
        Self { workshop, program }
    }

    fn perf(&self, arguments: &[&str]) -> Command {
        let mut perf = Command::new("perf");
        perf.args(arguments).env("HOME", self.workshop.path(""));
        perf
    }

    /// Records what programs do for a while.
    fn record(&self, name: &str, programs: &[&Program]) -> PathBuf {
        let file = self.workshop.path(name);
        let pids: Vec<String> = programs
            .iter()
            .map(|program| program.pid().to_string())
            .collect();
        let how = [
            "record",
            "-e",
            "cpu-clock:u",
            "-F",
            "499",
            "--call-graph",
            "dwarf",
        ];
        let mut perf = self.perf(&how);
        perf.args(["-p", &pids.join(","), "-o"]).arg(&file);
        run_checked(perf.args(["--", "sleep", "2"]));
        file
    }

    fn show(&self, program: &Program, recording: &Path) -> Output {
        let mut command = engraft();
        command.args(["symbols", "--pid", &program.pid().to_string(), "--perf"]);
        command.arg(recording).env("HOME", self.workshop.path(""));
        command.output().unwrap()
    }

    /// What stacks with inner() on top there were, by process, each up to main() or its end.
    fn stacks(&self, recording: &Path) -> BTreeMap<i32, BTreeSet<Vec<String>>> {
        let mut perf = self.perf(&["script", "-F", "pid,ip,sym", "-i"]);
        let output = perf.arg(recording).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut stacks = BTreeMap::<i32, BTreeSet<Vec<String>>>::new();
        for sample in stdout(&output).split("\n\n") {
            let mut lines = sample.lines().map(str::trim);
            let Some(pid) = lines.next().and_then(|line| line.parse().ok()) else {
                continue;
            };
            let frames = lines.filter_map(|line| Some(line.split_once(' ')?.1.to_owned()));
            let mut frames: Vec<String> = frames.collect();
            if let Some(bottom) = frames.iter().position(|name| name == "main") {
                frames.truncate(bottom + 1);
            }
            if frames.first().is_some_and(|name| name == "inner") {
                stacks.entry(pid).or_default().insert(frames);
            }
        }
        stacks
    }
}

fn stack(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn perf_unwinds_through_patched_functions() {
    let scene = Scene::set();
    let first = Program::start(&scene.program);
    let second = Program::start(&scene.program);
    let early = scene.record("early.data", &[&first]);
    assert!(stderr(&scene.show(&first, &early)).contains("nothing has been loaded into it"));

    let middle = livepatch(MIDDLE, &[("middle", "longer")], "");
    let through = livepatch(THROUGH, &[("through", "detouring")], "").replace(
        ".funcs = funcs",
        ".name = \"libthrough.so\", .funcs = funcs",
    );
    first.run_to(0, &["load", &scene.workshop.module("middle_fix", &middle)]);
    second.run_to(
        0,
        &["load", &scene.workshop.module("through_fix", &through)],
    );
    let refused = scene.show(&first, &early);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("says nothing of patches"), "{said}");

    let recording = scene.record("perf.data", &[&first, &second]);
    let original_middle = stack(&["inner", "middle", "outer", "main"]);
    let original_through = stack(&["inner", "through", "main"]);
    let cut_off = stack(&["inner", "[unknown]"]);
    let before = scene.stacks(&recording);
    assert_eq!(
        before[&first.pid()],
        BTreeSet::from([cut_off.clone(), original_through.clone()])
    );
    assert_eq!(
        before[&second.pid()],
        BTreeSet::from([cut_off, original_middle.clone()])
    );

    for program in [&first, &second, &first] {
        let shown = scene.show(program, &recording);
        assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
    }
    let after = scene.stacks(&recording);
    let patched_middle = [
        "inner",
        "helper",
        "middle",
        "thunk of middle",
        "outer",
        "main",
    ];
    assert_eq!(
        after[&first.pid()],
        BTreeSet::from([stack(&patched_middle), original_through])
    );
    let patched_through = ["inner", "detour", "through", "main"];
    assert_eq!(
        after[&second.pid()],
        BTreeSet::from([stack(&patched_through), original_middle])
    );
}
