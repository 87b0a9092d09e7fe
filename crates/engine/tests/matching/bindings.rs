//! Functions of other objects: by way of PLT entries and GOT slots, bound or not yet.

use std::process::Command;

use engraft_engine::Engine;

use crate::pre_code::{Plan, read_objects};
use crate::support::{Program, Workshop, load, settle};

const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
unsigned long (*volatile chosen)(const char *) = strlen;
__attribute__((noinline)) int examine(const char *line)
{
	char copy[64];
	if (line[0] == 'x')
		return chosen == strlen ? (int)strtol(line + 1, NULL, 10) + (int)strlen(line) : -1;
	return strncasecmp(line, "abc", 3) + (strchr(line, 'q') != NULL) + (strncpy(copy, line, 9) != copy);
}
int main(void)
{
	char line[64];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%d\n", examine(line));
		fflush(stdout);
	}
	return 0;
}
"#;

const PATCH: &str = r#"
#include <linux/module.h>
#include <linux/livepatch.h>
extern unsigned long (*volatile pre_chosen)(const char *);
extern unsigned long pre_strlen(const char *);
extern long pre_strtol(const char *, char **, int);
extern int pre_strncasecmp(const char *, const char *, unsigned long);
extern char *pre_strchr(const char *, int);
static int new_examine(const char *line)
{
	if (pre_chosen != pre_strlen)
		return -2;
	return 1000 + pre_strtol(line + 1, 0, 10) + pre_strlen(line) + (pre_strchr(line, 'x') == line)
	       + pre_strncasecmp(line, "X4", 2);
}
static struct klp_func funcs[] = { { .old_name = "examine", .new_func = new_examine }, {} };
static struct klp_object objs[] = { { .funcs = funcs }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int init(void) { return klp_enable_patch(&patch); }
static void leave(void) { }
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

/// Functions of the C library, resolved at run time some of them, that the program has called
/// or not when the patch comes, are the same for the new code as for the old.
fn are_found(compiler: &str, flags: &[&str], used: bool) {
    println!("{compiler} {flags:?} {used}");
    let workshop = Workshop::new();
    workshop.write("program.c", PROGRAM);
    let compile: Vec<&str> = flags
        .iter()
        .copied()
        .filter(|flag| !flag.starts_with("-Wl") && *flag != "-pie" && *flag != "-no-pie")
        .collect();
    let mut pre = vec!["-O2", "-fno-builtin"];
    pre.extend(compile);
    let objects = workshop.compile_pre(compiler, &["program.c"], &pre);
    let plan = Plan {
        replaced: &[("examine", "")],
        wanted: &[
            ("chosen", ""),
            ("strlen", ""),
            ("strtol", ""),
            ("strncasecmp", ""),
            ("strchr", ""),
        ],
        ..Plan::default()
    };
    let module = workshop.matched_module("fix", PATCH, &read_objects(&objects, &plan));
    let mut arguments = vec!["-O2", "-fno-builtin", "program.c"];
    arguments.extend(flags);
    let path = workshop.build(compiler, "program", &arguments);
    let status = Command::new("strip").arg("-s").arg(&path).status();
    assert!(status.expect("strip").success());
    let mut program = Program::start(&path);
    if used {
        assert_eq!(program.ask("x40"), "44");
        assert_eq!(program.ask("ABCq"), "1");
    }
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "fix", &module, &[]).expect("load");
    settle(&mut engine);
    assert_eq!(program.ask("x40"), "1045");
    engine.disable("fix", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask("x40"), "44");
    drop(engine);
    program.finish();
}

#[test]
fn functions_that_are_bound_when_they_are_called() {
    for used in [false, true] {
        are_found("gcc", &["-fPIE", "-pie", "-Wl,-z,lazy"], used);
        are_found("gcc", &["-fno-pie", "-no-pie", "-Wl,-z,lazy"], used);
    }
}

#[test]
fn functions_that_are_bound_at_the_start() {
    are_found("gcc", &["-fPIE", "-pie", "-Wl,-z,now"], false);
    are_found("gcc", &["-fno-pie", "-no-pie", "-Wl,-z,now"], false);
    are_found("gcc", &["-fno-plt", "-fPIE", "-pie"], false);
    are_found("clang", &["-fno-pie", "-no-pie"], false);
}

#[test]
fn functions_that_are_linked_in() {
    are_found("gcc", &["-static", "-fno-pie", "-no-pie"], false);
    are_found("musl-gcc", &["-static"], false);
}
