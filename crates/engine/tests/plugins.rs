//! Libraries come and go in several threads while patches for them come and go.

mod support;

use std::process::Command;

use engraft_engine::Engine;
use support::{Program, Workshop, load, settle};

const LIBRARIES: [&str; 3] = ["plugin_a.so", "plugin_b.so", "plugin_c.so"];

const PLUGIN: &str = r"
static volatile int one = 1;
static int early;
__attribute__((noipa)) int plugin_answer(void) { return one; }
int plugin_early(void) { return early; }
__attribute__((constructor)) static void begin(void) { early = plugin_answer(); }
";

/// A livepatch with which all three libraries answer with a number.
fn patch(workshop: &Workshop, name: &str, answer: i32, fields: &str) -> Vec<u8> {
    let objects: String = LIBRARIES
        .iter()
        .map(|library| format!("{{ .name = \"{library}\", .funcs = funcs, .callbacks = {{ pre_patch, NULL, NULL, post_unpatch }} }}, "))
        .collect();
    let source = format!(
        r#"
#include <linux/livepatch.h>
#include <linux/module.h>
static int applied;
static int new_answer(void) {{ return {answer}; }}
static int pre_patch(struct klp_object *obj) {{ __atomic_add_fetch(&applied, 1, 5); return 0; }}
static void post_unpatch(struct klp_object *obj) {{ __atomic_sub_fetch(&applied, 1, 5); }}
static struct klp_func funcs[] = {{ {{ "plugin_answer", new_answer }}, {{}} }};
static struct klp_object objs[] = {{ {objects} {{}} }};
static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs, {fields} }};
static int init(void) {{ return klp_enable_patch(&patch); }}
static void leave(void) {{ if (applied) pr_err("{name}: %d left\n", applied); }}
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#
    );
    workshop.module(name, &source)
}

fn start(workshop: &Workshop, compiler: &str) -> Program {
    workshop.write("plugin.c", PLUGIN);
    for library in LIBRARIES {
        workshop.build(compiler, library, &["-shared", "-fPIC", "-O2", "plugin.c"]);
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/plugins.c");
    let program = workshop.build(compiler, "plugins", &["-O2", "-pthread", source]);
    let mut command = Command::new(program);
    command.args(LIBRARIES.map(|library| workshop.path(library)));
    Program::start_with(command)
}

fn rounds(program: &mut Program) -> u64 {
    let answer = program.ask("count");
    let (rounds, wrong) = answer.split_once(' ').expect("two numbers");
    assert_eq!(wrong, "0", "answers that made no sense");
    rounds.parse().expect("a number")
}

/// Up, a replace, and down again; after each step a library that comes is as the step says.
fn go_round(workshop: &Workshop, program: &mut Program, times: u32) {
    let two = patch(workshop, "two", 2, "");
    let three = patch(workshop, "three", 3, ".replace = true");
    let mut engine = Engine::open(program.pid()).expect("open");
    for _ in 0..times {
        load(&mut engine, "two", &two, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("fresh"), "2 2");
        load(&mut engine, "three", &three, &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("fresh"), "3 3");
        engine.unload("two").expect("unload");
        engine.disable("three", false).expect("disable");
        settle(&mut engine);
        assert_eq!(program.ask("fresh"), "1 1");
        engine.unload("three").expect("unload");
    }
    let log = support::log_of(program.pid());
    let left: Vec<_> = log
        .iter()
        .filter(|line| line.contains("three: ") && line.contains("left"))
        .collect();
    assert!(left.is_empty(), "callbacks that were not called: {left:?}");
}

#[test]
fn while_threads_load_and_unload_them_all_the_time() {
    let workshop = Workshop::new();
    let mut program = start(&workshop, "cc");
    assert_eq!(program.ask("start"), "started");
    let before = rounds(&mut program);
    go_round(&workshop, &mut program, 4);
    assert!(
        rounds(&mut program) > before + 4,
        "nothing was loaded meanwhile"
    );
    program.finish();
}

/// In musl, what is loaded once stays; it is patched at its first load all the same.
#[test]
fn in_a_program_with_musl() {
    let workshop = Workshop::new();
    let mut program = start(&workshop, "musl-gcc");
    let two = patch(&workshop, "two", 2, "");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    drop(engine);
    assert_eq!(program.ask("fresh"), "2 2");
    let mut engine = Engine::open(program.pid()).expect("open");
    engine.disable("two", false).expect("disable");
    settle(&mut engine);
    // The constructor has run once and for all.
    assert_eq!(program.ask("fresh"), "2 1");
    engine.unload("two").expect("unload");
    program.finish();
}
