//! Thread-local variables of the program and of libraries.

use crate::support::answers::{Case, comes_and_goes, livepatch};
use crate::support::{Program, Workshop};

/// A variable of the executable, one of a library, a local one of each, used by two threads.
/// A third of the library is large, so that offsets differ from addresses.
const LIBRARY: &str = r#"
__thread char room[300] = "room";
__thread int of_library = 20;
static __thread int local_of_library = 30;
int *library_places(int which) { return which ? &local_of_library : &of_library; }
"#;

const PROGRAM: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
__thread int of_program = 1;
static __thread int local_of_program = 2;
__attribute__((noipa)) int *program_places(int which)
{
	return which ? &local_of_program : &of_program;
}
int *library_places(int which);
__attribute__((noipa)) int sum(void) { return 0; }
static char text[64];
static void *other_thread(void *unused)
{
	*program_places(0) = 1000;
	*program_places(1) = 2000;
	*library_places(0) = 3000;
	*library_places(1) = 4000;
	sprintf(text, "%d", sum());
	return unused;
}
void reply(const char *question)
{
	pthread_t thread;
	*program_places(0) = atoi(question);
	pthread_create(&thread, NULL, other_thread, NULL);
	pthread_join(thread, NULL);
	printf("%d %s", sum(), text);
}
"#;

const PATCH: &str = r#"
extern __thread int of_program, local_of_program, of_library;
KLP_SYM(local_of_library, "libown", "local_of_library", 0);
extern __thread int local_of_library;
static int new_sum(void)
{
	return of_program + local_of_program + of_library + local_of_library;
}
"#;

const CASE: Case<'_> = ("5", "0 0", "57 10000");

fn variables_of(library_flags: &[&str], patch_flags: &[&str]) {
    let workshop = Workshop::new();
    workshop.write("own.c", LIBRARY);
    let arguments = [&["-O2", "-shared", "-fPIC", "own.c"], library_flags].concat();
    workshop.build("cc", "libown.so", &arguments);
    let flags = ["-L.", "-lown", "-pthread", "-Wl,-rpath,$ORIGIN"];
    let path = workshop.answering("cc", "program", PROGRAM, &flags);
    let source = livepatch(PATCH, &[("sum", "new_sum")]);
    let module = workshop.module_with("tls", &source, patch_flags);
    let mut program = Program::start(&path);
    comes_and_goes(&mut program, "tls", &module, &[CASE]);
    program.finish();
}

#[test]
fn tls_of_a_library_at_a_fixed_distance() {
    variables_of(&["-ftls-model=initial-exec"], &[]);
}

#[test]
fn tls_of_a_library_that_asks_for_its_places() {
    variables_of(&[], &[]);
}

#[test]
fn tls_of_a_static_executable() {
    let workshop = Workshop::new();
    workshop.write("own.c", LIBRARY);
    let flags = ["-static", "-pthread", "own.c"];
    let path = workshop.answering("cc", "program", PROGRAM, &flags);
    let patch = PATCH.replace("\"libown\"", "\"vmlinux\"");
    let module = workshop.module("tls", &livepatch(&patch, &[("sum", "new_sum")]));
    let mut program = Program::start(&path);
    comes_and_goes(&mut program, "tls", &module, &[CASE]);
    program.finish();
}
