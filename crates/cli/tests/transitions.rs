//! Commands against a real process with a thread that does not leave an old function.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// One thread blocks in linger() for ever. PR_SET_PTRACER lets a sibling trace it where
/// Yama restricts tracing to descendants.
const TARGET: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/prctl.h>

static volatile int entered;

__attribute__((noinline)) long linger(int fd)
{
	char byte;

	entered = 1;
	return read(fd, &byte, 1) + 1;
}

static void *body(void *pipe)
{
	return (void *)linger(*(int *)pipe);
}

int main(void)
{
	int ends[2];
	char byte;
	pthread_t thread;

	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (pipe(ends) || pthread_create(&thread, NULL, body, ends))
		return 1;
	while (!entered)
		usleep(1000);
	puts("ready");
	fflush(stdout);
	return read(0, &byte, 1) < 0;
}
"#;

const FIX: &str = r#"
#include <linux/livepatch.h>
#include <linux/module.h>

static long new_linger(int fd) { return fd; }
static struct klp_func funcs[] = { { .old_name = "linger", .new_func = new_linger }, { } };
static struct klp_object objs[] = { { .funcs = funcs }, { } };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int fix_init(void) { return klp_enable_patch(&patch); }
static void fix_exit(void) { }
module_init(fix_init);
module_exit(fix_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

struct Scene {
    directory: tempfile::TempDir,
    target: Child,
}

impl Scene {
    fn set() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("target.c"), TARGET).unwrap();
        fs::write(path("fix.c"), FIX).unwrap();
        run_checked(
            Command::new("cc")
                .args(["-O2", "-pthread", "-o"])
                .args([path("target"), path("target.c")]),
        );
        run_checked(
            engraft()
                .arg("cc")
                .arg(path("fix.c"))
                .arg("-o")
                .arg(path("fix.lp")),
        );
        let target = start(&path("target"));
        Self { directory, target }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn module(&self) -> String {
        self.path("fix.lp").to_str().unwrap().to_owned()
    }

    /// Runs a command on the target and checks its exit code.
    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> Output {
        let pid = self.target.id().to_string();
        let output = engraft()
            .args(arguments)
            .args(["--pid", &pid])
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        output
    }

    #[track_caller]
    fn status(&self) -> Value {
        serde_json::from_slice(&self.run(0, &["status", "--json"]).stdout).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.target.kill();
        let _ = self.target.wait();
    }
}

fn engraft() -> Command {
    Command::new(env!("CARGO_BIN_EXE_engraft"))
}

#[track_caller]
fn run_checked(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn start(program: &Path) -> Child {
    let mut command = Command::new(program);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_blocked_transition_is_reversed_left_gone_on_with_and_forced() {
    let scene = Scene::set();
    let impatient = |action: &'static str| ["--timeout", "0.3", "--on-timeout", action];

    let output = scene.run(
        3,
        &[&["load", &scene.module()], &impatient("reverse")[..]].concat(),
    );
    let said = stderr(&output);
    assert!(
        said.contains("was reversed; every thread runs the code from before"),
        "{said}"
    );
    assert!(
        said.contains("linger") && said.contains("thread "),
        "{said}"
    );
    let status = scene.status();
    assert_eq!(status["transition"], Value::Null);
    assert_eq!(status["patches"][0]["enabled"], false);

    let output = scene.run(3, &[&["enable", "fix"], &impatient("leave")[..]].concat());
    assert!(
        stderr(&output).contains("was left unfinished"),
        "{}",
        stderr(&output)
    );
    let status = scene.status();
    assert_eq!(status["transition"]["patch"], "fix");
    assert_eq!(status["transition"]["target"], "patched");
    assert_eq!(status["transition"]["blockers"][0]["function"], "linger");
    assert_eq!(
        status["transition"]["blockers"].as_array().unwrap().len(),
        1
    );

    let output = scene.run(3, &[&["enable", "fix"], &impatient("leave")[..]].concat());
    assert!(
        stderr(&output).contains("was left unfinished"),
        "{}",
        stderr(&output)
    );

    scene.run(0, &["disable", "fix"]);
    assert_eq!(scene.status()["transition"], Value::Null);

    scene.run(0, &["enable", "fix", "--no-wait"]);
    assert_eq!(scene.status()["transition"]["patch"], "fix");
    scene.run(0, &["force"]);
    let status = scene.status();
    assert_eq!(status["transition"], Value::Null);
    assert_eq!(status["patches"][0]["enabled"], true);

    let log = String::from_utf8(scene.run(0, &["log"]).stdout).unwrap();
    assert!(
        log.contains("livepatch: forcing remaining tasks to the patched state"),
        "{log}"
    );
    assert!(
        !log.contains("klp_try_switch_task"),
        "debug lines without --debug: {log}"
    );
    let log = String::from_utf8(scene.run(0, &["log", "--debug"]).stdout).unwrap();
    assert!(log.contains("is sleeping on function linger"), "{log}");
}

#[test]
fn every_process_of_a_program_is_served() {
    let scene = Scene::set();
    let mut second = start(&scene.path("target"));
    let exe = scene.path("target");
    let list = || {
        let output = engraft()
            .args(["list", "--json", "--exe"])
            .arg(&exe)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<Value>>()
    };
    assert_eq!(list().len(), 2);

    // The first refuses because the module is there already; the second is served all the same.
    scene.run(0, &["load", &scene.module(), "--no-enable"]);
    let mut load = engraft();
    load.args(["load", &scene.module(), "--no-enable", "--exe"])
        .arg(&exe);
    let output = load.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains(&format!("process {}: ", scene.target.id())),
        "{output:?}"
    );
    assert!(stderr(&output).contains("EEXIST"), "{output:?}");
    let patches = list()
        .iter()
        .map(|status| status["patches"][0]["name"].clone())
        .collect::<Vec<_>>();
    assert_eq!(patches, ["fix", "fix"]);

    second.kill().unwrap();
    second.wait().unwrap();
}

/// The picture has a row for each thread: one is switched and switched back, one is held up.
#[test]
fn a_transition_is_drawn() {
    let scene = Scene::set();
    let picture = scene.path("picture.svg");
    let arguments = [
        "load",
        &scene.module(),
        "--timeout",
        "1",
        "--timeline",
        picture.to_str().unwrap(),
    ];
    scene.run(3, &arguments);
    let text = fs::read_to_string(&picture).unwrap();
    let count = |what: &str| text.matches(what).count();
    assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    assert!(text.contains(">fix: 2 threads</text>"), "{text}");
    assert_eq!(count("class=\"name\""), 2);
    assert_eq!(count("class=\"why\""), 1);
    assert!(text.contains(">is in function linger</text>"));
    assert!(text.contains("2 threads stand still together for "));
    // The main thread ran the new code until the reversal; the other one never did.
    assert_eq!(count("<title>new</title>"), 1, "{text}");
    assert!(count("<title>old</title>") >= 3 && count("<title>held</title>") >= 1);
    // Every element is closed.
    let opened = count("<rect") + count("<text") + count("<title") + count("<path");
    let closed = count("</rect>") + count("</text>") + count("</title>") + count("/>");
    assert_eq!(opened, closed, "{text}");

    let refused = engraft()
        .args(["load", &scene.module(), "--exe", "/bin/true"])
        .args(["--timeline", picture.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
