//! Code that the program itself can neither read nor write: it is patched all the same, and the
//! protection of every page is afterwards what it was before.

use engraft_engine::Engine;

use crate::support::answers::livepatch;
use crate::support::{Program, Workshop, load, settle};

/// Its code can be executed only, and whoever writes to the page is ended by a signal.
const PROGRAM: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
__attribute__((noipa, aligned(4096), section(".text.alone"))) int answer(int x)
{
	volatile int one = 1;
	return x + one;
}
__attribute__((noipa, aligned(4096), section(".text.alone"))) void behind(void) { }
void reply(const char *question)
{
	void *page = (void *)answer;
	if (strcmp(question, "close") == 0)
		printf("%d", mprotect(page, 4096, PROT_EXEC));
	else if (strcmp(question, "open") == 0)
		printf("%d", mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC));
	else if (strcmp(question, "plain") == 0)
		printf("%d", mprotect(page, 4096, PROT_READ | PROT_EXEC));
	else
		printf("%d", answer(atoi(question)));
}
"#;

/// Permissions of the page with the function.
fn permissions_of(pid: i32, address: u64) -> String {
    let maps = engraft_process::read_maps(pid).expect("maps");
    let mapping = maps.iter().find(|mapping| mapping.contains(address));
    let mapping = mapping.expect("the function is mapped");
    let right = |set: bool, letter: char| if set { letter } else { '-' };
    [
        right(mapping.read, 'r'),
        right(mapping.write, 'w'),
        right(mapping.execute, 'x'),
    ]
    .iter()
    .collect()
}

#[test]
fn memory_protection() {
    let workshop = Workshop::new();
    let path = workshop.answering("cc", "program", PROGRAM, &["-no-pie", "-fno-pie"]);
    let source = livepatch(
        "static int new_answer(int x) { return x * 10; }",
        &[("answer", "new_answer")],
    );
    let module = workshop.module("memory_protection", &source);
    let output = std::process::Command::new("nm")
        .arg(&path)
        .output()
        .expect("nm");
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = names.lines().find(|line| line.ends_with(" T answer"));
    let address = line.and_then(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok());
    let address = address.expect("the function's address");
    let mut program = Program::start(&path);
    for (setting, permissions) in [("close", "--x"), ("open", "rwx"), ("plain", "r-x")] {
        assert_eq!(program.ask(setting), "0");
        let unchanged = || assert_eq!(permissions_of(program.pid(), address), permissions);
        unchanged();
        let mut engine = Engine::open(program.pid()).expect("open");
        load(&mut engine, "memory_protection", &module, &[]).expect("load");
        unchanged();
        settle(&mut engine);
        unchanged();
        assert_eq!(program.ask("4"), "40", "{setting}");
        engine.disable("memory_protection", false).expect("disable");
        settle(&mut engine);
        assert_eq!(permissions_of(program.pid(), address), permissions);
        assert_eq!(program.ask("4"), "5", "{setting}");
        engine.unload("memory_protection").expect("unload");
    }
    program.finish();
}
