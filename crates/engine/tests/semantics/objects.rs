//! Objects: which function is meant, what callbacks see of a library, deep stacks.

use crate::scene::{LIBRARY, Scene, livepatch};
use crate::support::Workshop;

const ANSWER: &str = r#"
static volatile int one = 1;
__attribute__((noipa)) int library_answer(void) { return 1000 * one; }
"#;

fn with_library() -> Workshop {
    let workshop = Workshop::new();
    workshop.write("answer.c", ANSWER);
    workshop.build("cc", LIBRARY, &["-shared", "-fPIC", "-O2", "answer.c"]);
    workshop
}

const ON_LIBRARY: &str = r#"
static int new_answer(void) { return 1001; }
static int new_first(void) { return 100; }
FUNCS(funcs, { "library_answer", new_answer });
FUNCS(main_funcs, { "first", new_first });
FUNCS(absent_funcs, { "whatever", new_answer });
static struct klp_object objs[] = {
	{ .name = "libanswer.so.1", .funcs = funcs, .callbacks = TELL },
	{ .name = "libabsent.so", .funcs = absent_funcs, .callbacks = TELL },
	{ .funcs = main_funcs, .callbacks = TELL }, {} };
"#;

#[test]
fn callbacks_see_their_object_in_the_order_of_the_list() {
    let mut scene = opening();
    scene.install("fix", &livepatch(ON_LIBRARY, ""));
    scene.expect_answers(100, 2);
    assert_eq!(scene.program.ask("call"), "1001");
    let objects = scene.patch("fix").objects;
    let shown: Vec<_> = objects
        .iter()
        .map(|o| (o.name.as_str(), o.loaded, o.patched))
        .collect();
    assert_eq!(
        shown,
        [
            ("libanswer.so.1", true, true),
            ("libabsent.so", false, false),
            ("program", true, true),
        ]
    );
    scene.disable("fix");
    scene.expect_answers(1, 2);
    assert_eq!(scene.program.ask("call"), "1000");
    // The state is MODULE_STATE_LIVE; the object that is not loaded has no events.
    let log = scene.log_from(0);
    let said: Vec<&str> = log
        .iter()
        .map(String::as_str)
        .filter(|l| l.starts_with("fix: "))
        .collect();
    let event = |what: &str| {
        [
            format!("fix: {what} libanswer.so.1 0 prev -1"),
            format!("fix: {what} main -1 prev -1"),
        ]
    };
    let expected: Vec<String> = ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"]
        .into_iter()
        .flat_map(event)
        .collect();
    assert_eq!(said, expected);
    scene.program.finish();
}

#[test]
fn a_position_picks_among_equal_names() {
    let mut scene = Scene::set();
    let at = |position: u32| {
        livepatch(
            &format!(
                "static int new_twin(void) {{ return {position}; }}
                FUNCS(funcs, {{ \"twin\", new_twin, {position} }});
                static struct klp_object objs[] = {{ {{ .funcs = funcs }}, {{}} }};"
            ),
            "",
        )
    };
    assert_eq!(scene.program.ask("twins"), "10 20");
    scene.install("second_twin", &at(2));
    assert_eq!(scene.program.ask("twins"), "10 2");
    assert_eq!(scene.patch("second_twin").objects[0].functions[0].sympos, 2);
    scene.install("first_twin", &at(1));
    assert_eq!(scene.program.ask("twins"), "1 2");
    // They are two functions, so the order of disabling is free.
    scene.disable("second_twin");
    assert_eq!(scene.program.ask("twins"), "1 20");
    scene.program.finish();
}

/// The kernel gives up on stacks of more than 100 entries; programs recurse deeper.
#[test]
fn deep_stacks_are_read_to_their_end() {
    let first = "static int new_first(void) { return 100; }
        FUNCS(funcs, { \"first\", new_first });
        static struct klp_object objs[] = { { .funcs = funcs }, {} };";
    let sink = "static int new_sink(int depth) { return 77; }
        FUNCS(funcs, { \"sink\", new_sink });
        static struct klp_object objs[] = { { .funcs = funcs }, {} };";
    let mut scene = Scene::set();
    assert_eq!(scene.program.ask("sink"), "parked");
    // Not in its way.
    scene.install("beside", &livepatch(first, ""));
    scene.expect_answers(100, 2);
    // Three hundred frames below the innermost one that is not.
    scene.load("under", &livepatch(sink, "")).expect("load");
    scene.expect_blocked_in("sink");
    assert_eq!(scene.program.ask("release"), "4");
    scene.settle();
    scene.program.finish();
}

const ON_OPENED: &str = r#"
static int new_answer(void) { return 1001; }
FUNCS(funcs, { "library_answer", new_answer });
static struct klp_object objs[] = { { .name = "libanswer.so.1", .funcs = funcs }, {} };
"#;

const ELSEWHERE: &str = r#"
static int new_second(void) { return 200; }
FUNCS(funcs, { "second", new_second });
static struct klp_object objs[] = { { .funcs = funcs }, {} };
"#;

/// The program has opened the library.
fn opening() -> Scene {
    let mut scene = Scene::set_with(with_library());
    assert_eq!(scene.program.ask("open"), "opened");
    assert_eq!(scene.program.ask("call"), "1000");
    scene.reopen()
}

/// The library is patched.
fn opened() -> Scene {
    let mut scene = opening();
    scene.install("on_library", &livepatch(ON_OPENED, ""));
    assert_eq!(scene.program.ask("call"), "1001");
    scene
}

/// Nothing is left to be done in a library that was patched once and has been unloaded.
#[test]
fn a_library_that_is_gone_does_not_stand_in_the_way() {
    let mut scene = opened();
    scene.disable("on_library");
    assert_eq!(scene.program.ask("call"), "1000");
    assert_eq!(scene.program.ask("close"), "closed");
    let mut scene = scene.reopen();
    scene.install("elsewhere", &livepatch(ELSEWHERE, ""));
    scene.expect_answers(1, 200);
    // It waits for it, and takes it up when it is there again.
    scene.enable("on_library");
    assert_eq!(scene.program.ask("open"), "opened");
    assert_eq!(scene.program.ask("call"), "1001");
    scene.disable("on_library");
    assert_eq!(scene.program.ask("call"), "1000");
    scene.engine.unload("on_library").expect("unload");
    scene.disable("elsewhere");
    scene.expect_answers(1, 2);
    scene.program.finish();
}

#[test]
fn an_enabled_patch_outlives_its_library() {
    let mut scene = opened();
    assert_eq!(scene.program.ask("close"), "closed");
    let mut scene = scene.reopen();
    scene.install("elsewhere", &livepatch(ELSEWHERE, ""));
    scene.expect_answers(1, 200);
    scene.disable("on_library");
    scene.engine.unload("on_library").expect("unload");
    scene.expect_answers(1, 200);
    scene.program.finish();
}
