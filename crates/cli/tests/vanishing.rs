//! The target may end, or become another program, at any moment of a command.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use support::{Program, Workshop, livepatch, stderr, stdout};

/// Besides answering, "exit N" and "exec N" make another thread do so after N microseconds.
/// Some threads sleep, one spins in the function that is patched.
const PROGRAM: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/prctl.h>
volatile int secret = 7;
__attribute__((noinline)) int answer(int question) { return question + secret; }
static char line[64];
static void *sleeping(void *x) { for (;;) pause(); return x; }
static void *spinning(void *x) { for (volatile long i = 0;; i++) answer((int)i); return x; }
static void *vanishing(void *x)
{
	char *self[] = { "program", NULL };
	usleep(atoi(line + 5));
	if (line[2] == 'i')
		_exit(0);
	execv("/proc/self/exe", self);
	abort();
	return x;
}
int main(void)
{
	pthread_t thread;
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	for (int i = 0; i < 3; i++)
		pthread_create(&thread, NULL, sleeping, NULL);
	pthread_create(&thread, NULL, spinning, NULL);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == 'e') {
			pthread_create(&thread, NULL, vanishing, NULL);
			continue;
		}
		printf("%d\n", answer((int)strlen(line) - 1));
		fflush(stdout);
	}
	return 0;
}
"#;

/// Runs commands on a target that vanishes after ever longer times.
fn vanish(word: &str, mut then: impl FnMut(Program, bool)) {
    let workshop = Workshop::new();
    let path = workshop.program("program", PROGRAM, &["-pthread"]);
    let code = "static int new_answer(int question) { return question * 100; }";
    let module = workshop.module("fix", &livepatch(code, &[("answer", "new_answer")], ""));
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for step in 0..50 {
        let mut program = Program::start(&path);
        assert_eq!(program.ask("abc"), "10");
        let delay = Duration::from_micros(1700) * step;
        program.tell(&format!("{word} {}", delay.as_micros()));
        let mut loaded = false;
        let mut disabled = true;
        for command in [
            &["load", &*module][..],
            &["disable", "fix"],
            &["unload", "fix"],
            &["status"],
        ] {
            let output = program.run(command);
            let said = stderr(&output);
            let outcome = match output.status.code() {
                Some(0) => "done",
                Some(1) if said.contains("no such process") => "gone",
                Some(1) if said.contains("has executed another program") => "replaced",
                Some(1) if said.contains("its first thread has ended") => "on its way",
                // An earlier command of the series has hit the old program.
                Some(1) if said.contains("nothing is loaded into it") => "fresh",
                // The program is on its way, but still the one that could not be worked on.
                Some(1) if said.contains("is in use") && !disabled => "on its way",
                // The load was under way when the program was.
                Some(1) if said.contains("is not loaded") && !loaded => "on its way",
                code => panic!("{command:?} after {delay:?}: {code:?}: {said}"),
            };
            let named = said.contains(&format!("process {}", program.pid()));
            assert!(
                outcome == "done" || named || said.contains("patch 'fix'"),
                "{said}"
            );
            disabled &= command[0] != "disable" || outcome == "done";
            loaded |= command[0] == "load" && outcome == "done";
            *outcomes.entry(outcome).or_default() += 1;
        }
        then(program, loaded);
    }
    println!("{word}: {outcomes:?}");
    let vanished: usize = ["gone", "replaced", "on its way", "fresh"]
        .iter()
        .filter_map(|outcome| outcomes.get(outcome))
        .sum();
    assert!(
        vanished > 20,
        "it hardly ever vanished in time: {outcomes:?}"
    );
}

#[test]
fn by_exit() {
    // `finish` wants an orderly end: no signal has killed it.
    vanish("exit", |program, _| program.finish());
}

#[test]
fn by_exec() {
    vanish("exec", |mut program, loaded| {
        assert_eq!(program.line(), "ready");
        assert_eq!(program.ask("abc"), "10");
        let status = program.run_to(0, &["status"]);
        assert!(stdout(&status).contains("no patches"), "{status:?}");
        let maps = fs::read_to_string(format!("/proc/{}/maps", program.pid())).unwrap();
        // What was loaded completely may have been so after the exec.
        assert!(loaded || !maps.contains("engraft"), "{maps}");
        program.finish();
    });
}
