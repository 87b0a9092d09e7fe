//! A program that gets bursts of signals: one may be waiting when a thread begins to run engraft's
//! code, and its handler makes system calls of its own.

use std::fs;

use engraft_engine::Engine;

use crate::support::answers::livepatch;
use crate::support::{Program, Workshop, load, settle};

const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>
static atomic_long signals, last;
static volatile int one = 1;
__attribute__((noipa)) int answer(int x) { return x + one; }
static void arm(void)
{
	/* A pause between bursts lets the program get on when each handler takes its time. */
	long pause = signals % 10 ? 100 : 5000;
	setitimer(ITIMER_REAL, &(struct itimerval){ .it_value = { 0, pause } }, NULL);
}
static void handle(int number)
{
	char byte;
	signals++;
	if (read(-1, &byte, 1) != -1 || write(-1, &byte, 1) != -1)
		_exit(3);
	arm();
}
void reply(const char *question)
{
	struct sigaction action = { .sa_handler = handle, .sa_flags = SA_RESTART };
	if (strcmp(question, "start") == 0) {
		sigaction(SIGALRM, &action, NULL);
		arm();
	}
	printf("%d", answer(4));
	if (strcmp(question, "more") == 0)
		printf(" %s", signals > last ? "more" : "none");
	last = signals;
}
"#;

fn count_descriptors(pid: i32) -> usize {
    let list = fs::read_dir(format!("/proc/{pid}/fd"));
    list.expect("descriptors").count()
}

#[test]
fn signal_storm() {
    let workshop = Workshop::new();
    let path = workshop.answering("cc", "program", PROGRAM, &[]);
    let source = livepatch(
        "static int new_answer(int x) { return x * 10; }",
        &[("answer", "new_answer")],
    );
    let module = workshop.module("signal_storm", &source);
    for _ in 0..40 {
        let mut program = Program::start(&path);
        let pid = program.pid();
        let before = count_descriptors(pid);
        assert_eq!(program.ask("start"), "5");
        let mut engine = Engine::open(pid).expect("open");
        load(&mut engine, "signal_storm", &module, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("more"), "40 more");
        engine.disable("signal_storm", false).expect("disable");
        settle(&mut engine);
        engine.unload("signal_storm").expect("unload");
        assert_eq!(program.ask("more"), "5 more");
        assert_eq!(count_descriptors(pid), before);
        program.finish();
    }
}
