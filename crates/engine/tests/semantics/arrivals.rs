//! Libraries that come and go while a patch names them (spec section 9): patched before any of
//! their code runs, with no tool there.

use nix::errno::Errno;

use crate::scene::{LIBRARY, Scene, expect_refused, livepatch};
use engraft_engine::Engine;

use crate::support::{Program, Workshop};

/// What its constructor sees is kept; what its destructor sees goes to a file.
const ANSWER: &str = r#"
#include <stdio.h>
static volatile int one = 1;
static int early;
__attribute__((noipa)) int library_answer(void) { return 1000 * one; }
__attribute__((noipa)) int library_other(void) { return 2000 * one; }
int library_early(void) { return early; }
__attribute__((constructor)) static void begin(void) { early = library_answer(); }
__attribute__((destructor)) static void end(void)
{
	FILE *file = fopen(TOLD, "w");
	if (file)
		fprintf(file, "%d", library_answer());
	if (file)
		fclose(file);
}
"#;

/// The scene with the library beside the program, not opened.
fn set() -> Scene {
    let workshop = Workshop::new();
    workshop.write("answer.c", ANSWER);
    let told = format!("-DTOLD=\"{}\"", workshop.path("told").display());
    workshop.build(
        "cc",
        LIBRARY,
        &["-shared", "-fPIC", "-O2", &told, "answer.c"],
    );
    Scene::set_with(workshop)
}

fn on_library(answer: i32, fields: &str) -> String {
    let body = format!(
        "static int new_answer(void) {{ return {answer}; }}
        static int new_first(void) {{ return 100; }}
        FUNCS(funcs, {{ \"library_answer\", new_answer }});
        FUNCS(main_funcs, {{ \"first\", new_first }});
        static struct klp_object objs[] = {{
            {{ .funcs = main_funcs, .callbacks = TELL }},
            {{ .name = \"{LIBRARY}\", .funcs = funcs, .callbacks = TELL }}, {{}} }};"
    );
    livepatch(&body, fields)
}

/// The log from a line on, without the warning that what callbacks ask is asked at no transition.
fn log_from(scene: &Scene, from: usize) -> Vec<String> {
    let mut lines = scene.log_from(from);
    lines.retain(|line| !line.contains("klp_get_prev_state"));
    lines
}

fn told(scene: &Scene) -> String {
    std::fs::read_to_string(scene.workshop.path("told")).expect("told")
}

#[test]
fn a_library_is_patched_before_its_constructors_run() {
    let mut scene = set();
    scene.install("fix", &on_library(7, ""));
    let from = scene.log_length();
    // No tool holds the process from here on.
    let Scene {
        workshop,
        mut program,
        engine,
    } = scene;
    drop(engine);
    assert_eq!(program.ask("open"), "opened");
    assert_eq!(program.ask("call library_early"), "7");
    assert_eq!(program.ask("call"), "7");
    assert_eq!(program.ask("call library_other"), "2000");
    let engine = engraft_engine::Engine::open(program.pid()).expect("open");
    let mut scene = Scene {
        workshop,
        program,
        engine,
    };
    let objects = scene.patch("fix").objects;
    assert!(objects[1].loaded && objects[1].patched, "{objects:?}");
    let library = format!("module '{LIBRARY}'");
    assert_eq!(
        log_from(&scene, from),
        [
            format!("applying patch 'fix' to loading {library}"),
            format!("fix: pre_patch {LIBRARY} 1 prev -1"),
            format!("fix: post_patch {LIBRARY} 1 prev -1"),
        ]
    );
    // From here on it is like any other.
    scene.disable("fix");
    assert_eq!(scene.program.ask("call"), "1000");
    scene.enable("fix");
    assert_eq!(scene.program.ask("call"), "7");
    let from = scene.log_length();
    assert_eq!(scene.program.ask("close"), "closed");
    assert_eq!(told(&scene), "7", "patched while its destructors run");
    let mut scene = scene.reopen();
    let objects = scene.patch("fix").objects;
    assert!(!objects[1].loaded && !objects[1].patched, "{objects:?}");
    assert_eq!(
        log_from(&scene, from),
        [
            format!("fix: pre_unpatch {LIBRARY} 2 prev -1"),
            format!("reverting patch 'fix' on unloading {library}"),
            format!("fix: post_unpatch {LIBRARY} 2 prev -1"),
        ]
    );
    scene.disable("fix");
    scene.engine.unload("fix").expect("unload");
    assert_eq!(scene.program.ask("open"), "opened");
    assert_eq!(scene.program.ask("call library_early"), "1000");
    scene.program.finish();
}

/// Lets the tool go while the program does something.
fn without_tool<R>(scene: Scene, act: impl FnOnce(&mut Program) -> R) -> (Scene, R) {
    let Scene {
        workshop,
        mut program,
        engine,
    } = scene;
    drop(engine);
    let result = act(&mut program);
    let engine = Engine::open(program.pid()).expect("open");
    let scene = Scene {
        workshop,
        program,
        engine,
    };
    (scene, result)
}

#[test]
fn a_pre_patch_callback_that_fails_refuses_the_library() {
    let mut scene = set();
    scene
        .load_with("fix", &on_library(7, ""), &[])
        .expect("load");
    scene.settle();
    let parameters = [("pre_patch_ret", "-19")];
    let body = livepatch(
        &format!(
            "static int new_other(void) {{ return 8; }}
            FUNCS(funcs, {{ \"library_other\", new_other }});
            static struct klp_object objs[] = {{
                {{ .name = \"{LIBRARY}\", .funcs = funcs, .callbacks = TELL }}, {{}} }};"
        ),
        "",
    );
    scene.load_with("veto", &body, &parameters).expect("load");
    scene.settle();
    let from = scene.log_length();
    let (mut scene, said) = without_tool(scene, |program| program.ask("open"));
    assert!(said.contains("unexpected reloc type"), "{said}");
    let module = format!("module '{LIBRARY}'");
    assert_eq!(
        log_from(&scene, from),
        [
            format!("applying patch 'fix' to loading {module}"),
            format!("fix: pre_patch {LIBRARY} 1 prev -1"),
            format!("fix: post_patch {LIBRARY} 1 prev -1"),
            format!("applying patch 'veto' to loading {module}"),
            format!("veto: pre_patch {LIBRARY} 1 prev -1"),
            format!("pre-patch callback failed for object '{LIBRARY}'"),
            format!("patch 'veto' failed for {module}, refusing to load {module}"),
            format!("fix: pre_unpatch {LIBRARY} 1 prev -1"),
            format!("reverting patch 'fix' on unloading {module}"),
            format!("fix: post_unpatch {LIBRARY} 1 prev -1"),
        ]
    );
    // Both patches are in force for everything else, and the program goes on.
    scene.expect_answers(100, 2);
    scene.disable("veto");
    let (mut scene, said) = without_tool(scene, |program| program.ask("open"));
    assert_eq!(said, "opened");
    assert_eq!(scene.program.ask("call library_early"), "7");
    assert_eq!(scene.program.ask("call library_other"), "2000");
    scene.program.finish();
}

#[test]
fn a_symbol_that_the_library_lacks_refuses_it() {
    let mut scene = set();
    let body = format!(
        "static int new_answer(void) {{ return 7; }}
        FUNCS(funcs, {{ \"library_answer\", new_answer }}, {{ \"nonesuch\", new_answer }});
        static struct klp_object objs[] = {{
            {{ .name = \"{LIBRARY}\", .funcs = funcs, .callbacks = TELL }}, {{}} }};"
    );
    scene.install("fix", &livepatch(&body, ""));
    let from = scene.log_length();
    let (mut scene, said) = without_tool(scene, |program| program.ask("open"));
    assert!(said.contains("unexpected reloc type"), "{said}");
    let module = format!("module '{LIBRARY}'");
    assert_eq!(
        log_from(&scene, from),
        [
            "symbol 'nonesuch' not found in symbol table".to_owned(),
            format!("failed to initialize patch 'fix' for {module} (-22)"),
            format!("patch 'fix' failed for {module}, refusing to load {module}"),
        ]
    );
    scene.disable("fix");
    assert_eq!(scene.program.ask("open"), "opened");
    assert_eq!(scene.program.ask("call"), "1000");
    scene.program.finish();
}

/// Two patches change one function; the newest is on top however the library comes.
#[test]
fn patches_lie_over_each_other_in_a_library_that_comes() {
    let mut scene = set();
    let of = |answer: i32| {
        livepatch(
            &format!(
                "static int new_answer(void) {{ return {answer}; }}
                FUNCS(funcs, {{ \"library_answer\", new_answer }});
                static struct klp_object objs[] = {{
                    {{ .name = \"libanswer\", .funcs = funcs }}, {{}} }};"
            ),
            "",
        )
    };
    scene.install("one", &of(1));
    scene.install("two", &of(2));
    let (mut scene, said) = without_tool(scene, |program| program.ask("open"));
    assert_eq!(said, "opened");
    assert_eq!(scene.program.ask("call library_early"), "2");
    assert_eq!(scene.program.ask("call"), "2");
    scene.disable("two");
    assert_eq!(scene.program.ask("call"), "1");
    scene.disable("one");
    assert_eq!(scene.program.ask("call"), "1000");
    scene.enable("one");
    assert_eq!(scene.program.ask("call"), "1");
    scene.program.finish();
}

/// While a thread holds up the enabling, the library comes: who is in the new universe runs the
/// new code, and post_patch waits for the end. Then the enabling is reversed.
#[test]
fn a_library_comes_in_the_middle_of_a_transition() {
    let body = format!(
        "static int new_answer(void) {{ return 7; }}
        static int new_linger(int fd) {{ return 9; }}
        FUNCS(funcs, {{ \"library_answer\", new_answer }});
        FUNCS(main_funcs, {{ \"linger\", new_linger }});
        static struct klp_object objs[] = {{
            {{ .funcs = main_funcs }},
            {{ .name = \"{LIBRARY}\", .funcs = funcs, .callbacks = TELL }}, {{}} }};"
    );
    let mut scene = set();
    assert_eq!(scene.program.ask("park"), "parked");
    scene.load("fix", &livepatch(&body, "")).expect("load");
    scene.expect_blocked_in("linger");
    let from = scene.log_length();
    let (mut scene, said) = without_tool(scene, |program| program.ask("open"));
    assert_eq!(said, "opened");
    // The main thread has been switched.
    assert_eq!(scene.program.ask("call library_early"), "7");
    assert_eq!(scene.program.ask("call"), "7");
    scene.expect_blocked_in("linger");
    let said = |scene: &Scene| -> Vec<String> {
        let lines = log_from(scene, from);
        let own = lines
            .into_iter()
            .filter(|line| !line.contains("transition"));
        own.collect()
    };
    let applying = format!("applying patch 'fix' to loading module '{LIBRARY}'");
    let pre = format!("fix: pre_patch {LIBRARY} 1 prev -1");
    assert_eq!(said(&scene), [applying.clone(), pre.clone()]);
    scene.engine.disable("fix", false).expect("reverse");
    scene.settle();
    assert_eq!(scene.program.ask("call"), "1000");
    let post = format!("fix: post_unpatch {LIBRARY} 0 prev -1");
    let complete = "'fix': unpatching complete".to_owned();
    assert_eq!(said(&scene), [applying, pre, post, complete]);
    assert_eq!(scene.program.ask("release"), "4");
    scene.program.finish();
}

/// The old patches are still in force for a library that comes while they are being replaced.
#[test]
fn a_library_comes_and_goes_during_a_replace() {
    let replacing = livepatch(
        "static int new_linger(int fd) { return 9; }
        FUNCS(funcs, { \"linger\", new_linger });
        static struct klp_object objs[] = { { .funcs = funcs }, {} };",
        ".replace = true",
    );
    let mut scene = set();
    scene.install("old", &on_library(7, ""));
    assert_eq!(scene.program.ask("park"), "parked");
    scene.load("new", &replacing).expect("load");
    scene.expect_blocked_in("linger");
    let from = scene.log_length();
    let (mut scene, said) = without_tool(scene, |program| program.ask("open"));
    assert_eq!(said, "opened");
    // The main thread is in the universe in which the function is as it was.
    assert_eq!(scene.program.ask("call library_early"), "1000");
    assert_eq!(scene.program.ask("call"), "1000");
    let (mut scene, said) = without_tool(scene, |program| program.ask("close"));
    assert_eq!(said, "closed");
    let module = format!("module '{LIBRARY}'");
    let lines = log_from(&scene, from);
    let own: Vec<_> = lines.iter().filter(|l| !l.contains("transition")).collect();
    assert_eq!(
        own,
        [
            &format!("applying patch 'old' to loading {module}"),
            &format!("old: pre_patch {LIBRARY} 1 prev -1"),
            &format!("old: post_patch {LIBRARY} 1 prev -1"),
            &format!("applying patch 'new' to loading {module}"),
            &format!("old: pre_unpatch {LIBRARY} 2 prev -1"),
            &format!("reverting patch 'old' on unloading {module}"),
            &format!("old: post_unpatch {LIBRARY} 2 prev -1"),
            &format!("reverting patch 'new' on unloading {module}"),
        ]
    );
    assert_eq!(scene.program.ask("open"), "opened");
    assert_eq!(scene.program.ask("call"), "1000");
    assert_eq!(scene.program.ask("release"), "4");
    scene.settle();
    assert_eq!(scene.program.ask("call"), "1000");
    scene.expect_answers(1, 2);
    scene.engine.unload("old").expect("unload");
    scene.program.finish();
}

#[test]
fn a_library_that_comes_and_goes_all_the_time_leaves_nothing_behind() {
    let mut scene = set();
    scene.install("fix", &on_library(7, ""));
    let mappings = |pid: i32| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
        maps.lines().count()
    };
    let (mut scene, counts) = without_tool(scene, |program| {
        let mut counts = Vec::new();
        for _ in 0..200 {
            assert_eq!(program.ask("open"), "opened");
            assert_eq!(program.ask("call library_early"), "7");
            assert_eq!(program.ask("close"), "closed");
            counts.push(mappings(program.pid()));
        }
        counts
    });
    assert_eq!(counts.first(), counts.last(), "{counts:?}");
    scene.disable("fix");
    scene.program.finish();
}

/// The patch's code refers to a function and a variable that the library keeps to itself; they
/// are bound when it comes, wherever it comes to.
#[test]
fn what_a_patch_refers_to_is_bound_when_the_library_comes() {
    let workshop = Workshop::new();
    let source = r#"
static volatile int one = 1;
static int counter = 40;
__attribute__((noipa)) static int hidden(void) { return counter++ + one; }
__attribute__((noipa)) int library_answer(void) { return 1000 * hidden(); }
"#;
    workshop.write("answer.c", source);
    workshop.build(
        "cc",
        LIBRARY,
        &["-shared", "-fPIC", "-O2", "-Wl,--build-id=none", "answer.c"],
    );
    let mut scene = Scene::set_with(workshop);
    let body = format!(
        "extern int hidden_in_library(void);
        extern int counter_of_library;
        KLP_SYM(hidden_in_library, \"{LIBRARY}\", \"hidden\", 0);
        KLP_SYM(counter_of_library, \"{LIBRARY}\", \"counter\", 0);
        static int *const place = &counter_of_library;
        static int new_answer(void) {{ return 2 * hidden_in_library() + *place; }}
        FUNCS(funcs, {{ \"library_answer\", new_answer }});
        static struct klp_object objs[] = {{
            {{ .name = \"{LIBRARY}\", .funcs = funcs }}, {{}} }};"
    );
    scene.install("fix", &livepatch(&body, ""));
    let (mut scene, said) = without_tool(scene, |program| program.ask("open"));
    assert_eq!(said, "opened", "{:?}", scene.log_from(0));
    assert_eq!(scene.program.ask("call"), (2 * 41 + 41).to_string());
    let place = |scene: &Scene| {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", scene.program.pid()));
        let maps = maps.expect("maps");
        let line = maps
            .lines()
            .find(|line| line.ends_with(LIBRARY))
            .map(str::to_owned);
        line.expect("mapped").split('-').next().map(str::to_owned)
    };
    let before = place(&scene);
    assert_eq!(scene.program.ask("close"), "closed");
    // Something else takes its place.
    assert_eq!(scene.program.ask("occupy"), "occupied");
    assert_eq!(scene.program.ask("open"), "opened");
    assert_ne!(place(&scene), before);
    assert_eq!(scene.program.ask("call"), (2 * 41 + 41).to_string());
    scene.disable("fix");
    assert_eq!(scene.program.ask("call"), "42000");
    scene.program.finish();
}

/// The constructor of a library that has come loads another one, and asks it.
#[test]
fn a_library_is_loaded_by_the_constructor_of_another() {
    let workshop = Workshop::new();
    let inner = workshop.path("libinner.so");
    workshop.write(
        "inner.c",
        "static volatile int one = 1;
        __attribute__((noipa)) int inner_answer(void) { return 5 * one; }",
    );
    workshop.build("cc", "libinner.so", &["-shared", "-fPIC", "-O2", "inner.c"]);
    let outer = format!(
        "#include <dlfcn.h>
        static volatile int one = 1;
        static int early;
        __attribute__((noipa)) int library_answer(void) {{ return 1000 * one; }}
        int library_early(void) {{ return early; }}
        __attribute__((constructor)) static void begin(void)
        {{
            void *inner = dlopen(\"{}\", RTLD_NOW);
            int (*answer)(void) = (int (*)(void))dlsym(inner, \"inner_answer\");
            early = answer() + library_answer();
        }}",
        inner.display()
    );
    workshop.write("outer.c", &outer);
    workshop.build("cc", LIBRARY, &["-shared", "-fPIC", "-O2", "outer.c"]);
    let mut scene = Scene::set_with(workshop);
    let body = format!(
        "static int new_answer(void) {{ return 700; }}
        static int new_inner(void) {{ return 50; }}
        FUNCS(funcs, {{ \"library_answer\", new_answer }});
        FUNCS(inner_funcs, {{ \"inner_answer\", new_inner }});
        static struct klp_object objs[] = {{
            {{ .name = \"libinner\", .funcs = inner_funcs }},
            {{ .name = \"{LIBRARY}\", .funcs = funcs }}, {{}} }};"
    );
    scene.install("fix", &livepatch(&body, ""));
    let (mut scene, said) = without_tool(scene, |program| program.ask("open"));
    assert_eq!(said, "opened");
    assert_eq!(scene.program.ask("call library_early"), "750");
    let objects = scene.patch("fix").objects;
    assert!(objects.iter().all(|object| object.patched), "{objects:?}");
    scene.disable("fix");
    assert_eq!(scene.program.ask("call"), "1000");
    scene.program.finish();
}

#[test]
fn a_library_in_a_namespace_of_its_own_is_refused() {
    let mut scene = set();
    assert_eq!(scene.program.ask("open apart"), "opened");
    let mut scene = scene.reopen();
    let refused = scene.load("fix", &on_library(7, ""));
    expect_refused(refused, Errno::EOPNOTSUPP, "dlmopen");
    scene.expect_answers(1, 2);
    assert_eq!(scene.program.ask("call"), "1000");
    scene.program.finish();
}

/// A tool that stays knows of what comes and goes before any patch names it.
#[test]
fn libraries_are_known_that_moved_before_a_patch_named_them() {
    let mut scene = set();
    let on_main = livepatch(
        "static int new_first(void) { return 50; }
        FUNCS(funcs, { \"first\", new_first });
        static struct klp_object objs[] = { { .funcs = funcs }, {} };",
        "",
    );
    scene.install("main", &on_main);
    assert_eq!(scene.program.ask("open"), "opened");
    scene.install("fix", &on_library(7, ""));
    let objects = scene.patch("fix").objects;
    assert!(objects[1].loaded && objects[1].patched, "{objects:?}");
    assert_eq!(scene.program.ask("call"), "7");
    scene.disable("fix");
    scene.engine.unload("fix").expect("unload");
    assert_eq!(scene.program.ask("close"), "closed");
    scene.install("fix", &on_library(8, ""));
    let objects = scene.patch("fix").objects;
    assert!(!objects[1].loaded && !objects[1].patched, "{objects:?}");
    assert_eq!(scene.program.ask("open"), "opened");
    assert_eq!(scene.program.ask("call library_early"), "8");
    scene.program.finish();
}

/// A load has the memory of the one before, and nothing of what was in it.
#[test]
fn a_library_comes_twice_during_a_disable() {
    let body = format!(
        "extern long read(int, void *, unsigned long);
        extern volatile int inside;
        static int new_answer(void) {{ return 7; }}
        static int new_linger(int fd)
        {{ char byte; inside = 1; return read(fd, &byte, 1) + 8; }}
        FUNCS(funcs, {{ \"library_answer\", new_answer }});
        FUNCS(main_funcs, {{ \"linger\", new_linger }});
        static struct klp_object objs[] = {{
            {{ .funcs = main_funcs }},
            {{ .name = \"{LIBRARY}\", .funcs = funcs }}, {{}} }};"
    );
    let mut scene = set();
    scene.install("fix", &livepatch(&body, ""));
    assert_eq!(scene.program.ask("park"), "parked");
    scene.engine.disable("fix", false).expect("disable");
    scene.expect_blocked_in("linger");
    for _ in 0..2 {
        assert_eq!(scene.program.ask("open"), "opened");
        assert_eq!(scene.program.ask("call"), "1000");
        assert_eq!(scene.program.ask("close"), "closed");
    }
    assert_eq!(scene.program.ask("release"), "9");
    scene.settle();
    scene.program.finish();
}
