//! The command line as a user and a script see it: help, usage errors, exit codes.

use std::fs;
use std::process::{Command, Output};

fn engraft(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_engraft"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_lists_the_commands() {
    let output = engraft(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "\
Replaces functions of a running program, atomically and without restarting it

Usage: engraft [OPTIONS] <COMMAND>

Commands:
  build    Build a patch module from patches for a program's source
  cc       Compile a livepatch written in C or C++ into a patch module
  inspect  Say what a patch module changes and needs
  check    Say whether a patch module would apply and what would block it; changes nothing
  load     Load a patch module and enable its patch
  enable   Enable a loaded patch, reverse its disabling, or go on with an unfinished enabling
  disable  Disable a patch, reverse its enabling, or go on with an unfinished disabling
  unload   Remove the module of a patch that is disabled or replaced
  force    Complete the running transition although threads still use the code to be left
  list     List the patches of a process or the kernel
  status   Show patches, objects, functions, and the running transition with what holds it up
  pin      Keep a livepatch of the kernel to be loaded again whenever that kernel is booted
  unpin    Forget the livepatch that is pinned for a kernel; what is loaded stays loaded
  log      Print the livepatch log of a process or the kernel
  symbols  Let gdb or perf name patched functions and unwind through them
  demo     Patch a bundled server under load, step by step

Options:
      --json     Print JSON, one object per line
  -h, --help     Print help
  -V, --version  Print version
"
    );
}

#[test]
fn help_of_load() {
    let output = engraft(&["load", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    let trimmed: Vec<String> = stdout(&output)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    assert_eq!(
        trimmed.join("\n"),
        "\
Load a patch module and enable its patch

Usage: engraft load [OPTIONS] <--pid <N>|--exe <PATH>|--kernel> <FILE> [PARAM=VALUE]...

Arguments:
  <FILE>
          The patch module

  [PARAM=VALUE]...
          Values of module parameters

Options:
      --json
          Print JSON, one object per line

      --pid <N>
          The process with this number

      --exe <PATH>
          Every process that runs this program

      --kernel
          The running kernel's own livepatch

      --no-enable
          Load the module, but leave its patch disabled

      --timeline <FILE.svg>
          Draw the transition, a row for each thread

      --no-wait
          Return at once; the transition may still be running

      --timeout <SECS>
          How long the transition may take

          [default: 60]

      --on-timeout <ACTION>
          What to do with a transition that takes longer

          Possible values:
          - reverse: Go back to the code before it
          - leave:   Leave it as it is
          - force:   Complete it although threads still use the code to be left

          [default: reverse]

  -h, --help
          Print help (see a summary with '-h')"
    );
}

#[test]
fn usage_errors_exit_with_2() {
    let cases: [(&[&str], &str); 10] = [
        (&[], "Usage: engraft"),
        (&["livepatch"], "unrecognized subcommand 'livepatch'"),
        (&["list"], "<--pid <N>|--exe <PATH>|--kernel>"),
        (&["list", "--pid", "1", "--exe", "x"], "cannot be used with"),
        (&["list", "--pid", "0"], "invalid value '0'"),
        (&["list", "--pid", "-5"], "unexpected argument '-5'"),
        (&["load", "--pid", "1"], "<FILE>"),
        (
            &["load", "x.lp", "--pid", "1", "param"],
            "a parameter is written NAME=VALUE",
        ),
        (
            &["load", "x.lp", "--pid", "1", "--no-enable", "--no-wait"],
            "cannot be used with",
        ),
        (
            &["enable", "x", "--pid", "1", "--on-timeout", "pray"],
            "invalid value 'pray'",
        ),
    ];
    for (arguments, expected) in cases {
        let output = engraft(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            stderr(&output).contains(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

#[test]
fn a_program_that_nobody_runs_is_named() {
    let output = engraft(&["list", "--exe", "/nonexistent/program"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.starts_with("engraft: "), "{text}");
    assert!(text.contains("/nonexistent/program"), "{text}");
    assert!(!text.contains('\x1b'), "colour without a terminal: {text}");
}

#[test]
fn a_missing_module_is_named_in_text_and_json() {
    let arguments = ["load", "no-such-module.lp", "--pid", "1"];
    let output = engraft(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let expected = "engraft: cannot read patch module no-such-module.lp: No such file or directory (os error 2)\n";
    assert_eq!(stderr(&output), expected);

    let output = engraft(&[&["--json"], &arguments[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "");
    let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(
        object["error"]
            .as_str()
            .unwrap()
            .contains("no-such-module.lp")
    );
}

#[test]
fn damaged_modules_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("damaged.lp");
    for contents in [&b""[..], b"\x7fELF", b"not ELF at all"] {
        fs::write(&file, contents).unwrap();
        let output = engraft(&["inspect", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("damaged.lp"),
            "{}",
            stderr(&output)
        );
    }
}

const LIVEPATCH: &str = r#"
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int level;
module_param(level, int, 0644);

extern int helper(void);
static int new_answer(void) { return helper() + level; }
static int pre_patch(struct klp_object *object) { return 0; }

static struct klp_func funcs[] = {
	{ .old_name = "answer", .new_func = new_answer, .old_sympos = 2 }, { }
};
static struct klp_object objs[] = {
	{ .name = "libanswer.so", .funcs = funcs, .callbacks.pre_patch = pre_patch }, { }
};
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs, .replace = true };
static int fix_init(void) { return klp_enable_patch(&patch); }
static void fix_exit(void) { }
module_init(fix_init);
module_exit(fix_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

#[test]
fn cc_compiles_and_inspect_explains() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("fix.c");
    let module = directory.path().join("fix-answer.lp");
    fs::write(&source, LIVEPATCH).unwrap();
    let paths = [source.to_str().unwrap(), module.to_str().unwrap()];
    let output = engraft(&["cc", paths[0], "-o", paths[1]]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).ends_with("fix-answer.lp: patch module 'fix_answer'\n"));

    let output = engraft(&["inspect", paths[1]]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for line in [
        "module 'fix_answer'",
        "license: GPL",
        "parameter level: Int",
        "patch, replaces all older ones:",
        "  object libanswer.so, callbacks pre_patch",
        "    answer,2 -> new_answer",
        "  'helper'",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no line {line:?} in\n{text}"
        );
    }

    let output = engraft(&["inspect", "--json", paths[1]]);
    let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(object["name"], "fix_answer");
    assert_eq!(
        object["patches"][0]["objects"][0]["functions"][0]["old_name"],
        "answer"
    );
    assert_eq!(object["patches"][0]["replace"], true);
}

#[test]
fn cc_passes_the_compilers_words_on_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("fix.c");
    let module = directory.path().join("fix.lp");
    fs::write(&source, "int f(void) { return undeclared; }\n").unwrap();
    let paths = [source.to_str().unwrap(), module.to_str().unwrap()];
    let output = engraft(&["cc", paths[0], "-o", paths[1]]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("undeclared"),
        "{}",
        stderr(&output)
    );
    assert!(!module.exists());

    let output = engraft(&["cc", paths[0], "-o", paths[1], "-D", "undeclared=7"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(module.exists());
}
