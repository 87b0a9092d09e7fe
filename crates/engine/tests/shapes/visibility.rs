//! Symbols that the dynamic linker does not show: hidden, internal, static; and protected
//! ones, which it shows and does not let others replace.

use engraft_engine::Engine;
use nix::errno::Errno;

use crate::support::answers::{comes_and_goes, livepatch_of, maps_of};
use crate::support::{Program, Workshop, load};

const LIBRARY: &str = r#"
__attribute__((visibility("hidden"))) int hidden_scale = 10;
__attribute__((visibility("hidden"), noipa)) int hidden(int x) { return x + 1; }
__attribute__((visibility("internal"), noipa)) int internal(int x) { return x + 2; }
__attribute__((visibility("protected"), noipa)) int protected(int x) { return x + 3; }
__attribute__((noipa)) static int local(int x) { return x + 4; }
/* The executable has a function of this name, too, which wins for others. */
__attribute__((noipa)) static int twice(int x) { return x * 2; }
int in_library(int x)
{
	return hidden(x) * 10000 + internal(x) * 1000 + protected(x) * 100 + local(x) * 10 + twice(x);
}
"#;

const USER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
extern int in_library(int x), protected(int x);
__attribute__((noipa)) int twice(int x) { return x * 2; }
void reply(const char *question)
{
	int x = atoi(question);
	printf("%d %d %d", in_library(x), protected(x), twice(x));
}
"#;

const PATCH: &str = r#"
KLP_SYM(scale, "libshow", "hidden_scale", 0);
extern int scale;
KLP_SYM(original_local, "libshow", "local", 0);
extern int original_local(int x);
static int new_hidden(int x) { return scale - 1; }
static int new_internal(int x) { return 8; }
static int new_protected(int x) { return 7; }
static int new_local(int x) { return 6; }
static int new_twice(int x) { return 5; }
"#;

const FUNCTIONS: [(&str, &str); 5] = [
    ("hidden", "new_hidden"),
    ("internal", "new_internal"),
    ("protected", "new_protected"),
    ("local", "new_local"),
    ("twice", "new_twice"),
];

fn build(workshop: &Workshop, flags: &[&str]) -> Program {
    workshop.write("show.c", LIBRARY);
    let arguments = [&["-O2", "-shared", "-fPIC", "show.c"], flags].concat();
    workshop.build("cc", "libshow.so", &arguments);
    let user = ["-L.", "-lshow", "-Wl,-rpath,$ORIGIN"];
    Program::start(&workshop.answering("cc", "user", USER, &user))
}

#[test]
fn visibility() {
    let workshop = Workshop::new();
    let mut program = build(&workshop, &[]);
    let source = livepatch_of("\"libshow\"", PATCH, &FUNCTIONS);
    let module = workshop.module("visibility", &source);
    // The executable's own `twice` stays as it is.
    let case = ("1", "23452 4 2", "98765 7 2");
    comes_and_goes(&mut program, "visibility", &module, &[case]);
    program.finish();
}

#[test]
fn visibility_of_a_stripped_library() {
    let workshop = Workshop::new();
    let mut program = build(&workshop, &["-s"]);
    let untouched = maps_of(program.pid());
    let mut engine = Engine::open(program.pid()).expect("open");
    for name in ["hidden", "internal", "local"] {
        let body = "static int replacement(int x) { return x; }\n";
        let source = livepatch_of("\"libshow\"", body, &[(name, "replacement")]);
        let module = workshop.module("invisible", &source);
        let error = load(&mut engine, "invisible", &module, &[]).expect_err("nobody knows it");
        assert_eq!(error.errno(), Errno::EINVAL, "{error}");
        assert!(error.to_string().contains(&format!("'{name}'")), "{error}");
    }
    drop(engine);
    assert_eq!(maps_of(program.pid()), untouched);
    let body = "static int replacement(int x) { return 7; }\n";
    let source = livepatch_of("\"libshow\"", body, &[("protected", "replacement")]);
    let module = workshop.module("visible", &source);
    let case = ("1", "23452 4 2", "23752 7 2");
    comes_and_goes(&mut program, "visible", &module, &[case]);
    program.finish();
}
