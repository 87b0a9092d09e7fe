//! Functions that are equal to others: told apart by who calls them, by their names, or not
//! at all.

use std::path::PathBuf;
use std::process::Command;

use engraft_engine::{CheckReport, Engine};
use engraft_module::PreObject;
use nix::errno::Errno;

use crate::pre_code::{Plan, list_symbols, read_objects};
use crate::support::{Program, Workshop, load, settle};
use crate::variants::examine;

const ONE: &str = r#"
#include <stdio.h>
#include <string.h>
int two(int x);
static __attribute__((noinline)) int same(int x) { return x * 3 + 1; }
__attribute__((noinline)) int one(int x) { return same(x) + 10; }
int main(void)
{
	char line[256];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		int n = (int)strlen(line) - 1;
		printf("%d %d\n", one(n), two(n));
		fflush(stdout);
	}
	return 0;
}
"#;

const TWO: &str = r#"
static __attribute__((noinline)) int same(int x) { return x * 3 + 1; }
int two(int x) { return same(x) + 20; }
"#;

const PATCH: &str = r#"
#include <linux/module.h>
#include <linux/livepatch.h>
static int new_same(int x) { return 7; }
static struct klp_func funcs[] = { { .old_name = "same", .new_func = new_same }, {} };
static struct klp_object objs[] = { { .funcs = funcs }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int init(void) { return klp_enable_patch(&patch); }
static void leave(void) { }
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

struct Case {
    workshop: Workshop,
    path: PathBuf,
    code: PreObject,
}

/// Builds the program, and pre-patch code for a patch of `same` in `file`.
fn prepare(file: &str, flags: &[&str], stripped: bool) -> Case {
    let workshop = Workshop::new();
    workshop.write("one.c", ONE);
    workshop.write("two.c", TWO);
    let objects = workshop.compile_pre("gcc", &["one.c", "two.c"], &["-O2"]);
    let plan = Plan {
        replaced: &[("same", file)],
        ..Plan::default()
    };
    let code = read_objects(&objects, &plan);
    let mut arguments = vec!["-O2", "one.c", "two.c"];
    arguments.extend(flags);
    let path = workshop.build("gcc", "program", &arguments);
    if stripped {
        let status = Command::new("strip").arg("-s").arg(&path).status();
        assert!(status.expect("strip").success());
    }
    Case {
        workshop,
        path,
        code,
    }
}

impl Case {
    /// Takes the code of all functions away that are not replaced.
    fn without_callers(mut self) -> Self {
        let replaced: Vec<u32> = self.code.functions.iter().map(|it| it.symbol).collect();
        for (id, symbol) in (0..).zip(&mut self.code.symbols) {
            if !replaced.contains(&id) {
                symbol.place = None;
            }
        }
        self
    }

    fn module(&self) -> Vec<u8> {
        self.workshop.matched_module("fix", PATCH, &self.code)
    }

    fn report(&self) -> CheckReport {
        let program = Program::start(&self.path);
        let report = examine(program.pid(), "fix", &self.module());
        program.finish();
        report
    }

    fn loads(&self, before: &str, after: &str) {
        let module = self.module();
        let mut program = Program::start(&self.path);
        assert_eq!(program.ask("abcd"), before);
        let mut engine = Engine::open(program.pid()).expect("open");
        load(&mut engine, "fix", &module, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("abcd"), after);
        drop(engine);
        program.finish();
    }
}

#[test]
fn a_caller_tells_which_one_it_is() {
    prepare("one.c", &[], true).loads("23 33", "17 33");
    prepare("two.c", &[], true).loads("23 33", "23 27");
}

#[test]
fn the_symbol_table_tells_which_one_it_is() {
    prepare("one.c", &[], false)
        .without_callers()
        .loads("23 33", "17 33");
    prepare("two.c", &[], false)
        .without_callers()
        .loads("23 33", "23 27");
}

#[test]
fn nothing_tells_which_one_it_is() {
    let case = prepare("two.c", &[], true).without_callers();
    let module = case.module();
    let mut program = Program::start(&case.path);
    let mut engine = Engine::open(program.pid()).expect("open");
    let error = load(&mut engine, "fix", &module, &[]).expect_err("ambiguous");
    assert_eq!(error.errno(), Errno::EINVAL);
    let text = error.to_string();
    assert!(
        text.starts_with("function 'same' (two.c) of program: 2 places"),
        "{text}"
    );
    assert!(error.help().expect("help").contains("debug symbols"));
    assert_eq!(program.ask("abcd"), "23 33");
    drop(engine);
    program.finish();
}

#[test]
fn folded_by_the_linker_they_are_one_place() {
    let flags = ["-ffunction-sections", "-fuse-ld=gold", "-Wl,--icf=all"];
    for stripped in [false, true] {
        let case = prepare("one.c", &flags, stripped);
        if !stripped {
            let places = &list_symbols(&case.path)["same"];
            assert!(
                places.windows(2).all(|pair| pair[0] == pair[1]),
                "{places:?}"
            );
        }
        let report = case.without_callers().report();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(report.functions.len(), 1);
    }
}

#[test]
fn folded_functions_are_not_replaced_separately() {
    let flags = ["-ffunction-sections", "-fuse-ld=gold", "-Wl,--icf=all"];
    let mut case = prepare("one.c", &flags, true);
    let mut second = case.code.functions[0].clone();
    let found = case.code.symbols.iter().position(|symbol| {
        symbol.name == "same" && symbol.file.as_deref() == Some("two.c") && symbol.place.is_some()
    });
    second.symbol = found.expect("symbol") as u32;
    second.old_sympos = 2;
    case.code.functions.push(second);
    let problems = case.report().problems;
    assert!(
        problems[0].contains("one with 'same' (one.c)"),
        "{problems:?}"
    );
}

#[test]
fn names_that_contradict_the_match_are_refused() {
    let source = |used: &str| {
        format!(
            "static int first, second;\n\
             int step(void) {{ return ++{used}; }}\n\
             int both(void) {{ first++; second++; return first + second; }}\n"
        )
    };
    let main = r#"
#include <stdio.h>
int step(void), both(void);
int main(void)
{
	char line[256];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%d %d\n", step(), both());
		fflush(stdout);
	}
	return 0;
}
"#;
    let workshop = Workshop::new();
    workshop.write("main.c", main);
    workshop.write("step.c", &source("first"));
    let objects = workshop.compile_pre("gcc", &["step.c"], &["-O2"]);
    let plan = Plan {
        replaced: &[("step", "")],
        wanted: &[("first", "step.c")],
        ..Plan::default()
    };
    let code = read_objects(&objects, &plan);
    let patch = PATCH.replace("same", "step");
    let module = workshop.matched_module("fix", &patch, &code);
    for (used, refused) in [("first", false), ("second", true)] {
        workshop.write("step.c", &source(used));
        let path = workshop.build("gcc", "program", &["-O2", "main.c", "step.c"]);
        let program = Program::start(&path);
        let problems = examine(program.pid(), "fix", &module).problems;
        program.finish();
        assert_eq!(!problems.is_empty(), refused, "{problems:?}");
        if refused {
            assert!(problems[0].contains("'first' would be at"), "{problems:?}");
        }
    }
}
