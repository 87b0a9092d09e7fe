//! A debugger sees patched functions and unwinds through them, given the symbol file.

mod support;

use std::path::Path;
use std::process::Command;

use engraft_engine::{Engine, read_symbol_file};
use nix::errno::Errno;
use support::answers::livepatch;
use support::{Program, Workshop, load, settle};

/// `inner` stays inside its callers until it gets a line.
const PROGRAM: &str = r#"
#include <stdio.h>
#define SEPARATE __attribute__((noipa))
volatile int one = 1;
char line[64];
SEPARATE int inner(int x)
{
	puts("inside");
	fflush(stdout);
	return fgets(line, sizeof line, stdin) ? x * one : 0;
}
SEPARATE int middle(int x)
{
	int several[20];
	for (int i = 0; i < 20; i++)
		several[i] = i + x;
	return inner(several[3]) + several[x];
}
SEPARATE int outer(int x) { return middle(x * one) + one; }
int main(void)
{
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%d\n", outer(1));
		fflush(stdout);
	}
	return 0;
}
"#;

const PATCH: &str = r#"
extern volatile int one;
extern int inner(int x);
static int longer(int x)
{
	int several[40];
	for (int i = 0; i < 40; i++)
		several[i] = i * one;
	return inner(several[30]) + several[x];
}
"#;

/// The functions on the stack as gdb sees them.
fn backtrace(pid: i32, symbols: &Path) -> Vec<String> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-p", &pid.to_string(), "-ex"]);
    gdb.arg(format!("add-symbol-file {}", symbols.display()));
    let output = gdb.args(["-ex", "bt"]).output().expect("gdb");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let frames = text.lines().filter(|line| line.starts_with('#'));
    let names = frames.map(|line| {
        let name = line.split_once(" in ").map_or(line, |(_, rest)| rest);
        name.split(' ').next().unwrap_or_default().to_owned()
    });
    names.collect()
}

#[test]
fn gdb_unwinds_through_patched_functions() {
    let workshop = Workshop::new();
    workshop.write("program.c", PROGRAM);
    let path = workshop.build("gcc", "program", &["program.c", "-O2"]);
    let module = workshop.module("longer", &livepatch(PATCH, &[("middle", "longer")]));
    let mut program = Program::start(&path);
    let error = read_symbol_file(program.pid()).expect_err("nothing is loaded");
    assert_eq!(error.errno(), Errno::ENOENT);
    assert!(error.help().is_some());
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "longer", &module, &[]).expect("load");
    settle(&mut engine);
    drop(engine);
    assert_eq!(program.ask("go"), "inside");
    let file = read_symbol_file(program.pid()).expect("symbols");
    let symbols = workshop.path("symbols");
    std::fs::write(&symbols, file).expect("written");
    let names = backtrace(program.pid(), &symbols);
    let ours = names.iter().skip_while(|name| *name != "inner");
    let ours: Vec<&String> = ours.collect();
    assert_eq!(ours, ["inner", "middle", "outer", "main"], "{names:?}");
    assert_eq!(program.ask("on"), "32");
    program.finish();
}
