//! A program whose only thread makes one long system call after the other, none of which waits:
//! whenever it is stopped it has just come back from one.

use engraft_engine::Engine;

use crate::support::answers::livepatch;
use crate::support::{Program, Workshop, load, settle};

const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
static volatile int one = 1;
static char buffer[16 << 20];
__attribute__((noipa)) int answer(int x) { return x + one; }
int main(void)
{
	int last = 0, zeroes = open("/dev/zero", O_RDONLY);
	puts("ready");
	fflush(stdout);
	for (;;) {
		if (read(zeroes, buffer, sizeof buffer) <= 0)
			return 1;
		int now = answer(4);
		if (now != last) {
			printf("%d\n", now);
			fflush(stdout);
		}
		last = now;
	}
}
"#;

#[test]
fn busy_with_calls() {
    let workshop = Workshop::new();
    let text = workshop.write("program.c", PROGRAM);
    let text = text.to_str().expect("text");
    let path = workshop.build("cc", "program", &["-O2", text]);
    let source = livepatch(
        "static int new_answer(int x) { return x * 10; }",
        &[("answer", "new_answer")],
    );
    let module = workshop.module("busy", &source);
    let program = Program::start(&path);
    assert_eq!(program.line(), "5");
    for _ in 0..3 {
        let mut engine = Engine::open(program.pid()).expect("open");
        load(&mut engine, "busy", &module, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.line(), "40");
        engine.disable("busy", false).expect("disable");
        settle(&mut engine);
        engine.unload("busy").expect("unload");
        assert_eq!(program.line(), "5");
    }
}
