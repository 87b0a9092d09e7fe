//! A thread that is deep in a recursion goes on with the old function on all levels, however
//! often that is entered, until it has left the last one.

use engraft_engine::Engine;

use crate::support::answers::{livepatch, wait_for_blocker};
use crate::support::{Program, Workshop, load, settle};

/// `down` waits on its deepest level, where it reads how much further to go.
const PROGRAM: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int orders[2], results[2];
__attribute__((noipa)) int ask_for_more(long tag)
{
	int more = 0;
	write(results[1], &tag, sizeof(tag));
	read(orders[0], &more, sizeof(more));
	return more;
}
__attribute__((noipa)) long down(long levels)
{
	if (levels > 0)
		return down(levels - 1) + 1;
	int more = ask_for_more(-1);
	return more ? down(more - 1) + 1 : 1;
}
static void *work(void *unused)
{
	int levels;
	while (read(orders[0], &levels, sizeof(levels)) > 0) {
		long result = down(levels - 1);
		write(results[1], &result, sizeof(result));
	}
	return unused;
}
void reply(const char *question)
{
	static pthread_t thread;
	int number = atoi(question);
	long result;
	if (!thread) {
		pipe(orders);
		pipe(results);
		pthread_create(&thread, NULL, work, NULL);
	}
	write(orders[1], &number, sizeof(number));
	read(results[0], &result, sizeof(result));
	printf("%ld", result);
}
"#;

/// Each level counts a million.
const PATCH: &str = r#"
extern int ask_for_more(long tag);
/* Enters itself through the old name: every level passes the redirect. */
extern long down(long levels);
static long new_down(long levels)
{
	if (levels > 0)
		return down(levels - 1) + 1000000;
	int more = ask_for_more(-2);
	return more ? down(more - 1) + 1000000 : 1000000;
}
"#;

fn recursion_of(levels: i64, flags: &[&str]) {
    let workshop = Workshop::new();
    let flags = [&["-pthread"], flags].concat();
    let path = workshop.answering("cc", "program", PROGRAM, &flags);
    let module = workshop.module("recursion", &livepatch(PATCH, &[("down", "new_down")]));
    let mut program = Program::start(&path);
    let mut engine = Engine::open(program.pid()).expect("open");
    let (old, new) = (levels.to_string(), (levels * 1_000_000).to_string());
    assert_eq!(program.ask(&old), "-1");
    load(&mut engine, "recursion", &module, &[]).expect("load");
    wait_for_blocker(&mut engine, "down");
    // As many levels again, all of them old.
    assert_eq!(program.ask(&old), "-1");
    wait_for_blocker(&mut engine, "down");
    assert_eq!(program.ask("0"), (levels * 2).to_string());
    settle(&mut engine);
    // All of them new, and deep in new code the patch cannot go.
    assert_eq!(program.ask(&old), "-2");
    engine.disable("recursion", false).expect("disable");
    wait_for_blocker(&mut engine, "down");
    assert_eq!(program.ask("0"), new);
    settle(&mut engine);
    assert_eq!(program.ask(&old), "-1");
    assert_eq!(program.ask("0"), old);
    drop(engine);
    program.finish();
}

#[test]
fn recursion() {
    recursion_of(3, &[]);
}

#[test]
fn recursion_beyond_what_a_stack_walk_follows() {
    recursion_of(20_000, &[]);
}

/// Without call frame information the instructions of the program's functions tell where their
/// return addresses are.
#[test]
fn recursion_without_unwind_tables() {
    let flags = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    recursion_of(3, &flags);
}
