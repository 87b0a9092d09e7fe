//! Functions compiled with -fcf-protection=full begin with endbr64, which indirect calls may
//! be required to hit: it stays, and the jump comes behind it.

use engraft_engine::Engine;

use crate::support::answers::livepatch;
use crate::support::code::read_code;
use crate::support::{Program, Workshop, load, settle};

const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

const JUMP: u8 = 0xe9;

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((noipa)) int marked(int x) { return x + 1; }
__attribute__((noipa, nocf_check)) int plain(int x) { return x + 2; }
void reply(const char *question)
{
	int x = atoi(question);
	int (*volatile by_pointer)(int) = marked;
	printf("%d %d %d", marked(x), by_pointer(x), plain(x));
}
"#;

const PATCH: &str = r#"
static int new_marked(int x) { return x * 10; }
static int new_plain(int x) { return x * 20; }
"#;

#[test]
fn endbr64() {
    let workshop = Workshop::new();
    let flags = ["-fcf-protection=full"];
    let path = workshop.answering("cc", "program", PROGRAM, &flags);
    let functions = [("marked", "new_marked"), ("plain", "new_plain")];
    let module = workshop.module_with("endbr64", &livepatch(PATCH, &functions), &flags);
    let mut program = Program::start(&path);
    let marked = read_code(&program, &path, "marked");
    let plain = read_code(&program, &path, "plain");
    assert!(marked.bytes.starts_with(&ENDBR64), "{marked:x?}");
    assert!(!plain.bytes.starts_with(&ENDBR64), "{plain:x?}");
    assert_eq!(program.ask("5"), "6 6 7");

    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "endbr64", &module, &[]).expect("load");
    settle(&mut engine);
    assert_eq!(program.ask("5"), "50 50 100");
    let patched = read_code(&program, &path, "marked");
    assert_eq!(patched.bytes[..4], ENDBR64);
    assert_eq!(patched.bytes[4], JUMP);
    assert_eq!(patched.bytes[9..], marked.bytes[9..]);
    let patched = read_code(&program, &path, "plain");
    assert_eq!(patched.bytes[0], JUMP);
    assert_eq!(patched.bytes[5..], plain.bytes[5..]);

    engine.disable("endbr64", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask("5"), "6 6 7");
    assert_eq!(read_code(&program, &path, "marked"), marked);
    assert_eq!(read_code(&program, &path, "plain"), plain);
    drop(engine);
    program.finish();
}
