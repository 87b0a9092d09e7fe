//! States that are set up when they appear and taken back when they disappear (design section 9).

use std::fmt::Write;

use nix::errno::Errno;

use crate::scene::{Scene, expect_refused, livepatch};

/// A state, as its fields in `struct klp_state` besides the id and the callbacks.
type State<'a> = (u32, &'a str);

/// A livepatch that lets `first` answer with a number, and whose states tell of themselves; each
/// has two shadow variables from pre_patch on.
fn managing(answer: i32, states: &[State<'_>], fields: &str) -> String {
    let mut body = String::from(
        r#"
static int refused;
module_param(refused, int, 0644);
static char keys[2];
static void say(const char *what, struct klp_patch *patch, struct klp_state *state)
{
	pr_info("%s %lu%s\n", what, state->id,
		klp_get_state(patch, state->id) == state ? "" : " of another patch");
}
static int prepare(struct klp_patch *patch, struct klp_state *state)
{
	say("prepare", patch, state);
	for (int i = 0; i < 2; i++)
		klp_shadow_alloc(&keys[i], state->id, 8, GFP_KERNEL, NULL, NULL);
	return (unsigned long)refused == state->id ? -EACCES : 0;
}
static void begin(struct klp_patch *patch, struct klp_state *state) { say("begin", patch, state); }
static void end(struct klp_patch *patch, struct klp_state *state) { say("end", patch, state); }
static void clean(struct klp_patch *patch, struct klp_state *state) { say("clean", patch, state); }
__attribute__((unused)) static void drop(void *obj, void *data) { pr_info("drop\n"); }
#define OWN .callbacks.pre_patch = prepare, .callbacks.post_patch = begin, \
	.callbacks.pre_unpatch = end, .callbacks.post_unpatch = clean
"#,
    );
    let _ = writeln!(body, "static int new_first(void) {{ return {answer}; }}");
    body += "FUNCS(funcs, { \"first\", new_first });\n";
    body += "static struct klp_object objs[] = { { .funcs = funcs, .callbacks = TELL }, {} };\n";
    body += "static struct klp_state states[] = {\n";
    for (id, more) in states {
        let _ = writeln!(body, "\t{{ .id = {id}, OWN, {more} }},");
    }
    body += "\t{} };\n";
    livepatch(&body, &format!(".states = states, {fields}"))
}

const SHADOW: &str = ".is_shadow = true, .callbacks.shadow_dtor = drop";
const REPLACE: &str = ".replace = true";

/// What callbacks have said since, without what those of objects say of the object.
fn said(scene: &Scene, from: usize) -> Vec<String> {
    let log = scene.log_from(from).into_iter();
    let is_own = |line: &String| {
        let name = line.split_once(": ").map(|(name, _)| name);
        name.is_some_and(|name| !name.contains([' ', '\'']))
    };
    let own = log.filter(is_own);
    own.map(|line| line.split(" main").next().unwrap_or("").to_owned())
        .collect()
}

#[test]
fn a_state_is_set_up_when_it_appears_and_taken_back_when_it_disappears() {
    let mut scene = Scene::set();
    let v1 = managing(100, &[(1, "")], REPLACE);
    let v2 = managing(101, &[(1, ""), (2, SHADOW)], REPLACE);
    scene.install("v1", &v1);
    assert_eq!(
        said(&scene, 0),
        [
            "v1: prepare 1",
            "v1: pre_patch",
            "v1: begin 1",
            "v1: post_patch"
        ]
    );

    // State 1 is carried over: nothing is done for it.
    let before = scene.log_length();
    scene.install("v2", &v2);
    assert_eq!(
        said(&scene, before),
        [
            "v2: prepare 2",
            "v2: pre_patch",
            "v2: begin 2",
            "v2: post_patch"
        ]
    );
    scene.expect_answers(101, 2);

    // The downgrade takes state 2 back with the callbacks of the patch that has it.
    let before = scene.log_length();
    scene.engine.unload("v1").expect("unload");
    scene.install("v1", &v1);
    assert_eq!(
        said(&scene, before),
        [
            "v1: pre_patch",
            "v2: end 2",
            "v1: post_patch",
            "v2: clean 2",
            "v2: drop",
            "v2: drop"
        ]
    );
    scene.expect_answers(100, 2);

    // State 1 was set up by a patch that is long gone.
    let before = scene.log_length();
    scene.disable("v1");
    assert_eq!(
        said(&scene, before),
        [
            "v1: pre_unpatch",
            "v1: end 1",
            "v1: post_unpatch",
            "v1: clean 1"
        ]
    );
    scene.expect_answers(1, 2);
    scene.program.finish();
}

#[test]
fn a_reversed_replace_rolls_back_both_sides() {
    let mut scene = Scene::set();
    scene.install("v1", &managing(100, &[(1, SHADOW)], REPLACE));
    assert_eq!(scene.program.ask("park"), "parked");
    let before = scene.log_length();
    let held = managing(101, &[(2, SHADOW)], REPLACE)
        .replace("\"first\", new_first", "\"linger\", new_first");
    scene.load("v2", &held).expect("load");
    scene.expect_blocked_in("linger");
    scene.disable("v2");
    assert_eq!(
        said(&scene, before),
        [
            "v2: prepare 2",
            "v2: pre_patch",
            "v1: end 1",
            "v2: post_unpatch",
            "v2: clean 2",
            "v2: drop",
            "v2: drop",
            "v1: begin 1"
        ]
    );
    scene.expect_answers(100, 2);
    assert_eq!(scene.program.ask("release"), "4");
    scene.program.finish();
}

#[test]
fn a_state_that_refuses_leaves_nothing() {
    let mut scene = Scene::set();
    scene.install("v1", &managing(100, &[(1, "")], REPLACE));
    let before = scene.log_length();
    let v2 = managing(101, &[(2, SHADOW), (3, SHADOW)], REPLACE);
    let refused = scene.load_with("v2", &v2, &[("refused", "3")]);
    expect_refused(
        refused,
        Errno::EACCES,
        "pre_patch callback of state 3 returned -13",
    );
    // What it had allocated before it refused is freed, too; v1 and its state were not touched.
    assert_eq!(
        said(&scene, before),
        [
            "v2: prepare 2",
            "v2: prepare 3",
            "v2: clean 2",
            "v2: drop",
            "v2: drop",
            "v2: drop",
            "v2: drop"
        ]
    );
    let log = scene.log_from(before);
    let line = "pre-patch callback failed for state 3";
    assert!(log.iter().any(|entry| entry == line), "{log:#?}");
    scene.expect_answers(100, 2);
    scene.program.finish();
}

#[test]
fn a_state_goes_with_the_last_patch_that_has_it() {
    let mut scene = Scene::set();
    scene.install("a", &managing(100, &[(1, SHADOW)], ""));
    let before = scene.log_length();
    scene.install("b", &managing(101, &[(1, SHADOW)], ""));
    scene.disable("b");
    assert_eq!(
        said(&scene, before),
        [
            "b: pre_patch",
            "b: post_patch",
            "b: pre_unpatch",
            "b: post_unpatch"
        ]
    );
    let before = scene.log_length();
    scene.disable("a");
    assert_eq!(
        said(&scene, before)[1..],
        [
            "a: end 1",
            "a: post_unpatch",
            "a: clean 1",
            "a: drop",
            "a: drop"
        ]
    );
    scene.program.finish();
}

#[test]
fn what_cannot_be_taken_back_is_neither_disabled_nor_dropped() {
    let mut scene = Scene::set();
    let blocked = ".block_disable = true";
    scene.install("v1", &managing(100, &[(1, blocked)], REPLACE));
    let before = scene.log_length();
    let refused = scene.engine.disable("v1", false);
    let why = "state 1 of 'v1' would disappear, and it cannot be taken back";
    expect_refused(refused, Errno::EINVAL, why);
    expect_refused(
        scene.load("v2", &managing(101, &[], REPLACE)),
        Errno::EINVAL,
        why,
    );
    assert_eq!(said(&scene, before), [""; 0]);
    scene.expect_answers(100, 2);
    // Beside it, or with it, is another matter.
    scene.install("v3", &managing(102, &[(1, "")], REPLACE));
    scene.expect_answers(102, 2);
    scene.disable("v3");
    scene.expect_answers(1, 2);
    scene.program.finish();
}

/// Until every thread has been moved, a transition can be reversed whatever it brings.
#[test]
fn the_transition_that_brings_it_can_still_be_reversed() {
    let mut scene = Scene::set();
    assert_eq!(scene.program.ask("park"), "parked");
    let source = managing(101, &[(1, ".block_disable = true")], "")
        .replace("\"first\", new_first", "\"linger\", new_first");
    scene.load("v1", &source).expect("load");
    scene.expect_blocked_in("linger");
    let before = scene.log_length();
    scene.disable("v1");
    assert_eq!(said(&scene, before), ["v1: post_unpatch", "v1: clean 1"]);
    assert_eq!(scene.program.ask("release"), "4");
    scene.program.finish();
}

#[test]
fn who_carries_a_state_on_must_be_able_to_take_it_back() {
    let mut scene = Scene::set();
    scene.install("v1", &managing(100, &[(1, SHADOW)], REPLACE));
    let plain = managing(101, &[(1, "")], REPLACE);
    let why = "does not own the shadow variables that the installed one owns";
    expect_refused(scene.load("v2", &plain), Errno::EINVAL, why);
    let as_in_the_kernel = plain.replace("OWN, ", "");
    let why = "lacks the callbacks that it was installed with";
    expect_refused(scene.load("v2", &as_in_the_kernel), Errno::EINVAL, why);
    let helpless = managing(101, &[(1, SHADOW)], REPLACE)
        .replace(
            ".callbacks.pre_unpatch = end, .callbacks.post_unpatch = clean",
            ".version = 0",
        )
        .replace("static void end", "__attribute__((unused)) static void end")
        .replace(
            "static void clean",
            "__attribute__((unused)) static void clean",
        );
    let why = "has no callback that takes it back";
    expect_refused(scene.load("v2", &helpless), Errno::EINVAL, why);
    scene.expect_answers(100, 2);
    scene.program.finish();
}

#[test]
fn forced_threads_keep_the_shadow_variables_that_they_may_use() {
    let mut scene = Scene::set();
    let source = managing(101, &[(1, SHADOW)], "")
        .replace("\"first\", new_first", "\"sink\", new_sink")
        .replace(
            "FUNCS(funcs",
            "extern int linger(int fd);\nextern int ends[];\n\
                 static int new_sink(int depth) { return linger(ends[0]) + 1; }\nFUNCS(funcs",
        )
        .replace(
            "static int new_first",
            "__attribute__((unused)) static int new_first",
        );
    scene.install("v1", &source);
    assert_eq!(scene.program.ask("sink"), "parked");
    scene.engine.disable("v1", false).expect("disable");
    scene.expect_blocked_in("sink");
    let before = scene.log_length();
    scene.engine.force().expect("force");
    scene.settle();
    assert_eq!(said(&scene, before), ["v1: post_unpatch", "v1: clean 1"]);
    let log = scene.log_from(before);
    let line = "shadow variables of state 1 are kept: threads were forced out of 'v1'";
    assert!(log.iter().any(|entry| entry == line), "{log:#?}");
    assert_eq!(scene.program.ask("release"), (5 - 300).to_string());
    scene.program.finish();
}

#[test]
fn replace_sets_leave_each_other_alone() {
    let mut scene = Scene::set();
    let in_set = |function: &str, answer: i32, fields: &str| {
        crate::scene::answering(&[(function, answer)], &format!("{REPLACE}, {fields}"))
    };
    scene.install("base1", &in_set("first", 100, ""));
    scene.install("extra1", &in_set("second", 200, ".replace_set = 7"));
    scene.expect_answers(100, 200);
    // A replace in one set takes out what is older in it, and nothing else.
    scene.install("base2", &in_set("linger", 5, ""));
    scene.expect_answers(1, 200);
    scene.install("extra2", &in_set("second", 201, ".replace_set = 7"));
    scene.expect_answers(1, 201);
    let status = scene.status();
    let enabled = status.patches.iter().filter(|patch| patch.enabled);
    let names: Vec<String> = enabled
        .map(|patch| format!("{} {}", patch.name, patch.replace_set))
        .collect();
    assert_eq!(names, ["base2 0", "extra2 7"]);
    // What one set has changed is not another's to change.
    let refused = scene.load("rival", &in_set("second", 300, ""));
    let why = "function 'second' belongs to patch 'extra2' of replace set 7, too";
    expect_refused(refused, Errno::EINVAL, why);
    let states = |set: &str| managing(100, &[(1, "")], set);
    scene.install("states", &states(".replace_set = 8"));
    let other = states(".replace_set = 9").replace("\"first\"", "\"sink\"");
    let why = "state 1 belongs to patch 'states' of replace set 8, too";
    expect_refused(scene.load("other", &other), Errno::EINVAL, why);
    scene.expect_answers(100, 201);
    for name in ["states", "extra2", "base2"] {
        scene.disable(name);
    }
    scene.expect_answers(1, 2);
    scene.program.finish();
}

#[test]
fn a_module_compiled_with_other_headers_is_refused() {
    let mut scene = Scene::set();
    let source = managing(100, &[], "");
    let mut module = scene.workshop.module("v1", &source);
    let mark = b"engraft=2\0";
    let places: Vec<usize> = (0..module.len())
        .filter(|at| module[*at..].starts_with(mark))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        module[at + 8] = b'1';
    }
    let refused = crate::support::load(&mut scene.engine, "v1", &module, &[]);
    expect_refused(
        refused,
        Errno::ENOEXEC,
        "compiled with headers of version 1, not 2",
    );
    scene.expect_answers(1, 2);
    scene.program.finish();
}
