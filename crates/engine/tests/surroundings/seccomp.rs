//! Programs that have forbidden themselves system calls, and end at the first one: they are
//! patched, and the filter holds as before. A tool that may not lift filters refuses.

use engraft_engine::Engine;
use nix::errno::Errno;
use nix::unistd::geteuid;

use crate::support::answers::{comes_and_goes, livepatch, maps_of};
use crate::support::{Program, Workshop, load};

/// Allows what its main loop needs and nothing that maps memory. `all` filters every thread,
/// `one` only one that is not the leader.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
__attribute__((noipa)) int answer(int x) { return x + 1; }
#define ALLOW(number) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
static void filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_read), ALLOW(SYS_write), ALLOW(SYS_exit_group), ALLOW(SYS_futex),
		ALLOW(SYS_restart_syscall), ALLOW(SYS_clock_nanosleep),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		_exit(3);
}
static void *work(void *unused)
{
	filter();
	for (;;)
		usleep(1000);
	return unused;
}
void reply(const char *question)
{
	pthread_t thread;
	if (strcmp(question, "one") == 0)
		pthread_create(&thread, NULL, work, NULL), usleep(20000);
	if (strcmp(question, "all") == 0)
		filter();
	/* Mapping memory would end it; this only fails. */
	printf("%d %s", answer(4), syscall(SYS_getppid) == -1 ? "filtered" : "free");
}
"#;

const PATCH: &str = r#"
#include <stdlib.h>
static int new_answer(int x) { return x * 10; }
/* Needs memory from the system. */
static int pre_patch(struct klp_object *obj)
{
	void *memory = malloc(1 << 20);
	free(memory);
	return memory ? 0 : -12;
}
"#;

fn prepare(question: &str, first: &str) -> (Workshop, Program, Vec<u8>) {
    let workshop = Workshop::new();
    let path = workshop.answering("cc", "program", PROGRAM, &["-pthread"]);
    let source = livepatch(PATCH, &[("answer", "new_answer")]).replace(
        ".funcs = funcs }",
        ".funcs = funcs, .callbacks = { .pre_patch = pre_patch } }",
    );
    let module = workshop.module("seccomp", &source);
    let mut program = Program::start(&path);
    assert_eq!(program.ask(question), first);
    (workshop, program, module)
}

/// Takes CAP_SYS_ADMIN from the calling thread, for good.
fn drop_admin() {
    const VERSION_3: u32 = 0x2008_0522;
    const SYS_ADMIN: u32 = 21;
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: header and sets are those of capget(2) in version 3, both alive during the calls.
    unsafe {
        assert_eq!(
            libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets),
            0
        );
        sets[0] &= !(1 << SYS_ADMIN);
        assert_eq!(
            libc::syscall(libc::SYS_capset, &raw const header, &raw const sets),
            0
        );
    }
}

#[test]
fn seccomp() {
    for (question, answers) in [
        ("all", ("5 filtered", "40 filtered")),
        ("one", ("5 free", "40 free")),
    ] {
        let (_workshop, mut program, module) = prepare(question, answers.0);
        if geteuid().is_root() {
            let cases = [("", answers.0, answers.1)];
            comes_and_goes(&mut program, "seccomp", &module, &cases);
            program.finish();
        } else {
            refused(&mut program, &module, answers.0);
        }
    }
}

#[test]
fn seccomp_without_the_right_to_lift_it() {
    let (_workshop, mut program, module) = prepare("all", "5 filtered");
    // This test's own thread; it ends with the test.
    drop_admin();
    refused(&mut program, &module, "5 filtered");
    program.finish();
}

fn refused(program: &mut Program, module: &[u8], answer: &str) {
    let maps = maps_of(program.pid());
    let mut engine = Engine::open(program.pid()).expect("open");
    let error = load(&mut engine, "seccomp", module, &[]).expect_err("filters");
    assert_eq!(error.errno(), Errno::EPERM, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("seccomp") && text.contains("CAP_SYS_ADMIN"),
        "{text}"
    );
    drop(engine);
    assert_eq!(maps_of(program.pid()), maps);
    assert_eq!(program.ask(""), answer);
}
