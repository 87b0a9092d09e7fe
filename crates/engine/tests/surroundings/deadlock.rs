//! Threads that are in the allocator nearly all of the time, and a patch whose init, callbacks
//! and code need it: whoever is borrowed must not hold its lock.

use engraft_engine::Engine;

use crate::support::answers::livepatch;
use crate::support::{Program, Workshop, load, settle};

/// One arena for all threads, so that they contend for one lock.
const PROGRAM: &str = r#"
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
__attribute__((noipa)) int answer(int x) { return x + 1; }
static void *allocate(void *unused)
{
	void *kept[64] = { 0 };
	for (unsigned turn = 1;; turn = turn * 1103515245 + 12345) {
		void **slot = &kept[turn >> 16 & 63];
		free(*slot);
		*slot = malloc(2000 + (turn >> 8 & 0xffff));
		memset(*slot, 1, 64);
	}
	return unused;
}
void reply(const char *question)
{
	static int started;
	pthread_t thread;
	if (!started++) {
		mallopt(M_ARENA_MAX, 1);
		for (int i = 0; i < 3; i++)
			pthread_create(&thread, NULL, allocate, NULL);
	}
	printf("%d", answer(atoi(question)));
}
"#;

const PATCH: &str = r#"
#include <stdlib.h>
static int new_answer(int x)
{
	int *memory = malloc(4000);
	*memory = x * 10;
	int result = *memory;
	free(memory);
	return result;
}
static int use_allocator(struct klp_object *obj)
{
	for (size_t size = 1000; size < 20000; size += 1000)
		free(malloc(size));
	return 0;
}
static void use_it_again(struct klp_object *obj) { use_allocator(obj); }
"#;

#[test]
fn deadlock() {
    let workshop = Workshop::new();
    let path = workshop.answering("cc", "program", PROGRAM, &["-pthread"]);
    let source = livepatch(PATCH, &[("answer", "new_answer")]).replace(
        ".funcs = funcs }",
        ".funcs = funcs, .callbacks = { .pre_patch = use_allocator, .post_patch = use_it_again,\n\
         \t.pre_unpatch = use_it_again, .post_unpatch = use_it_again } }",
    );
    let module = workshop.module("deadlock", &source);
    let mut program = Program::start(&path);
    assert_eq!(program.ask("4"), "5");
    let mut engine = Engine::open(program.pid()).expect("open");
    for _ in 0..10 {
        load(&mut engine, "deadlock", &module, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("4"), "40");
        engine.disable("deadlock", false).expect("disable");
        settle(&mut engine);
        assert_eq!(program.ask("4"), "5");
        engine.unload("deadlock").expect("unload");
    }
    drop(engine);
    assert!(program.is_running());
}
