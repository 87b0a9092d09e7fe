//! Programs that differ from the source of the patch: refused, named, and not touched.

use std::path::Path;
use std::process::Command;

use engraft_engine::{Engine, Error};
use nix::errno::Errno;

use crate::pre_code::{Plan, read_objects};
use crate::programs::{MAIN, OTHER, PATCH, WANTED};
use crate::support::{Program, Workshop, load};

/// Builds the program with `MAIN` changed, and tries to load a patch for the unchanged one.
fn refusal_of(from: &str, to: &str, flags: &[&str], stripped: bool) -> Error {
    assert!(MAIN.contains(from), "{from}");
    refusal_for(&MAIN.replacen(from, to, 1), flags, stripped)
}

fn refusal_for(main: &str, flags: &[&str], stripped: bool) -> Error {
    let workshop = Workshop::new();
    workshop.write("main.c", MAIN);
    workshop.write("other.c", OTHER);
    let objects = workshop.compile_pre("gcc", &["main.c", "other.c"], &["-O2"]);
    let plan = Plan {
        replaced: &[("describe", "")],
        wanted: WANTED,
        ..Plan::default()
    };
    let module = workshop.matched_module("fix", PATCH, &read_objects(&objects, &plan));
    workshop.write("main.c", main);
    let mut arguments = flags.to_vec();
    arguments.extend(["main.c", "other.c"]);
    let path = workshop.build("gcc", "program", &arguments);
    if stripped {
        strip(&path);
    }
    let mut program = Program::start(&path);
    let before = program.ask("abc");
    let text = text_of(program.pid());
    let mut engine = Engine::open(program.pid()).expect("open");
    let error = load(&mut engine, "fix", &module, &[]).expect_err("it differs");
    drop(engine);
    assert!(text == text_of(program.pid()), "its text is as it was");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", program.pid())).expect("maps");
    assert!(!maps.contains("engraft"), "{maps}");
    let after = program.ask("abc");
    assert!(!before.starts_with("patched") && !after.starts_with("patched"));
    program.finish();
    assert!(error.help().is_some(), "{error}");
    error
}

fn strip(path: &Path) {
    let status = Command::new("strip").arg("-s").arg(path).status();
    assert!(status.expect("strip").success());
}

/// The executable mapping of the program.
fn text_of(pid: i32) -> Vec<u8> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let line = maps
        .lines()
        .find(|line| line.contains(" r-xp "))
        .expect("text");
    let (start, end) = line
        .split_once(' ')
        .expect("range")
        .0
        .split_once('-')
        .expect("range");
    let number = |text: &str| u64::from_str_radix(text, 16).expect("address");
    let mut bytes = vec![0; (number(end) - number(start)) as usize];
    let file = std::fs::File::open(format!("/proc/{pid}/mem")).expect("mem");
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, number(start)).expect("read");
    bytes
}

/// The change is seen with and without symbols, and the message says what it is.
fn is_refused(from: &str, to: &str, function: &str, expected: &[&str]) {
    for stripped in [false, true] {
        let error = refusal_of(from, to, &["-O2"], stripped);
        let text = error.to_string();
        println!("{text}");
        assert_eq!(error.errno(), Errno::ENOEXEC, "{text}");
        assert!(text.starts_with(&format!("function '{function}")), "{text}");
        for part in expected {
            assert!(text.contains(part), "{part}: {text}");
        }
        let help = error.help().expect("help");
        assert!(help.contains("same compiler and flags"), "{help}");
    }
}

#[test]
fn one_immediate() {
    is_refused(
        "return hidden(seen) + 1;",
        "return hidden(seen) + 3;",
        "classify",
        &["add $0x1,%eax", "add $0x3,%eax"],
    );
}

#[test]
fn one_instruction() {
    is_refused(
        "x * 7 + per_thread",
        "x * 7 - per_thread",
        "helper' (main.c",
        &["sub %fs:"],
    );
}

#[test]
fn a_text() {
    is_refused(
        "\"%s %d %ld",
        "\"%s-%d %ld",
        "describe",
        &["%s %d %ld %.2f %lu", "%s-%d %ld"],
    );
}

#[test]
fn a_text_in_a_table() {
    is_refused(
        "\"nought\"",
        "\"naught\"",
        "describe",
        &["\"nought\"", "\"naught\""],
    );
}

#[test]
fn an_element_of_a_constant() {
    is_refused(
        "{ 3, 1, 4, 1, 5, 9, 2, 6 }",
        "{ 3, 1, 4, 1, 5, 9, 2, 7 }",
        "describe",
        &["constant weights is 06", "07"],
    );
}

#[test]
fn the_order_of_a_jump_table() {
    // The code of the cases stays where it is.
    is_refused(
        "case 'g': return global_limit;\n\tcase 'h': return errno;",
        "case 'h': return global_limit;\n\tcase 'g': return errno;",
        "classify",
        &[],
    );
}

#[test]
fn another_function_is_called() {
    is_refused("apply(hidden, 1)", "apply(other, 1)", "describe", &[]);
}

#[test]
fn another_library_function_is_called() {
    is_refused(
        "strlen(names[seen & 3])",
        "strspn(names[seen & 3], \"x\")",
        "classify",
        &[],
    );
}

#[test]
fn another_variable_is_used() {
    // Without symbols it shows only where another function uses the variables, too.
    let error = refusal_of(
        "case 'g': return global_limit;",
        "case 'g': return shared_total;",
        &["-O2"],
        true,
    );
    assert_eq!(error.errno(), Errno::ENOEXEC, "{error}");
}

#[test]
fn other_flags() {
    for flags in ["-O0", "-O1", "-Os"] {
        for stripped in [false, true] {
            let error = refusal_for(MAIN, &[flags], stripped);
            println!("{error}");
            assert_eq!(error.errno(), Errno::ENOEXEC, "{error}");
        }
    }
}

#[test]
fn another_program() {
    let other = r#"
#include <stdio.h>
int other(int x);
int main(void)
{
	char line[256];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%d\n", other(1));
		fflush(stdout);
	}
	return 0;
}
"#;
    for stripped in [false, true] {
        let error = refusal_for(other, &["-O2"], stripped);
        println!("{error}");
        assert_eq!(error.errno(), Errno::ENOEXEC, "{error}");
    }
}
