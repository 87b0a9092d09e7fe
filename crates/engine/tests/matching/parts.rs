//! Parts that a compiler splits off a function belong to it.

use std::process::Command;

use crate::pre_code::{Plan, list_symbols, read_objects};
use crate::support::{Program, Workshop};
use crate::variants::examine;

const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
static volatile int done;
__attribute__((cold, noinline)) static void rest(const char *why)
{
	char line[64];
	puts(why);
	fflush(stdout);
	done += fgets(line, sizeof line, stdin) != NULL;
}
__attribute__((noinline)) int work(int n)
{
	if (n == 3) {
		rest("resting");
		return done * 100;
	}
	return n + done;
}
int main(void)
{
	char line[64];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%d\n", work((int)strlen(line) - 1));
		fflush(stdout);
	}
	return 0;
}
"#;

const PATCH: &str = r#"
#include <linux/module.h>
#include <linux/livepatch.h>
static int new_work(int n) { return -n; }
static struct klp_func funcs[] = { { .old_name = "work", .new_func = new_work }, {} };
static struct klp_object objs[] = { { .funcs = funcs }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int init(void) { return klp_enable_patch(&patch); }
static void leave(void) { }
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

#[test]
fn a_thread_in_the_cold_part_is_in_the_function() {
    let workshop = Workshop::new();
    workshop.write("program.c", PROGRAM);
    let objects = workshop.compile_pre("gcc", &["program.c"], &["-O2"]);
    let plan = Plan {
        replaced: &[("work", "")],
        ..Plan::default()
    };
    let code = read_objects(&objects, &plan);
    assert_eq!(code.functions[0].cold.len(), 1);
    let module = workshop.matched_module("fix", PATCH, &code);
    let path = workshop.build("gcc", "program", &["-O2", "program.c"]);
    let cold = list_symbols(&path)["work.cold"][0];
    let status = Command::new("strip").arg("-s").arg(&path).status();
    assert!(status.expect("strip").success());
    let mut program = Program::start(&path);
    assert_eq!(program.ask("ab"), "2");
    let report = examine(program.pid(), "fix", &module);
    assert_eq!(
        (report.problems, report.would_block),
        (Vec::new(), Vec::new())
    );
    assert_eq!(program.ask("abc"), "resting");
    let report = examine(program.pid(), "fix", &module);
    let [blocker] = &report.would_block[..] else {
        panic!("{report:?}");
    };
    assert_eq!(blocker.function.as_deref(), Some("work"));
    let inside = |frame: &String| {
        let address = frame
            .split(' ')
            .next()
            .and_then(|text| text.strip_prefix("0x"));
        let address = address.and_then(|text| u64::from_str_radix(text, 16).ok());
        address.is_some_and(|it| (cold..cold + 32).contains(&it))
    };
    assert!(blocker.stack.iter().any(inside), "{blocker:?}");
    assert_eq!(program.ask(""), "100");
    program.finish();
}
