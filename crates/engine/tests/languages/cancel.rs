//! Threads that are cancelled inside patched functions: every cleanup handler runs, those of
//! the replacement and those of the original functions around it.

use engraft_engine::Engine;

use crate::support::answers::livepatch;
use crate::support::{Program, Workshop, load, settle};

const PROGRAM: &str = r#"
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <unistd.h>
static char cleaned[16];
static int count;
static sem_t inside;
__attribute__((noipa)) void note(void *name) { cleaned[count++] = *(const char *)name; }
__attribute__((noipa)) void wait_inside(void)
{
	sem_post(&inside);
	for (;;)
		pause();
}
__attribute__((noipa)) int work(int x)
{
	pthread_cleanup_push(note, "o");
	wait_inside();
	pthread_cleanup_pop(0);
	return x;
}
__attribute__((noipa)) void *thread(void *unused)
{
	pthread_cleanup_push(note, "t");
	work(1);
	pthread_cleanup_pop(0);
	return unused;
}
void reply(const char *question)
{
	pthread_t id;
	void *result;
	(void)question;
	sem_init(&inside, 0, 0);
	count = 0;
	pthread_create(&id, NULL, thread, NULL);
	sem_wait(&inside);
	pthread_cancel(id);
	pthread_join(id, &result);
	printf("%s %.*s", result == PTHREAD_CANCELED ? "cancelled" : "returned", count, cleaned);
}
"#;

/// The attribute works through unwinding alone.
const UNWINDING_PATCH: &str = r#"
extern void note(void *name);
extern void wait_inside(void);
static void note_own(int *unused) { note("n"); }
static int new_work(int x)
{
	__attribute__((cleanup(note_own))) int guard = 0;
	wait_inside();
	return x;
}
"#;

/// Without -fexceptions the handler is linked into a list.
const LISTING_PATCH: &str = r#"
#include <pthread.h>
extern void note(void *name);
extern void wait_inside(void);
static int new_work(int x)
{
	pthread_cleanup_push(note, "n");
	wait_inside();
	pthread_cleanup_pop(0);
	return x;
}
"#;

const PLAIN_PATCH: &str = r#"
extern void wait_inside(void);
static int new_work(int x) { wait_inside(); return x; }
"#;

fn cancelled_in_a_patched_function(compiler: &str, flags: &[&str], patch: &str) {
    let workshop = Workshop::new();
    let unwinding = flags.contains(&"-fexceptions");
    let flags = [&["-pthread"], flags].concat();
    let path = workshop.answering(compiler, "program", PROGRAM, &flags);
    let module = workshop.module_with(
        "cancel",
        &livepatch(patch, &[("work", "new_work")]),
        if unwinding { &["-fexceptions"] } else { &[] },
    );
    let mut program = Program::start(&path);
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "cancel", &module, &[]).expect("load");
    settle(&mut engine);
    let new = if patch == PLAIN_PATCH {
        "cancelled t"
    } else {
        "cancelled nt"
    };
    assert_eq!(program.ask("?"), new);
    assert_eq!(program.ask("?"), new);
    engine.disable("cancel", false).expect("disable");
    settle(&mut engine);
    engine.unload("cancel").expect("unload");
    assert_eq!(program.ask("?"), "cancelled ot");
    drop(engine);
    program.finish();
}

#[test]
fn cancel() {
    cancelled_in_a_patched_function("cc", &["-fexceptions"], UNWINDING_PATCH);
}

#[test]
fn cancel_in_a_static_executable() {
    let flags = ["-fexceptions", "-static"];
    cancelled_in_a_patched_function("cc", &flags, UNWINDING_PATCH);
}

#[test]
fn cancel_with_listed_handlers() {
    cancelled_in_a_patched_function("cc", &[], LISTING_PATCH);
}

#[test]
fn cancel_in_a_musl_executable() {
    cancelled_in_a_patched_function("musl-gcc", &[], PLAIN_PATCH);
}
