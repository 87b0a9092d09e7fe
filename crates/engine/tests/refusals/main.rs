//! Bad input gets an error that names the thing, the reason and the way out, and leaves the
//! target as it was.

mod build_id;
mod entries;
mod memory;
mod module_file;
mod patches;
#[path = "../support/mod.rs"]
mod support;
mod symbols;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use engraft_engine::{Engine, Error, LoadRequest, PatchState, check, read_status};
use nix::errno::Errno;
use support::{Program, Workshop, load, log_of, settle};

/// Answers each line with two numbers that come from functions to be patched.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "preparation.h"
volatile int secret = 7;
__attribute__((noinline)) int answer(int question) { return question + secret; }
__attribute__((noinline)) const char *greeting(void) { return "hello"; }
int main(int argc, char **argv)
{
	static char line[64];
	setvbuf(stdin, NULL, _IOLBF, 0);
	prepare();
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%s %d\n", greeting(), answer((int)strlen(line) - 1));
		fflush(stdout);
	}
	return 0;
}
"#;

/// The program in a directory with what belongs to it.
struct Scene {
    workshop: Workshop,
    program: Program,
    before: Snapshot,
}

/// What a target must still look like after a refusal.
#[derive(PartialEq)]
struct Snapshot {
    maps: String,
    code: BTreeMap<u64, Vec<u8>>,
}

impl Snapshot {
    fn of(pid: i32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
        let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("memory");
        let mut code = BTreeMap::new();
        let own =
            |line: &&str| line.contains("r-xp") && line.contains('/') && !line.contains("memfd");
        for line in maps.lines().filter(own) {
            let (start, rest) = line.split_once('-').expect("a range");
            let end = rest.split(' ').next().expect("a range");
            let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("number"));
            let mut bytes = vec![0; (end - start) as usize];
            memory.read_exact_at(&mut bytes, start).expect("code");
            code.insert(start, bytes);
        }
        Self { maps, code }
    }
}

impl Scene {
    fn set() -> Self {
        Self::with("static void prepare(void) {}", &[])
    }

    /// `preparation` is what the program does before it is ready.
    fn with(preparation: &str, flags: &[&str]) -> Self {
        let workshop = Workshop::new();
        workshop.write("program.c", PROGRAM);
        workshop.write("preparation.h", preparation);
        let path = workshop.build("cc", "program", &[&["program.c", "-O2"], flags].concat());
        Self::run(workshop, &path)
    }

    fn run(workshop: Workshop, path: &Path) -> Self {
        let mut program = Program::start(path);
        assert_eq!(program.ask("abc"), "hello 10");
        let before = Snapshot::of(program.pid());
        Self {
            workshop,
            program,
            before,
        }
    }

    fn pid(&self) -> i32 {
        self.program.pid()
    }

    fn load(&self, name: &str, module: &[u8]) -> Result<(), Error> {
        load(
            &mut Engine::open(self.pid()).expect("open"),
            name,
            module,
            &[],
        )
    }

    /// Loads a module and expects a refusal that says all of this; the dry run must say the
    /// same.
    #[track_caller]
    fn refuses(&mut self, name: &str, module: &[u8], errno: Errno, said: &[&str]) {
        let error = self.load(name, module).expect_err("must be refused");
        expect(&error, errno, said);
        let file_name = format!("{name}.lp");
        let request = LoadRequest {
            module,
            file_name: &file_name,
            parameters: &[],
            enable: true,
        };
        match check(self.pid(), &request) {
            Err(error) => expect(&error, errno, said),
            Ok(report) => {
                let problems = report.problems.join("\n");
                for words in said {
                    assert!(
                        problems.contains(words),
                        "check: no {words:?} in: {problems}"
                    );
                }
            }
        }
        self.is_untouched();
    }

    #[track_caller]
    fn is_untouched(&mut self) {
        assert_eq!(self.program.ask("abc"), "hello 10");
        let after = Snapshot::of(self.pid());
        assert_eq!(after.maps, self.before.maps);
        assert!(after.code == self.before.code, "code was changed");
    }

    /// As it was but for memory of ours: code that had to run in it was refused or failed.
    #[track_caller]
    fn is_unpatched(&mut self) {
        assert_eq!(self.program.ask("abc"), "hello 10");
        assert!(
            Snapshot::of(self.pid()).code == self.before.code,
            "code was changed"
        );
        let status = read_status(self.pid()).expect("status");
        assert_eq!((status.patches, status.transition), (Vec::new(), None));
    }
}

/// All that an error says.
fn words(error: &Error) -> String {
    format!("{error}; {}", error.help().unwrap_or_default())
}

#[track_caller]
fn expect(error: &Error, errno: Errno, said: &[&str]) {
    let text = words(error);
    for part in said {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    assert_eq!(error.errno(), errno, "{text}");
}

/// A livepatch of the main executable with these functions, and other code before them.
fn livepatch(code: &str, funcs: &str) -> String {
    livepatch_with(code, "{ .funcs = funcs }, {}", funcs, "")
}

fn livepatch_with(code: &str, objects: &str, funcs: &str, more: &str) -> String {
    format!(
        r#"
#include <linux/module.h>
#include <linux/livepatch.h>
{code}
static struct klp_func funcs[] __attribute__((unused)) = {{ {funcs} {{}} }};
static struct klp_object objs[] = {{ {objects} }};
static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs, {more} }};
static int init(void) {{ return klp_enable_patch(&patch); }}
static void leave(void) {{}}
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#
    )
}

const FIX: &str = "static int new_answer(int question) { return question * 100; }";
const FIX_FUNCS: &str = "{ .old_name = \"answer\", .new_func = new_answer },";

fn fix(workshop: &Workshop, name: &str) -> Vec<u8> {
    workshop.module(name, &livepatch(FIX, FIX_FUNCS))
}

#[test]
fn no_such_process() {
    let mut child = Command::new("true").spawn().expect("spawn");
    let pid = child.id().cast_signed();
    child.wait().expect("wait");
    for pid in [pid, i32::MAX] {
        let error = Engine::open(pid).err().expect("it does not exist");
        expect(
            &error,
            Errno::ESRCH,
            &[&format!("process {pid}"), "no such process"],
        );
        let error = read_status(pid).expect_err("it does not exist");
        expect(
            &error,
            Errno::ESRCH,
            &[&format!("process {pid}"), "no such process"],
        );
    }
}

#[test]
fn a_process_that_has_ended_but_is_not_reaped() {
    let mut child = Command::new("true").spawn().expect("spawn");
    let pid = child.id().cast_signed();
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).expect("a zombie has one");
    while !state().contains(") Z") {
        std::thread::yield_now();
    }
    let error = Engine::open(pid).err().expect("it has ended");
    expect(&error, Errno::ESRCH, &["no such process"]);
    child.wait().expect("wait");
}

#[test]
fn a_thread_is_no_process() {
    let scene = Scene::with(
        "#include <pthread.h>\nstatic void *idle(void *x) { for (;;) pause(); return x; }\n\
         static void prepare(void) { pthread_t t; pthread_create(&t, NULL, idle, NULL); }",
        &["-pthread"],
    );
    let tasks = fs::read_dir(format!("/proc/{}/task", scene.pid())).expect("threads");
    let threads = tasks.map(|entry| {
        entry
            .expect("entry")
            .file_name()
            .into_string()
            .expect("number")
    });
    let tid: i32 = threads
        .map(|tid| tid.parse().expect("number"))
        .find(|tid| *tid != scene.pid())
        .expect("a second thread");
    let error = Engine::open(tid).err().expect("a thread");
    expect(&error, Errno::ESRCH, &[&tid.to_string()]);
}

#[test]
fn a_running_transition() {
    let mut scene = Scene::with(
        r#"
#include <pthread.h>
static volatile int entered;
__attribute__((noinline)) int linger(int fd) { char byte; entered = 1; return (int)read(fd, &byte, 1) + 1; }
static void *body(void *ends) { return (void *)(long)linger(*(int *)ends); }
static void prepare(void)
{
	static int ends[2];
	pthread_t thread;
	if (pipe(ends) || pthread_create(&thread, NULL, body, ends))
		abort();
	while (!entered)
		usleep(1000);
}
"#,
        &["-pthread"],
    );
    let slow = livepatch(
        "static int new_linger(int fd) { return fd; }",
        "{ .old_name = \"linger\", .new_func = new_linger },",
    );
    let slow = scene.workshop.module("slow", &slow);
    let module = fix(&scene.workshop, "fix");
    let mut engine = Engine::open(scene.pid()).expect("open");
    load(&mut engine, "slow", &slow, &[]).expect("load");
    assert!(
        engine.retry().expect("retry").is_some(),
        "a thread is in linger()"
    );
    let code = Snapshot::of(scene.pid()).code;
    let said = [
        "'fix'",
        "'slow' is in transition",
        "wait for it, reverse it or force it",
    ];
    let error = load(&mut engine, "fix", &module, &[]).expect_err("busy");
    expect(&error, Errno::EBUSY, &said);
    let error = engine.unload("slow").expect_err("busy");
    expect(
        &error,
        Errno::EAGAIN,
        &["'slow'", "in transition", "wait for it to complete"],
    );
    assert_eq!(scene.program.ask("abc"), "hello 10");
    assert!(Snapshot::of(scene.pid()).code == code, "code was changed");
    let status = read_status(scene.pid()).expect("status");
    assert_eq!(status.patches.len(), 1);
    assert!(
        status
            .transition
            .is_some_and(|transition| transition.patch == "slow")
    );
    engine.disable("slow", false).expect("reverse");
    settle(&mut engine);
    engine.unload("slow").expect("unload");
    drop(engine);
    scene.is_unpatched();
}
