//! Several commands at once for one target: one works, the others are told.

mod support;

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Program, Workshop, engraft, livepatch, stderr, stdout};

const PROGRAM: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/prctl.h>
static volatile int entered, zero;
static int ends[2];
__attribute__((noinline)) int linger(int fd) { char byte; entered = 1; return (int)read(fd, &byte, 1) + zero; }
__attribute__((noinline)) int first(void) { return 1 + zero; }
__attribute__((noinline)) int second(void) { return 2 + zero; }
__attribute__((noinline)) int third(void) { return 3 + zero; }
static void *body(void *nothing) { linger(ends[0]); return nothing; }
int main(void)
{
	static char line[64];
	pthread_t thread;
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (pipe(ends) || pthread_create(&thread, NULL, body, NULL))
		return 1;
	while (!entered)
		usleep(1000);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == 'l' && write(ends[1], "x", 1) != 1)
			return 1;
		printf("%d %d %d\n", first(), second(), third());
		fflush(stdout);
	}
	return 0;
}
"#;

const BUSY: &str = "another engraft is working on it; wait until it is done (EBUSY)";

struct Scene {
    workshop: Workshop,
    program: Program,
}

impl Scene {
    fn set() -> Self {
        let workshop = Workshop::new();
        let path = workshop.program("program", PROGRAM, &["-pthread"]);
        let program = Program::start(&path);
        Self { workshop, program }
    }

    fn module(&self, function: &str) -> String {
        let code = format!("static int new_{function}(int x) {{ return 100; }}");
        let replacement = format!("new_{function}");
        let text = livepatch(&code, &[(function, &replacement)], "");
        self.workshop.module(&format!("fix_{function}"), &text)
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command: Command = engraft();
        command
            .args(arguments)
            .args(["--pid", &self.program.pid().to_string()]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn status(&self) -> Value {
        let output = self.program.run_to(0, &["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[track_caller]
fn is_told(output: &Output) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(output).contains(BUSY), "{output:?}");
}

/// All at once, again and again: whoever says that it is done is, and nobody else.
#[test]
fn commands_that_race() {
    let mut scene = Scene::set();
    let functions = ["first", "second", "third"];
    let modules = functions.map(|function| scene.module(function));
    let (mut done, mut told) = (0, 0);
    for _ in 0..12 {
        let loads: Vec<Child> = modules
            .iter()
            .map(|module| scene.start(&["load", module]))
            .collect();
        let outputs: Vec<Output> = loads
            .into_iter()
            .map(|load| load.wait_with_output().unwrap())
            .collect();
        let mut expected = Vec::new();
        let mut loaded = Vec::new();
        for (index, output) in outputs.iter().enumerate() {
            if output.status.success() {
                done += 1;
                loaded.push(format!("fix_{}", functions[index]));
                expected.push("100".to_owned());
            } else {
                told += 1;
                is_told(output);
                expected.push((index + 1).to_string());
            }
        }
        assert!(
            !loaded.is_empty(),
            "one of them must come through: {outputs:?}"
        );
        assert_eq!(scene.program.ask("ask"), expected.join(" "));
        let status = scene.status();
        let patches = status["patches"].as_array().unwrap();
        let mut names: Vec<&str> = patches
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, loaded);
        for name in loaded {
            scene.program.run_to(0, &["disable", &name, "--any-order"]);
            scene.program.run_to(0, &["unload", &name]);
        }
        assert_eq!(scene.program.ask("ask"), "1 2 3");
    }
    println!("{done} came through, {told} were told");
    assert!(told > 0, "they never met");
}

#[test]
fn while_one_waits_for_a_transition() {
    let mut scene = Scene::set();
    let [slow, fix] = ["linger", "first"].map(|function| scene.module(function));
    let waiting = scene.start(&["load", &slow, "--timeout", "600"]);
    let deadline = Instant::now() + Duration::from_secs(100);
    // The thread may have been borrowed for the init function and be on its way back at first.
    while scene.status()["transition"]["blockers"][0]["function"] != "linger" {
        assert!(Instant::now() < deadline, "it does not begin");
    }
    for command in [
        &["load", &*fix][..],
        &["check", &fix],
        &["enable", "fix_linger"],
        &["disable", "fix_linger"],
        &["unload", "fix_linger"],
        &["force"],
    ] {
        is_told(&scene.program.run(command));
    }
    // Those who only look are not in the way.
    let transition = &scene.status()["transition"];
    assert_eq!(transition["patch"], "fix_linger", "{transition}");
    assert_eq!(
        transition["blockers"][0]["function"], "linger",
        "{transition}"
    );
    let log = stdout(&scene.program.run_to(0, &["log"]));
    assert!(
        log.contains("'fix_linger': starting patching transition"),
        "{log}"
    );
    scene.program.run_to(0, &["list"]);
    assert_eq!(scene.program.ask("leave"), "1 2 3");
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.status()["transition"], Value::Null);
    scene.program.run_to(0, &["load", &fix]);
    assert_eq!(scene.program.ask("ask"), "100 2 3");
}
