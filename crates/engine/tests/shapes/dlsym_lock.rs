//! A thread that holds the loader's lock, because a constructor does not return: the patch is
//! loaded all the same, on another thread; when there is no other, it is refused.

use engraft_engine::Engine;
use nix::errno::Errno;

use crate::support::answers::livepatch;
use crate::support::{Program, Workshop, load, settle};

/// Its constructor waits for a byte in the pipe whose descriptor the environment tells.
const LIBRARY: &str = r#"
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void wait_for_byte(void)
{
	char byte;
	write(2, "inside\n", 7);
	read(atoi(getenv("GATE")), &byte, 1);
}
int late(void) { return 1; }
"#;

const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int gate[2];
static volatile int one = 1;
__attribute__((noipa)) int answer(int x) { return x + one; }
static void *open_library(void *unused)
{
	void *library = dlopen("./liblate.so", RTLD_NOW);
	void *late = library ? dlsym(library, "late") : NULL;
	write(2, late ? "outside\n" : "failed\n", late ? 8 : 7);
	return unused;
}
int main(void)
{
	char line[64];
	pthread_t thread;
	char text[16];
	pipe(gate);
	sprintf(text, "%d", gate[0]);
	setenv("GATE", text, 1);
	setvbuf(stdin, NULL, _IONBF, 0);
	write(2, "ready\n", 6);
	while (fgets(line, sizeof(line), stdin)) {
		if (strncmp(line, "thread", 6) == 0)
			pthread_create(&thread, NULL, open_library, NULL);
		else if (strncmp(line, "main", 4) == 0)
			open_library(NULL);
		else if (strncmp(line, "go", 2) == 0)
			write(gate[1], "x", 1);
		else
			dprintf(2, "%d\n", answer(atoi(line)));
	}
	return 0;
}
"#;

/// Init, callbacks and code use what takes locks of the allocator and of stdio.
const PATCH: &str = r#"
#include <stdio.h>
#include <stdlib.h>
static int new_answer(int x)
{
	char text[32];
	snprintf(text, sizeof(text), "%d", x * 10);
	return atoi(text);
}
static int pre_patch(struct klp_object *obj)
{
	void *memory = malloc(100000);
	free(memory);
	return memory ? 0 : -12;
}
"#;

fn prepare() -> (Workshop, Program, Vec<u8>) {
    let workshop = Workshop::new();
    workshop.write("late.c", LIBRARY);
    workshop.build("cc", "liblate.so", &["-O2", "-shared", "-fPIC", "late.c"]);
    workshop.write("program.c", PROGRAM);
    let arguments = ["-O2", "-g", "-pthread", "program.c", "-ldl"];
    let path = workshop.build("cc", "program", &arguments);
    let source = livepatch(PATCH, &[("answer", "new_answer")]).replace(
        ".funcs = funcs }",
        ".funcs = funcs, .callbacks = { .pre_patch = pre_patch } }",
    );
    let module = workshop.module("dlsym_lock", &source);
    let mut command = std::process::Command::new(path);
    command.current_dir(workshop.path(""));
    let program = Program::start_sample(command);
    assert_eq!(program.line(), "ready");
    (workshop, program, module)
}

#[test]
fn dlsym_lock() {
    let (_workshop, mut program, module) = prepare();
    assert_eq!(program.ask("5"), "6");
    assert_eq!(program.ask("thread"), "inside");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "dlsym_lock", &module, &[]).expect("load");
    // The thread with the lock is in no old function: it is switched like any other.
    settle(&mut engine);
    assert_eq!(program.ask("5"), "50");
    engine.disable("dlsym_lock", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask("5"), "6");
    engine.unload("dlsym_lock").expect("unload");
    drop(engine);
    assert_eq!(program.ask("go"), "outside");
    program.finish();
}

#[test]
fn dlsym_lock_held_by_the_only_thread() {
    let (_workshop, mut program, module) = prepare();
    assert_eq!(program.ask("main"), "inside");
    let mut engine = Engine::open(program.pid()).expect("open");
    let refused = load(&mut engine, "dlsym_lock", &module, &[]).expect_err("nobody to borrow");
    assert_eq!(refused.errno(), Errno::EBUSY, "{refused}");
    assert!(refused.to_string().contains("lock"), "{refused}");
    drop(engine);
    // Another process lets it out.
    let gate = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/fd/4", program.pid()));
    std::io::Write::write_all(&mut gate.expect("the pipe"), b"x").expect("write");
    assert_eq!(program.line(), "outside");
    assert_eq!(program.ask("5"), "6");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "dlsym_lock", &module, &[]).expect("load");
    settle(&mut engine);
    assert_eq!(program.ask("5"), "50");
    drop(engine);
    program.finish();
}
