//! Functions of shared libraries.

use std::process::Command;

use engraft_engine::Engine;

use crate::pre_code::{Plan, read_objects};
use crate::support::{Program, Workshop, load, log_of, settle};
use crate::variants::examine;

const LIBRARY: &str = r#"
#include <stdio.h>
#include <string.h>
int exported_limit = 10;
static int served;
static __thread int depth __attribute__((tls_model("initial-exec")));
__thread int dynamic_depth = 4;
static const char *const words[] = { "zero", "one", "two" };
__attribute__((noinline)) int public_step(int x) { return x + exported_limit; }
static __attribute__((noinline)) int private_step(int x) { served++; return x * 5 + depth; }
int count(void) { return served; }
int serve(char *out, int n)
{
	depth++;
	dynamic_depth += n;
	switch (n) {
	case 0: strcpy(out, words[1]); break;
	case 1: sprintf(out, "%d", public_step(1)); break;
	case 2: sprintf(out, "%d", private_step(2)); break;
	case 3: sprintf(out, "%d", dynamic_depth); break;
	case 4: strcpy(out, words[2]); break;
	default: strcpy(out, "many"); break;
	}
	return public_step(n) + private_step(n);
}
"#;

const MAIN: &str = r#"
#include <stdio.h>
#include <string.h>
int serve(char *out, int n);
int count(void);
int main(void)
{
	char line[256], out[256];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		int value = serve(out, (int)strlen(line) - 1);
		printf("%s %d %d\n", out, value, count());
		fflush(stdout);
	}
	return 0;
}
"#;

const PATCH: &str = r#"
#include <linux/module.h>
#include <linux/livepatch.h>
extern int pre_served_IN_library, pre_exported_limit;
extern __thread int pre_depth_IN_library;
extern int pre_private_step_IN_library(int), pre_public_step(int);
static int new_serve(char *out, int n)
{
	out[0] = 'p';
	out[1] = 0;
	pre_served_IN_library = 1000;
	pre_depth_IN_library = 3;
	return pre_private_step_IN_library(n) + pre_public_step(0) + pre_exported_limit;
}
static struct klp_func funcs[] = { { .old_name = "serve", .new_func = new_serve }, {} };
static struct klp_object objs[] = { { .name = "libserve.so", .funcs = funcs }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int init(void) { return klp_enable_patch(&patch); }
static void leave(void) { }
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

fn module_for(workshop: &Workshop, wanted_more: &[(&str, &str)], patch: &str) -> Vec<u8> {
    workshop.write("library.c", LIBRARY);
    let objects = workshop.compile_pre("gcc", &["library.c"], &["-O2", "-fPIC"]);
    let mut wanted = vec![
        ("served", "library.c"),
        ("exported_limit", ""),
        ("depth", "library.c"),
        ("private_step", "library.c"),
        ("public_step", ""),
    ];
    wanted.extend(wanted_more);
    let plan = Plan {
        library: Some("libserve.so"),
        replaced: &[("serve", "")],
        wanted: &wanted,
    };
    workshop.matched_module("fix", patch, &read_objects(&objects, &plan))
}

fn build(workshop: &Workshop, flags: &[&str], strip: bool) -> Program {
    workshop.write("main.c", MAIN);
    let mut arguments = vec!["-O2", "-fPIC", "-shared", "library.c"];
    arguments.extend(flags);
    let library = workshop.build("gcc", "libserve.so", &arguments);
    if strip {
        let status = Command::new("strip").arg("-s").arg(library).status();
        assert!(status.expect("strip").success());
    }
    let program = workshop.build(
        "gcc",
        "program",
        &["-O2", "main.c", "libserve.so", "-Wl,-rpath,$ORIGIN"],
    );
    Program::start(&program)
}

#[test]
fn functions_of_a_library_are_found() {
    for (flags, strip) in [
        (&[][..], false),
        (&[], true),
        (&["-Wl,-z,now"], true),
        (&["-Wl,-z,lazy"], true),
        (&["-Wl,-Bsymbolic"], true),
        (&["-fno-plt"], true),
        (&["-Wl,-z,ibtplt", "-Wl,-z,lazy"], true),
    ] {
        println!("{flags:?}");
        let workshop = Workshop::new();
        let module = module_for(&workshop, &[], PATCH);
        let mut program = build(&workshop, flags, strip);
        let report = examine(program.pid(), "fix", &module);
        if flags.contains(&"-fno-plt") {
            // Other code than that of the patch, which was built with a PLT.
            assert_eq!(report.problems.len(), 1, "{report:?}");
            program.finish();
            continue;
        }
        assert_eq!(report.problems, Vec::<String>::new());
        assert!(report.functions[0].matched);
        let mut engine = Engine::open(program.pid()).expect("open");
        load(&mut engine, "fix", &module, &[]).expect("load");
        settle(&mut engine);
        // 2 * 5 + 3, 0 + 10, 10
        assert_eq!(program.ask("ab"), "p 33 1001");
        engine.disable("fix", false).expect("disable");
        settle(&mut engine);
        assert_eq!(program.ask(""), "one 14 1002");
        drop(engine);
        program.finish();
    }
}

#[test]
fn a_library_that_is_not_loaded_is_waited_for() {
    let workshop = Workshop::new();
    let module = module_for(&workshop, &[], PATCH);
    workshop.write("main.c", MAIN);
    workshop.write("inside.c", LIBRARY);
    let path = workshop.build("gcc", "program", &["-O2", "main.c", "inside.c"]);
    let mut program = Program::start(&path);
    assert_eq!(
        examine(program.pid(), "fix", &module).problems,
        Vec::<String>::new()
    );
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "fix", &module, &[]).expect("load");
    settle(&mut engine);
    assert_eq!(program.ask(""), "one 11 1");
    assert!(
        log_of(program.pid())
            .iter()
            .any(|line| line.contains("patching complete"))
    );
    drop(engine);
    program.finish();
}

#[test]
fn thread_local_storage_without_a_fixed_place_is_asked_for() {
    let patch = PATCH
        .replace("pre_depth_IN_library = 3;", "pre_dynamic_depth = 3;")
        .replace(
            "extern __thread int pre_depth_IN_library;",
            "extern __thread int pre_dynamic_depth;",
        );
    let workshop = Workshop::new();
    let without = LIBRARY.replace("__attribute__((tls_model(\"initial-exec\")))", "");
    workshop.write("library.c", &without);
    let objects = workshop.compile_pre("gcc", &["library.c"], &["-O2", "-fPIC"]);
    let plan = Plan {
        library: Some("libserve.so"),
        replaced: &[("serve", "")],
        wanted: &[
            ("served", "library.c"),
            ("exported_limit", ""),
            ("dynamic_depth", ""),
            ("private_step", "library.c"),
            ("public_step", ""),
        ],
    };
    let module = workshop.matched_module("fix", &patch, &read_objects(&objects, &plan));
    for flags in [&[][..], &["-Wl,-Bsymbolic"]] {
        let mut program = build(&workshop, flags, true);
        let mut engine = Engine::open(program.pid()).expect("open");
        load(&mut engine, "fix", &module, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("ab"), "p 30 1001");
        engine.disable("fix", false).expect("disable");
        settle(&mut engine);
        // The new code has set it to 3, the old code adds 3.
        assert_eq!(program.ask("abc"), "6 29 1002");
        drop(engine);
        program.finish();
    }
}

const OPENING: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
int main(int count, char **arguments)
{
	char line[256], out[256];
	void *library = NULL;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (!strcmp(line, "open\n")) {
			library = dlopen(arguments[count - 1], RTLD_NOW);
			puts(library ? "opened" : dlerror());
		} else if (!strcmp(line, "close\n")) {
			puts(dlclose(library) ? "failed" : "closed");
		} else if (!strcmp(line, "occupy\n")) {
			for (int i = 0; i < 64; i++)
				mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			puts("occupied");
		} else {
			int (*serve)(char *, int) = (int (*)(char *, int))dlsym(library, "serve");
			int value = serve(out, 0);

			printf("%s %d\n", out, value);
		}
		fflush(stdout);
	}
	return 0;
}
"#;

/// The library is stripped: nothing but the pre-patch code tells where its functions are, and
/// that was compared with an earlier load.
#[test]
fn a_later_load_of_the_same_file_is_patched_too() {
    let patch = PATCH
        .replace("pre_depth_IN_library = 3;", "")
        .replace("extern __thread int pre_depth_IN_library;", "");
    let workshop = Workshop::new();
    let module = module_for(&workshop, &[], &patch);
    workshop.write("main.c", OPENING);
    let build_library = |flags: &[&str]| {
        let mut arguments = vec!["-O2", "-fPIC", "-shared", "library.c"];
        arguments.extend(flags);
        let library = workshop.build("gcc", "libserve.so", &arguments);
        let status = Command::new("strip").arg("-s").arg(&library).status();
        assert!(status.expect("strip").success());
        library
    };
    let library = build_library(&[]);
    let path = workshop.build("gcc", "program", &["-O2", "main.c"]);
    let mut command = Command::new(path);
    command.arg(&library);
    let mut program = Program::start_with(command);
    assert_eq!(program.ask("open"), "opened");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "fix", &module, &[]).expect("load");
    settle(&mut engine);
    drop(engine);
    let patched = program.ask("serve");
    assert!(patched.starts_with("p "), "{patched}");
    // The same place, then another one.
    for _ in 0..2 {
        assert_eq!(program.ask("close"), "closed");
        assert_eq!(program.ask("open"), "opened");
        let answer = program.ask("serve");
        assert!(answer.starts_with("p "), "{answer}");
        assert_eq!(program.ask("occupy"), "occupied");
    }
    let mut engine = Engine::open(program.pid()).expect("open");
    engine.disable("fix", false).expect("disable");
    settle(&mut engine);
    assert!(program.ask("serve").starts_with("one "));
    engine.enable("fix", false).expect("enable");
    settle(&mut engine);
    assert!(program.ask("serve").starts_with("p "));
    drop(engine);
    // Another build is not what the patch was made for.
    assert_eq!(program.ask("close"), "closed");
    std::fs::remove_file(&library).expect("remove");
    build_library(&["-DOTHER", "-O1"]);
    assert_eq!(program.ask("open"), "opened");
    assert!(program.ask("serve").starts_with("one "));
    let log = log_of(program.pid());
    let said = |line: &String| line.contains("was built for another load of 'libserve.so'");
    assert!(log.iter().any(said), "{log:?}");
    program.finish();
}
