//! What a replacement may refer to: everything that the original could.

use engraft_engine::Engine;
use nix::errno::Errno;

use crate::support::answers::{comes_and_goes, livepatch, maps_of};
use crate::support::{Program, Workshop, load, settle};

/// Two files, each with its own static function and variable of the same names.
const FIRST: &str = r#"
#include <stdio.h>
#include <stdlib.h>
static volatile int state = 100;
__attribute__((noipa)) static int step(int x) { return x + state; }
int second(int x);
__attribute__((noipa)) int first(int x) { return step(x); }
__attribute__((noipa)) int measure(const char *text) { return *text; }
void reply(const char *question)
{
	int x = atoi(question), one = first(x);
	printf("%d %d %d", one, second(x), measure(question));
}
"#;

const SECOND: &str = r#"
static volatile int state = 200;
static volatile int lonely = 7;
__attribute__((noipa)) static int step(int x) { return x + state; }
__attribute__((noipa)) static int only_here(int x) { return x * lonely; }
int second(int x) { return step(x) + only_here(x); }
"#;

fn two_files(compiler: &str, flags: &[&str]) -> (Workshop, Program) {
    let workshop = Workshop::new();
    workshop.write("second.c", SECOND);
    let flags = [&["second.c"], flags].concat();
    let path = workshop.answering(compiler, "program", FIRST, &flags);
    let program = Program::start(&path);
    (workshop, program)
}

#[test]
fn static_functions_and_variables_by_name_and_by_position() {
    const PATCH: &str = r#"
/* Unique in the program. */
extern volatile int lonely;
extern int only_here(int x);
/* The second of two, in the order of the symbol table. */
KLP_SYM(second_state, "vmlinux", "state", 2);
extern volatile int second_state;
KLP_SYM(second_step, "vmlinux", "step", 2);
extern int second_step(int x);
static int new_first(int x)
{
	second_state++;
	return second_step(x) * 10000 + only_here(lonely);
}
"#;
    let (workshop, mut program) = two_files("cc", &[]);
    let module = workshop.module("statics", &livepatch(PATCH, &[("first", "new_first")]));
    // first() of the patch raises the state of the second file, which second() uses.
    let mut engine = Engine::open(program.pid()).expect("open");
    assert_eq!(program.ask("5"), "105 240 53");
    load(&mut engine, "statics", &module, &[]).expect("load");
    settle(&mut engine);
    assert_eq!(program.ask("5"), "2060049 241 53");
    engine.disable("statics", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask("5"), "105 241 53");
    drop(engine);
    program.finish();
}

#[test]
fn an_ambiguous_reference_is_refused_with_its_candidates() {
    const PATCH: &str = r#"
extern volatile int state;
static int new_first(int x) { return x + state; }
"#;
    let (workshop, mut program) = two_files("cc", &[]);
    let module = workshop.module("ambiguous", &livepatch(PATCH, &[("first", "new_first")]));
    let untouched = maps_of(program.pid());
    let mut engine = Engine::open(program.pid()).expect("open");
    let error = load(&mut engine, "ambiguous", &module, &[]).expect_err("two are called so");
    let text = error.to_string();
    assert!(text.contains("'state'"), "{text}");
    assert!(
        text.contains("program.c") && text.contains("second.c"),
        "{text}"
    );
    drop(engine);
    assert_eq!(maps_of(program.pid()), untouched);
    assert_eq!(program.ask("5"), "105 240 53");
    program.finish();
}

/// strlen() and memcpy() are ifuncs of glibc: a resolver chooses the implementation.
fn functions_of_the_c_library(compiler: &str, flags: &[&str]) {
    const PATCH: &str = r#"
#include <stdlib.h>
#include <string.h>
static int new_measure(const char *text)
{
	size_t (*volatile length)(const char *) = strlen;
	void *(*volatile copy)(void *, const void *, size_t) = memcpy;
	char *other = malloc(length(text) + 1);
	int result;
	copy(other, text, length(text) + 1);
	result = 1000 * (int)strlen(other) + strcmp(other, text);
	free(other);
	return result;
}
"#;
    let (workshop, mut program) = two_files(compiler, flags);
    let source = livepatch(PATCH, &[("measure", "new_measure")]);
    let module = workshop.module_with("libc", &source, &["-fno-builtin"]);
    let case = ("0005", "105 240 48", "105 240 4000");
    comes_and_goes(&mut program, "libc", &module, &[case]);
    program.finish();
}

#[test]
fn functions_of_glibc_with_ifuncs() {
    functions_of_the_c_library("cc", &[]);
}

#[test]
fn functions_of_a_static_glibc_with_ifuncs() {
    // What the patch uses must be there.
    let used = [
        "-static",
        "-Wl,-u,strcmp,-u,malloc,-u,free,-u,memcpy,-u,strlen",
    ];
    functions_of_the_c_library("cc", &used);
}

#[test]
fn functions_of_musl() {
    functions_of_the_c_library("musl-gcc", &[]);
}

#[test]
fn a_reference_that_nothing_defines_is_refused_before_anything_is_touched() {
    const PATCH: &str = r#"
extern int nobody_has_this(int x);
extern volatile int nor_this;
static int new_first(int x) { return nobody_has_this(x) + nor_this; }
"#;
    let (workshop, mut program) = two_files("cc", &[]);
    let module = workshop.module("missing", &livepatch(PATCH, &[("first", "new_first")]));
    let untouched = maps_of(program.pid());
    let mut engine = Engine::open(program.pid()).expect("open");
    let error = load(&mut engine, "missing", &module, &[]).expect_err("nobody has it");
    assert_eq!(error.errno(), Errno::ENOENT, "{error}");
    for name in ["nobody_has_this", "nor_this"] {
        assert!(error.to_string().contains(name), "{error}");
    }
    drop(engine);
    assert_eq!(maps_of(program.pid()), untouched);
    assert_eq!(program.ask("5"), "105 240 53");
    program.finish();
}

/// As for a linker, a weak reference that nothing defines is a null pointer.
#[test]
fn a_weak_reference_may_be_missing() {
    const PATCH: &str = r#"
__attribute__((weak)) extern int nobody_has_this(int x);
__attribute__((weak)) extern int second(int x);
static int new_first(int x)
{
	return (nobody_has_this ? 1 : 2) + (second ? second(x) : -1000);
}
"#;
    let (workshop, mut program) = two_files("cc", &[]);
    let module = workshop.module("weak", &livepatch(PATCH, &[("first", "new_first")]));
    let case = ("5", "105 240 53", "242 240 53");
    comes_and_goes(&mut program, "weak", &module, &[case]);
    program.finish();
}
