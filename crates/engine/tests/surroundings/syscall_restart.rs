//! Calls that a stop cuts short and that the kernel does not restart by itself, or restarts with
//! less time left: each returns what it would have returned, when it would have.

use std::time::{Duration, Instant};

use engraft_engine::Engine;

use crate::support::answers::livepatch;
use crate::support::{Program, Workshop, load, settle};

/// Threads that are in one kind of call all of the time, and what they have to complain about.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static atomic_int complaints, rounds;
__attribute__((noipa)) int answer(int x) { return x + 1; }
static long long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}
static void *wait_for_ever(void *kind)
{
	const struct timespec moment = { 0, 30000000 };
	int never = epoll_create1(0), word = 0;
	sem_t semaphore;
	sem_init(&semaphore, 0, 0);
	for (;;) {
		long long start = now();
		int bad = 0;
		switch ((long)kind) {
		case 0: bad = nanosleep(&moment, NULL) != 0; break;
		case 1: bad = poll(NULL, 0, 30) != 0; break;
		case 2: {
			struct epoll_event event;
			bad = epoll_wait(never, &event, 1, 30) != 0;
			break;
		}
		case 3:
			bad = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &moment, NULL, 0) != -1 ||
			      errno != ETIMEDOUT;
			break;
		case 4: {
			struct timespec end;
			clock_gettime(CLOCK_REALTIME, &end);
			end.tv_nsec += 30000000;
			if (end.tv_nsec >= 1000000000)
				end.tv_sec++, end.tv_nsec -= 1000000000;
			bad = sem_timedwait(&semaphore, &end) != -1 || errno != ETIMEDOUT;
			break;
		}
		}
		/* The wall clock of case 4 may be set; the others go by the monotonic one. */
		if (bad || ((long)kind != 4 && now() - start < 29000000))
			complaints++;
		rounds++;
	}
	return NULL;
}
void reply(const char *question)
{
	pthread_t thread;
	if (strcmp(question, "start") == 0)
		for (long kind = 0; kind < 5; kind++)
			pthread_create(&thread, NULL, wait_for_ever, (void *)kind);
	if (strcmp(question, "complaints") == 0)
		printf("%d in %s", complaints, rounds > 100 ? "many" : "few");
	else
		printf("%d", answer(4));
}
"#;

#[test]
fn syscall_restart() {
    let workshop = Workshop::new();
    let path = workshop.answering("cc", "program", PROGRAM, &["-pthread"]);
    let source = livepatch(
        "static int new_answer(int x) { return x * 10; }",
        &[("answer", "new_answer")],
    );
    let module = workshop.module("syscall_restart", &source);
    let mut program = Program::start(&path);
    assert_eq!(program.ask("start"), "5");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let mut engine = Engine::open(program.pid()).expect("open");
        load(&mut engine, "syscall_restart", &module, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("answer"), "40");
        engine.disable("syscall_restart", false).expect("disable");
        settle(&mut engine);
        assert_eq!(program.ask("answer"), "5");
        engine.unload("syscall_restart").expect("unload");
    }
    assert_eq!(program.ask("complaints"), "0 in many");
    program.finish();
}
