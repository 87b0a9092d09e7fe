//! musl's code has no call frame information: what a thread in it may be holding is told by
//! the words on its stack, and most of these are left over from earlier calls.

use crate::support::{Program, Workshop};

use crate::support::answers::{comes_and_goes, livepatch};

/// Waits in read() with words on its stack that would be return addresses into the allocator.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static volatile int one = 1;
__attribute__((noinline)) int answer(int x) { return x + one; }
int main(void)
{
	char *volatile left_over[] = { (char *)malloc + 9, (char *)free + 9, (char *)calloc + 9 };
	char line[64];
	ssize_t length;
	free(malloc(100));
	write(1, "ready\n", 6);
	while ((length = read(0, line, sizeof(line) - 1)) > 0) {
		line[length] = 0;
		sprintf(line, "%d %d\n", answer(atoi(line)), left_over[0] != left_over[1]);
		write(1, line, strlen(line));
	}
	return calloc(1, 1) == NULL;
}
"#;

fn words_left_on_the_stack(flags: &[&str]) {
    let workshop = Workshop::new();
    workshop.write("program.c", PROGRAM);
    let arguments = [&["-O2", "program.c"], flags].concat();
    let path = workshop.build("musl-gcc", "program", &arguments);
    let source = livepatch(
        "static int new_answer(int x) { return x * 10; }\n",
        &[("answer", "new_answer")],
    );
    let module = workshop.module("words", &source);
    let mut program = Program::start(&path);
    comes_and_goes(&mut program, "words", &module, &[("5", "6 1", "50 1")]);
    program.finish();
}

#[test]
fn words_left_on_the_stack_of_a_musl_program() {
    words_left_on_the_stack(&[]);
}

#[test]
fn words_left_on_the_stack_of_a_static_musl_program() {
    words_left_on_the_stack(&["-static"]);
}
