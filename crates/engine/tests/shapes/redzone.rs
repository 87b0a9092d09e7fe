//! Leaf functions that keep their variables below the stack pointer. Every thread of the
//! program spins in one, so that each stop, and each borrowing of a thread, hits one.

use engraft_engine::Engine;

use crate::support::answers::livepatch;
use crate::support::{Program, Workshop, load, settle};

/// Answers with how often the leaf has given an old, a new and a wrong result since the last
/// question.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static atomic_long counts[3];
__attribute__((noipa)) long leaf(long seed)
{
	volatile long red[14];
	for (int i = 0; i < 14; i++)
		red[i] = seed + i;
	for (int turn = 0; turn < 20; turn++)
		for (int i = 0; i < 14; i++)
			red[i] ^= red[(i + 1) % 14] ^ red[(i + 1) % 14];
	long sum = 0;
	for (int i = 0; i < 14; i++)
		sum += red[i] - seed;
	return sum;
}
static void count(long seed)
{
	long sum = leaf(seed);
	atomic_fetch_add(&counts[sum == 91 ? 0 : sum == -91 ? 1 : 2], 1);
}
static void *spin(void *unused)
{
	for (long seed = 1;; seed++)
		count(seed);
	return unused;
}
int main(void)
{
	char byte;
	pthread_t thread;
	fcntl(0, F_SETFL, O_NONBLOCK);
	puts("ready");
	fflush(stdout);
	pthread_create(&thread, NULL, spin, NULL);
	for (long seed = 1;; seed++) {
		count(seed);
		if (seed % 512)
			continue;
		ssize_t length = read(0, &byte, 1);
		if (length == 0)
			exit(0);
		if (length < 0 || byte != '\n')
			continue;
		for (int i = 0; i < 3; i++)
			atomic_store(&counts[i], 0);
		for (int i = 0; i < 2000; i++)
			count(seed + i);
		printf("%s %s %ld\n", atomic_load(&counts[0]) ? "old" : "-",
		       atomic_load(&counts[1]) ? "new" : "-", atomic_load(&counts[2]));
		fflush(stdout);
	}
}
"#;

const PATCH: &str = r#"
static long new_leaf(long seed)
{
	volatile long red[15];
	long sum = 0;
	for (int i = 0; i < 15; i++)
		red[i] = seed - i;
	for (int turn = 0; turn < 20; turn++)
		for (int i = 0; i < 15; i++)
			red[i] ^= red[(i + 1) % 15] ^ red[(i + 1) % 15];
	for (int i = 0; i < 14; i++)
		sum += red[i] - seed;
	return sum;
}
static int pre_patch(struct klp_object *obj) { return obj->mod ? 1 : 0; }
"#;

#[test]
fn redzone() {
    let workshop = Workshop::new();
    workshop.write("program.c", PROGRAM);
    let arguments = ["-O2", "-g", "-pthread", "program.c"];
    let path = workshop.build("cc", "program", &arguments);
    // The leaf needs the red zone, or the test shows nothing.
    let code = std::process::Command::new("objdump")
        .args(["-d", "--disassemble=leaf"])
        .arg(&path)
        .output()
        .expect("objdump");
    let code = String::from_utf8_lossy(&code.stdout).into_owned();
    assert!(code.contains("(%rsp"), "{code}");
    assert!(
        !code.contains(",%rsp"),
        "it moves its stack pointer: {code}"
    );
    let source = livepatch(PATCH, &[("leaf", "new_leaf")]);
    // A callback, so that a thread in the leaf is borrowed once more.
    let source = source.replace(
        ".funcs = funcs }",
        ".funcs = funcs, .callbacks = { .pre_patch = pre_patch } }",
    );
    let module = workshop.module("redzone", &source);
    let mut program = Program::start(&path);
    let mut engine = Engine::open(program.pid()).expect("open");
    assert_eq!(program.ask(""), "old - 0");
    for _ in 0..4 {
        load(&mut engine, "redzone", &module, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask(""), "- new 0");
        engine.disable("redzone", false).expect("disable");
        settle(&mut engine);
        assert_eq!(program.ask(""), "old - 0");
        engine.unload("redzone").expect("unload");
    }
    drop(engine);
    program.finish();
}
