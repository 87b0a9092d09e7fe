//! What every command answers in JSON, and how it exits: fields are there to stay.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// One thread blocks in linger() for ever. PR_SET_PTRACER lets a sibling trace it where Yama
/// restricts tracing to descendants.
const TARGET: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/prctl.h>

static volatile int inside;
__attribute__((noipa)) int first(void) { return inside; }
__attribute__((noipa)) long linger(int fd) { char byte; inside = 1; return read(fd, &byte, 1); }
static void *body(void *pipe) { return (void *)linger(*(int *)pipe); }

int main(void)
{
	int ends[2];
	char byte;
	pthread_t thread;

	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (pipe(ends) || pthread_create(&thread, NULL, body, ends))
		return 1;
	while (!first())
		usleep(1000);
	puts("ready");
	fflush(stdout);
	return read(0, &byte, 1) < 0;
}
"#;

const FIX: &str = r#"
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static int level;
module_param(level, int, 0644);
static long replacement(int fd) { return fd; }
static void post_patch(struct klp_object *obj) { pr_info("level %d\n", level); }
static struct klp_func funcs[] = { { .old_name = FUNCTION, .new_func = replacement }, { } };
static struct klp_func none[] = { { } };
static struct klp_object objs[] = {
	{ .funcs = funcs, .callbacks.post_patch = post_patch },
	{ .name = "libabsent.so", .funcs = none, .callbacks.post_patch = post_patch }, { }
};
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
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-pthread", "-o"]);
        run_checked(compile.args([path("target"), path("target.c")]));
        for (module, function) in [("beside", "first"), ("slow", "linger")] {
            let mut cc = engraft();
            cc.arg("cc").arg(path("fix.c")).arg("-o");
            cc.arg(path(&format!("{module}.lp")));
            run_checked(cc.arg("-D").arg(format!("FUNCTION=\"{function}\"")));
        }
        let mut target = Command::new(path("target"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = target.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { directory, target }
    }

    fn module(&self, name: &str) -> String {
        let path = self.directory.path().join(format!("{name}.lp"));
        path.to_str().unwrap().to_owned()
    }

    /// Runs a command on the target and checks its exit code.
    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> Output {
        let pid = self.target.id().to_string();
        let output = engraft().args(arguments).args(["--pid", &pid]).output();
        let output = output.unwrap();
        let found = output.status.code();
        assert_eq!(found, Some(code), "{arguments:?}: {output:?}");
        output
    }

    /// The same with JSON: one object per line and nothing on standard error.
    #[track_caller]
    fn ask(&self, code: i32, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(code, &[arguments, &["--json"]].concat());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let lines = String::from_utf8(output.stdout).unwrap();
        let answers: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for answer in &answers {
            assert_eq!(answer["pid"], self.target.id(), "{answer}");
        }
        answers
    }

    /// The same with one object.
    #[track_caller]
    fn ask_one(&self, code: i32, arguments: &[&str]) -> Value {
        let mut answers = self.ask(code, arguments);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
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

/// Asserts the names of an object's members.
#[track_caller]
fn expect_fields(object: &Value, names: &str) {
    let members = object.as_object().unwrap_or_else(|| panic!("{object}"));
    let mut found: Vec<&str> = members.keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found.join(" "), names, "{object}");
}

const TRANSITION: &str = "attempts blockers patch switched target total";

#[test]
fn loading_and_what_status_list_and_log_say() {
    let scene = Scene::set();
    let loaded = scene.ask_one(0, &["load", &scene.module("beside"), "level=3"]);
    expect_fields(&loaded, "patch pid result seconds threads");
    assert_eq!(loaded["threads"], 2);
    assert_eq!(
        (&loaded["patch"], &loaded["result"]),
        (&"beside".into(), &"enabled".into())
    );
    let registered = scene.ask_one(0, &["load", &scene.module("slow"), "--no-enable"]);
    expect_fields(&registered, "patch pid result");
    assert_eq!(registered["result"], "loaded");

    let status = scene.ask_one(0, &["status"]);
    expect_fields(&status, "executable patches pid transition");
    assert_eq!(status["transition"], Value::Null);
    let beside = &status["patches"][0];
    expect_fields(
        beside,
        "enabled forced name objects refcnt replace replace_set stack_order state states transition",
    );
    let expected = serde_json::json!({
        "name": "beside", "state": "enabled", "enabled": true, "transition": false,
        "replace": false, "replace_set": 0, "forced": false, "refcnt": 1, "stack_order": 1,
        "states": [],
        "objects": [
            { "name": "target", "patched": true, "loaded": true,
              "functions": [{ "name": "first", "sympos": 1, "nop": false }] },
            { "name": "libabsent.so", "patched": false, "loaded": false, "functions": [] },
        ],
    });
    assert_eq!(*beside, expected);
    let slow = &status["patches"][1];
    assert_eq!(
        (&slow["state"], &slow["refcnt"]),
        (&"registered".into(), &0.into())
    );
    assert_eq!(scene.ask_one(0, &["list"]), status);

    let log = scene.ask(0, &["log", "--debug"]);
    for line in &log {
        expect_fields(line, "level order pid seconds text");
    }
    let first = &log[0];
    assert_eq!(
        (&first["text"], &first["level"]),
        (&"livepatch: enabling patch 'beside'".into(), &5.into())
    );
    let orders: Vec<u64> = log
        .iter()
        .map(|line| line["order"].as_u64().unwrap())
        .collect();
    assert!(orders.is_sorted_by(|a, b| a < b), "{orders:?}");
    let texts = |lines: &[Value]| -> Vec<String> {
        let texts = lines
            .iter()
            .map(|line| line["text"].as_str().unwrap().to_owned());
        texts.collect()
    };
    assert!(texts(&log).contains(&"level 3".to_owned()));
    let debug = |text: &String| text.contains("initializing") || text.contains("completing");
    assert_eq!(texts(&log).iter().filter(|text| debug(text)).count(), 2);
    assert_eq!(
        texts(&scene.ask(0, &["log"]))
            .iter()
            .filter(|text| debug(text))
            .count(),
        0
    );

    assert_eq!(
        scene.ask_one(0, &["disable", "beside"])["result"],
        "disabled"
    );
    let unloaded = scene.ask_one(0, &["unload", "beside"]);
    expect_fields(&unloaded, "patch pid result");
    assert_eq!(unloaded["result"], "unloaded");
}

#[test]
fn a_symbol_file_is_written_whole_and_to_a_file_only() {
    let scene = Scene::set();
    let place = scene.directory.path().join("patches.sym");
    let symbols = |output: &str| {
        [
            "symbols".to_owned(),
            "--output".to_owned(),
            output.to_owned(),
        ]
    };
    let ask = |code: i32, output: &str| {
        let words = symbols(output);
        scene.ask_one(code, &words.each_ref().map(String::as_str))
    };
    let file = place.to_str().unwrap();
    assert_eq!(ask(1, file)["errno"], "ENOENT", "nothing is loaded");
    assert!(!place.exists());

    scene.ask_one(0, &["load", &scene.module("beside")]);
    std::fs::write(&place, "as it was").unwrap();
    let written = ask(0, file);
    expect_fields(&written, "file pid");
    assert_eq!(written["file"], file);
    assert!(std::fs::read(&place).unwrap().starts_with(b"\x7fELF"));
    assert_eq!(
        std::fs::read_dir(scene.directory.path())
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with(".engraft-")
            })
            .count(),
        0
    );
    let words = symbols("/dev/null");
    let refused = scene.run(1, &words.each_ref().map(String::as_str));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("/dev/null is not a regular file"), "{said}");
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn a_transition_that_lasts_by_every_ending() {
    let scene = Scene::set();
    scene.ask_one(0, &["load", &scene.module("beside")]);
    let running = scene.ask_one(0, &["load", &scene.module("slow"), "--no-wait"]);
    expect_fields(&running, "patch pid result seconds threads transition");
    assert_eq!(running["result"], "running");
    let transition = &running["transition"];
    expect_fields(transition, TRANSITION);
    assert_eq!(
        (&transition["patch"], &transition["target"]),
        (&"slow".into(), &"patched".into())
    );

    let busy = scene.ask_one(1, &["disable", "beside"]);
    expect_fields(&busy, "errno error pid");
    assert_eq!(busy["errno"], "EBUSY");
    let used = scene.ask_one(1, &["unload", "slow"]);
    assert_eq!(used["errno"], "EAGAIN");

    let impatient = |action: &'static str| ["--timeout", "0.3", "--on-timeout", action];
    let left = scene.ask_one(3, &[&["enable", "slow"], &impatient("leave")[..]].concat());
    expect_fields(
        &left,
        "error help patch pid result seconds threads transition",
    );
    assert_eq!(left["result"], "left");
    let status = scene.ask_one(0, &["status"]);
    let blocker = &status["transition"]["blockers"][0];
    expect_fields(blocker, "comm function reason stack state tid");
    assert_eq!(blocker["function"], "linger");
    assert_eq!(status["patches"][1]["transition"], true);

    let reversed = scene.ask_one(
        3,
        &[&["enable", "slow"], &impatient("reverse")[..]].concat(),
    );
    expect_fields(
        &reversed,
        "error help patch pid result seconds threads transition",
    );
    assert_eq!(reversed["result"], "reversed");
    let nothing = scene.ask_one(1, &["force"]);
    assert_eq!(nothing["errno"], "EINVAL");
    let said = "livepatch: no transition is running; nothing to force";
    assert_eq!(nothing["error"], said);

    let forced = scene.ask_one(0, &[&["enable", "slow"], &impatient("force")[..]].concat());
    expect_fields(&forced, "patch pid result seconds threads");
    assert_eq!(forced["result"], "forced");
    assert_eq!(scene.ask_one(0, &["status"])["patches"][1]["enabled"], true);

    scene.ask_one(0, &["disable", "slow"]);
    scene.ask_one(0, &["enable", "slow", "--no-wait"]);
    assert_eq!(scene.ask_one(0, &["force"])["result"], "forced");
}

#[test]
fn refusals_name_the_errno() {
    let scene = Scene::set();
    let module = scene.module("beside");
    for (arguments, errno) in [
        (&["load", &module, "nonesuch=1"][..], "EINVAL"),
        (&["load", &module, "level=99999999999"], "ERANGE"),
        (&["enable", "nonesuch"], "ENOENT"),
        (&["unload", "nonesuch"], "ENOENT"),
    ] {
        let answer = scene.ask_one(1, arguments);
        assert_eq!(answer["errno"], errno, "{answer}");
        assert!(!answer["error"].as_str().unwrap().is_empty());
        let text = scene.run(1, arguments);
        let said = String::from_utf8_lossy(&text.stderr).into_owned();
        assert!(
            said.starts_with("engraft: ") && said.contains(errno),
            "{said}"
        );
        assert!(text.stdout.is_empty());
    }
}

#[test]
fn an_object_that_is_not_there_is_mentioned() {
    let scene = Scene::set();
    let output = scene.run(0, &["load", &scene.module("beside")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let pid = scene.target.id();
    let expected = format!(
        "engraft: process {pid}: object 'libabsent.so' is not loaded; it is patched when it comes\n"
    );
    assert_eq!(said, expected);
}
