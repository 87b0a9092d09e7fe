//! Objects without a symbol table: what they export can be patched.

use engraft_engine::Engine;
use nix::errno::Errno;

use crate::support::answers::{comes_and_goes, livepatch, livepatch_of, maps_of};
use crate::support::{Program, Workshop, load};

const LIBRARY: &str = r#"
static int hidden_factor = 3;
int shape_scale = 10;
__attribute__((noinline)) static int hidden(int x) { return x + hidden_factor; }
__attribute__((noinline)) int shape_helper(int x) { return hidden(x) * shape_scale; }
__attribute__((noinline)) int shape_area(int x) { return hidden(x) * 2; }
int shape_both(int x) { return shape_area(x) + shape_helper(x); }
"#;

const USER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
extern int shape_area(int x), shape_both(int x);
void reply(const char *question)
{
	int x = atoi(question);
	printf("%d %d", shape_area(x), shape_both(x));
}
"#;

const LIBRARY_PATCH: &str = r#"
extern int shape_scale;
extern int shape_helper(int x);
static int new_area(int x) { return shape_helper(x) + shape_scale + 1000; }
"#;

/// `shape_both` reaches `shape_area` through the PLT, or directly.
fn a_stripped_library(flags: &[&str]) {
    let workshop = Workshop::new();
    workshop.write("shape.c", LIBRARY);
    let arguments = [&["-O2", "-shared", "-fPIC", "-s", "shape.c"], flags].concat();
    workshop.build("cc", "libshape.so", &arguments);
    let user = ["-L.", "-lshape", "-Wl,-rpath,$ORIGIN"];
    let path = workshop.answering("cc", "user", USER, &user);
    let source = livepatch_of("\"libshape\"", LIBRARY_PATCH, &[("shape_area", "new_area")]);
    let module = workshop.module("area", &source);
    let mut program = Program::start(&path);
    comes_and_goes(
        &mut program,
        "area",
        &module,
        &[("4", "14 84", "1080 1150")],
    );
    program.finish();
}

#[test]
fn a_stripped_library_is_patched_by_what_it_exports() {
    a_stripped_library(&[]);
}

#[test]
fn a_stripped_library_that_calls_itself_directly() {
    a_stripped_library(&["-Wl,-Bsymbolic"]);
}

#[test]
fn a_stripped_executable_is_patched_by_what_it_exports() {
    const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) static int inside(int x) { return x + 1; }
__attribute__((noinline)) int exported(int x) { return inside(x) * 2; }
void reply(const char *question) { printf("%d", exported(atoi(question))); }
"#;
    const PATCH: &str = "static int new_exported(int x) { return x * 1000; }\n";
    let workshop = Workshop::new();
    let path = workshop.answering("cc", "program", PROGRAM, &["-rdynamic", "-s"]);
    let accepted = livepatch(PATCH, &[("exported", "new_exported")]);
    let accepted = workshop.module("exported", &accepted);
    let refused = livepatch(PATCH, &[("inside", "new_exported")]);
    let refused = workshop.module("inside", &refused);
    let mut program = Program::start(&path);
    let untouched = maps_of(program.pid());
    let mut engine = Engine::open(program.pid()).expect("open");
    let error = load(&mut engine, "inside", &refused, &[]).expect_err("it is not exported");
    assert_eq!(error.errno(), Errno::EINVAL, "{error}");
    assert!(error.to_string().contains("'inside'"), "{error}");
    drop(engine);
    assert_eq!(maps_of(program.pid()), untouched);
    comes_and_goes(&mut program, "exported", &accepted, &[("4", "10", "4000")]);
    program.finish();
}
