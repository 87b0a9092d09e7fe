//! A Rust program, patched by a C livepatch.

use std::path::Path;
use std::process::Command;

use crate::support::answers::{Case, comes_and_goes, livepatch};
use crate::support::{Program, Workshop};

const PROGRAM: &str = r##"
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::panic::catch_unwind;

struct Guard<'a>(&'a std::cell::Cell<u32>);
impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C-unwind" fn inner(x: i32) -> i32 {
    assert!(black_box(x) <= 10, "inner {x}");
    x
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C-unwind" fn middle(x: i32) -> i32 {
    inner(x) + 1
}

#[inline(never)]
fn mangled_twice(x: i32) -> i32 {
    black_box(x) * 2
}

fn answer(line: &str) -> String {
    let guards = std::cell::Cell::new(0);
    let (what, number) = line.split_once(' ').unwrap();
    let number: i32 = number.parse().unwrap();
    let result = catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = Guard(&guards);
        match what {
            "middle" => middle(number),
            _ => mangled_twice(number),
        }
    }));
    match result {
        Ok(value) => format!("{value} guards {}", guards.get()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().unwrap();
            format!("panic '{text}' guards {}", guards.get())
        }
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        println!("{}", answer(&line.unwrap()));
        std::io::stdout().flush().unwrap();
    }
}
"##;

const PATCH: &str = r#"
extern int inner(int x);
static int new_middle(int x) { return inner(x) + 100; }
static int new_twice(int x) { return x * 20; }
"#;

const CASES: [Case<'_>; 4] = [
    ("middle 5", "6 guards 1", "105 guards 1"),
    // The panic unwinds through the replacement.
    (
        "middle 12",
        "panic 'inner 12' guards 1",
        "panic 'inner 12' guards 1",
    ),
    ("twice 7", "14 guards 1", "140 guards 1"),
    ("middle 6", "7 guards 1", "106 guards 1"),
];

/// The full name of a function whose mangled name contains `part`.
fn mangled_name(path: &Path, part: &str) -> String {
    let output = Command::new("nm").arg(path).output().expect("nm");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut names = text.lines().filter_map(|line| line.split(' ').nth(2));
    let name = names.find(|name| name.contains(part)).expect(part);
    name.to_owned()
}

fn a_release_binary(flags: &[&str]) {
    let workshop = Workshop::new();
    workshop.write("program.rs", PROGRAM);
    let arguments = [&["--edition=2024", "-O", "program.rs"], flags].concat();
    let path = workshop.build("rustc", "program", &arguments);
    let twice = mangled_name(&path, "mangled_twice");
    let functions = [("middle", "new_middle"), (twice.as_str(), "new_twice")];
    let module = workshop.module("rust", &livepatch(PATCH, &functions));
    let mut program = Program::start(&path);
    comes_and_goes(&mut program, "rust", &module, &CASES);
    program.finish();
}

#[test]
fn a_rust_release_binary() {
    a_release_binary(&[]);
}

#[test]
fn a_static_rust_release_binary() {
    a_release_binary(&["-Ctarget-feature=+crt-static"]);
}
