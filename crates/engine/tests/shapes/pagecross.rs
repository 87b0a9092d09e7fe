//! Entries whose first bytes lie on two pages, at every offset that a jump can be cut at.

use crate::support::answers::{Case, comes_and_goes, livepatch};
use crate::support::code::read_code;
use crate::support::{Program, Workshop};

/// `cross_N` begins N bytes before a page boundary.
fn assembly() -> String {
    let function = |before: u32| {
        format!(
            "\t.p2align 12\n\t.skip {skip}, 0xcc\n\t.globl cross_{before}\n\
             \t.type cross_{before}, @function\ncross_{before}:\n\
             \t.cfi_startproc\n\tleal {before}(%rdi), %eax\n\tnop\n\tnop\n\tnop\n\tnop\n\tret\n\
             \t.cfi_endproc\n\t.size cross_{before}, . - cross_{before}\n",
            skip = 4096 - before
        )
    };
    let functions: String = (1..=4).map(function).collect();
    format!("\t.text\n{functions}\t.section .note.GNU-stack, \"\", @progbits\n")
}

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
int cross_1(int), cross_2(int), cross_3(int), cross_4(int);
void reply(const char *question)
{
	int x = atoi(question);
	printf("%d %d %d %d", cross_1(x), cross_2(x), cross_3(x), cross_4(x));
}
"#;

const PATCH: &str = r#"
static int new_1(int x) { return x * 10 + 1; }
static int new_2(int x) { return x * 10 + 2; }
static int new_3(int x) { return x * 10 + 3; }
static int new_4(int x) { return x * 10 + 4; }
"#;

const CASE: Case<'_> = ("5", "6 7 8 9", "51 52 53 54");

#[test]
fn pagecross() {
    let workshop = Workshop::new();
    workshop.write("cross.s", &assembly());
    let names = ["cross_1", "cross_2", "cross_3", "cross_4"];
    let functions: Vec<(&str, &str)> = names
        .into_iter()
        .zip(["new_1", "new_2", "new_3", "new_4"])
        .collect();
    let module = workshop.module("pagecross", &livepatch(PATCH, &functions));
    for flags in [&["cross.s"][..], &["cross.s", "-static"]] {
        let path = workshop.answering("cc", "program", PROGRAM, flags);
        let mut program = Program::start(&path);
        let before: Vec<_> = names.map(|name| read_code(&program, &path, name)).into();
        for (code, left) in before.iter().zip(1..) {
            assert_eq!((code.address + left) % 4096, 0, "{code:x?}");
        }
        comes_and_goes(&mut program, "pagecross", &module, &[CASE]);
        for (name, code) in names.iter().zip(&before) {
            assert_eq!(read_code(&program, &path, name), *code);
        }
        program.finish();
    }
}
