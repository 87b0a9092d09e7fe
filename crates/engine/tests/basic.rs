//! A patch comes and goes in programs of every kind.

mod support;

use engraft_engine::{Engine, PatchState, read_status};
use support::{Program, Workshop, load, log_of, settle};

const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
static volatile int secret = 7;
__attribute__((noinline)) int answer(int question) { return question + secret; }
__attribute__((noinline)) const char *greeting(void) { return "hello"; }
int main(void)
{
	char line[64];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%s %d\n", greeting(), answer((int)strlen(line) - 1));
		fflush(stdout);
	}
	return 0;
}
"#;

const PATCH: &str = r#"
#include <linux/module.h>
#include <linux/livepatch.h>
extern volatile int secret;
static int replaced_answer(int question) { return question * 100 + secret; }
static struct klp_func funcs[] = { { .old_name = "answer", .new_func = replaced_answer }, {} };
static struct klp_object objs[] = { { .funcs = funcs }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int init(void) { return klp_enable_patch(&patch); }
static void leave(void) { pr_info("bye\n"); }
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

fn comes_and_goes(workshop: &Workshop, compiler: &str, flags: &[&str]) {
    workshop.write("program.c", PROGRAM);
    let mut arguments = vec!["program.c", "-O2"];
    arguments.extend(flags);
    let path = workshop.build(compiler, "program", &arguments);
    let module = workshop.module("times_hundred", PATCH);
    let mut program = Program::start(&path);
    assert_eq!(program.ask("abc"), "hello 10");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "times_hundred", &module, &[]).expect("load");
    settle(&mut engine);
    assert_eq!(program.ask("abc"), "hello 307", "{compiler} {flags:?}");
    let status = read_status(program.pid()).expect("status");
    assert_eq!(status.patches[0].state, PatchState::Enabled);
    engine.disable("times_hundred", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask("abc"), "hello 10");
    engine.unload("times_hundred").expect("unload");
    drop(engine);
    assert_eq!(
        log_of(program.pid()),
        [
            "livepatch: enabling patch 'times_hundred'",
            "livepatch: 'times_hundred': initializing patching transition",
            "livepatch: 'times_hundred': starting patching transition",
            "livepatch: 'times_hundred': completing patching transition",
            "livepatch: 'times_hundred': patching complete",
            "livepatch: 'times_hundred': initializing unpatching transition",
            "livepatch: 'times_hundred': starting unpatching transition",
            "livepatch: 'times_hundred': completing unpatching transition",
            "livepatch: 'times_hundred': unpatching complete",
            "bye",
        ]
    );
    program.finish();
}

#[test]
fn in_a_position_independent_executable() {
    comes_and_goes(&Workshop::new(), "cc", &["-fPIE", "-pie"]);
}

#[test]
fn in_an_executable_at_a_fixed_address() {
    comes_and_goes(&Workshop::new(), "cc", &["-fno-pie", "-no-pie"]);
}

#[test]
fn in_a_static_executable() {
    comes_and_goes(&Workshop::new(), "cc", &["-static"]);
}

#[test]
fn in_a_musl_executable() {
    comes_and_goes(&Workshop::new(), "musl-gcc", &[]);
}

#[test]
fn in_a_static_musl_executable() {
    comes_and_goes(&Workshop::new(), "musl-gcc", &["-static"]);
}
