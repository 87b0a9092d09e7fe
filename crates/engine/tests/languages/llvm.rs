//! Programs whose exceptions LLVM's libunwind handles, with clang and libc++.

use crate::support::answers::{Case, comes_and_goes, livepatch};
use crate::support::{Program, Workshop};

const PROGRAM: &str = r#"
#include <cstdio>
#include <cstdlib>
extern "C" __attribute__((noinline)) int inner(int x)
{
	if (x > 10)
		throw x;
	return x;
}
extern "C" __attribute__((noinline)) int middle(int x) { return inner(x) + 1; }
extern "C" void reply(const char *question)
{
	try {
		try {
			printf("%d", middle(atoi(question)));
		} catch (...) {
			throw;
		}
	} catch (int thrown) {
		printf("caught %d", thrown);
	}
}
"#;

const PATCH: &str = r#"// C++
extern "C" int inner(int x);
static int new_middle(int x)
{
	if (x == 0)
		throw 1000;
	try {
		return inner(x) + 100;
	} catch (int thrown) {
		if (thrown == 12)
			return -12;
		throw;
	}
}
"#;

const CASES: [Case<'_>; 4] = [
    ("5", "6", "105"),
    ("0", "1", "caught 1000"),
    ("12", "caught 12", "-12"),
    ("13", "caught 13", "caught 13"),
];

fn throws_with_libunwind(kind: &str, flags: &[&str]) {
    let workshop = Workshop::new();
    let libraries = [
        "-stdlib=libc++",
        "-nodefaultlibs",
        kind,
        "-lc++",
        "-lc++abi",
        "-lunwind",
        "-Wl,-Bdynamic",
        "-lm",
        "-lc",
        "-lgcc",
    ];
    let flags = [&libraries, flags].concat();
    let path = workshop.answering("clang++", "program", PROGRAM, &flags);
    let module = workshop.module("llvm", &livepatch(PATCH, &[("middle", "new_middle")]));
    let mut program = Program::start(&path);
    comes_and_goes(&mut program, "llvm", &module, &CASES);
    // Once more, where it was before.
    comes_and_goes(&mut program, "llvm", &module, &CASES);
    program.finish();
}

#[test]
fn exceptions_with_llvm_libunwind() {
    throws_with_libunwind("-Wl,-Bdynamic", &[]);
}

#[test]
fn exceptions_with_a_linked_llvm_libunwind() {
    throws_with_libunwind("-Wl,-Bstatic", &[]);
}

/// As rustc links a static program for musl.
#[test]
fn exceptions_with_what_the_linker_leaves_of_llvm_libunwind() {
    throws_with_libunwind("-Wl,-Bstatic", &["-Wl,--gc-sections"]);
}
