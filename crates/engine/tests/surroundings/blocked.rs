//! A program that waits for ever in a system call: outside of what is replaced it is patched
//! while it waits; inside of it, it holds the transition up until it leaves.

use engraft_engine::Engine;

use crate::support::answers::{comes_and_goes, livepatch, wait_for_blocker};
use crate::support::{Program, Workshop, load, settle};

/// `inside` waits for its answer in the function that is replaced.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
__attribute__((noipa)) int wait_inside(void)
{
	char line[64];
	puts("waiting");
	fflush(stdout);
	return read(0, line, sizeof(line)) > 0 ? line[0] : -1;
}
void reply(const char *question)
{
	setvbuf(stdin, NULL, _IONBF, 0);
	printf("%c", wait_inside());
}
"#;

const PATCH: &str = r#"
static int new_wait_inside(void) { return 'N'; }
"#;

#[test]
fn blocked() {
    let workshop = Workshop::new();
    let path = workshop.answering("cc", "blocked", PROGRAM, &[]);
    let source = livepatch(PATCH, &[("wait_inside", "new_wait_inside")]);
    let module = workshop.module("blocked", &source);

    let mut program = Program::start(&path);
    assert_eq!(program.ask("question"), "waiting");
    assert_eq!(program.ask("y"), "y");
    assert_eq!(program.ask("question"), "waiting");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "blocked", &module, &[]).expect("load");
    wait_for_blocker(&mut engine, "wait_inside");
    // What it waits for still arrives, and the old function returns it.
    assert_eq!(program.ask("z"), "z");
    // It waits for the next question now, outside of what is replaced.
    settle(&mut engine);
    assert_eq!(program.ask("question"), "N");
    engine.disable("blocked", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask("question"), "waiting");
    assert_eq!(program.ask("y"), "y");
    drop(engine);
    program.finish();
}

#[test]
fn blocked_elsewhere() {
    let workshop = Workshop::new();
    let source = "#include <stdio.h>\n\
                  __attribute__((noipa)) int answer(void) { return 1; }\n\
                  void reply(const char *question) { printf(\"%d\", answer()); }\n";
    let path = workshop.answering("cc", "elsewhere", source, &[]);
    let patch = livepatch(
        "static int new_answer(void) { return 2; }",
        &[("answer", "new_answer")],
    );
    let module = workshop.module("elsewhere", &patch);
    let mut program = Program::start(&path);
    comes_and_goes(&mut program, "elsewhere", &module, &[("", "1", "2")]);
    program.finish();
}
