//! Atomic replace and reversal (specification 5, 8.4 and 15).

use engraft_engine::PatchState;
use nix::errno::Errno;

use crate::scene::{Scene, answering, expect_refused, livepatch, written_out};

const REPLACE: &str = ".replace = true";

#[test]
fn a_replace_takes_registered_patches_too_and_they_come_back_by_loading() {
    let mut scene = Scene::set();
    let older = answering(&[("first", 100), ("second", 200)], REPLACE);
    scene.install("older", &older);
    scene.register("idle", &answering(&[("second", 222)], ""));
    scene.install("newer", &answering(&[("first", 101)], REPLACE));
    scene.expect_answers(101, 2);
    let states: Vec<_> = ["older", "idle", "newer"]
        .map(|name| (scene.patch(name).state, scene.patch(name).refcnt))
        .to_vec();
    assert_eq!(
        states,
        [
            (PatchState::Replaced, 0),
            (PatchState::Replaced, 0),
            (PatchState::Enabled, 1),
        ]
    );
    for name in ["older", "idle"] {
        let refused = scene.engine.enable(name, true);
        expect_refused(refused, Errno::EINVAL, "unload it, then load it again");
        expect_refused(
            scene.engine.disable(name, true),
            Errno::EINVAL,
            "was replaced",
        );
    }
    expect_refused(scene.load("older", &older), Errno::EEXIST, "older");
    scene.engine.unload("older").expect("unload");
    scene.install("older", &older);
    scene.expect_answers(100, 200);
    assert_eq!(scene.patch("newer").state, PatchState::Replaced);
    // Disabling what replaced others leads to the original functions.
    scene.disable("older");
    scene.expect_answers(1, 2);
    scene.program.finish();
}

#[test]
fn a_reversed_replace_leaves_the_older_patches_as_they_were() {
    let mut scene = Scene::set();
    scene.install("older", &answering(&[("first", 100)], ""));
    scene.install("middle", &answering(&[("second", 200)], ""));
    scene.disable("older");
    assert_eq!(scene.program.ask("park"), "parked");
    let settled = scene.status().patches;
    scene
        .load(
            "newest",
            &answering(&[("first", 101), ("linger", 31)], REPLACE),
        )
        .expect("load");
    scene.expect_blocked_in("linger");
    let newest = scene.patch("newest");
    assert_eq!(newest.state, PatchState::InTransition);
    let nops: Vec<_> = newest.objects[0]
        .functions
        .iter()
        .filter(|f| f.nop)
        .collect();
    let nops: Vec<&str> = nops.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(nops, ["second"]);
    // The main thread has moved already.
    scene.expect_answers(101, 2);
    let before = scene.log_length();
    scene.disable("newest");
    scene.expect_answers(1, 200);
    assert_eq!(scene.status().patches[..2], settled[..]);
    assert_eq!(
        scene.log_from(before),
        [
            "'newest': reversing transition from patching to unpatching",
            "'newest': starting unpatching transition",
            "'newest': completing unpatching transition",
            "newest: post_unpatch main -1 prev -1",
            "'newest': unpatching complete",
        ]
    );
    let newest = scene.patch("newest");
    assert_eq!(
        (newest.state, newest.objects[0].functions.len()),
        (PatchState::Registered, 2)
    );
    assert_eq!(scene.program.ask("release"), "4");
    scene.enable("newest");
    scene.expect_answers(101, 2);
    scene.program.finish();
}

#[test]
fn shadow_variables_outlive_a_replace() {
    // Both count the calls of `first` in a shadow variable of `second`'s address.
    let counting = |step: i32, release: &str| {
        livepatch(
            &format!(
                r#"
                extern int second(void);
                static int new_first(void)
                {{
                    int *count = klp_shadow_get_or_alloc(second, 1, sizeof *count, GFP_KERNEL, NULL, NULL);
                    return *count += {step};
                }}
                static void free_all(struct klp_object *obj) {{ {release} }}
                FUNCS(funcs, {{ "first", new_first }});
                static struct klp_object objs[] = {{
                    {{ .funcs = funcs, .callbacks = {{ .post_unpatch = free_all }} }}, {{}} }};
                "#
            ),
            REPLACE,
        )
    };
    let mut scene = Scene::set();
    let release = "klp_shadow_free_all(1, NULL);";
    scene.install("by_ten", &counting(10, release));
    scene.expect_answers(10, 2);
    scene.expect_answers(20, 2);
    scene.install("by_one", &counting(1, release));
    // The replaced patch's post_unpatch has not run, nor does its unloading free anything.
    scene.engine.unload("by_ten").expect("unload");
    scene.expect_answers(21, 2);
    scene.disable("by_one");
    scene.expect_answers(1, 2);
    scene.enable("by_one");
    scene.expect_answers(1, 2);
    scene.program.finish();
}

#[test]
fn an_object_with_nothing_but_callbacks_stays_patched_through_a_replace() {
    let only_callbacks = |fields| {
        livepatch(
            "FUNCS(none);\nstatic struct klp_object objs[] = { { .funcs = none, .callbacks = TELL }, {} };",
            fields,
        )
    };
    let mut scene = Scene::set();
    scene.install("older", &only_callbacks(""));
    scene.install("newer", &only_callbacks(REPLACE));
    assert!(scene.patch("newer").objects[0].patched);
    let before = scene.log_length();
    scene.disable("newer");
    let log = scene.log_from(before);
    let said: Vec<&str> = log
        .iter()
        .map(String::as_str)
        .filter(|l| l.starts_with("newer: "))
        .collect();
    assert_eq!(
        said,
        [
            "newer: pre_unpatch main -1 prev -1",
            "newer: post_unpatch main -1 prev -1"
        ]
    );
    assert!(!log.iter().any(|line| line.contains("older")), "{log:?}");
    scene.program.finish();
}

#[test]
fn the_flag_may_be_set_by_a_parameter() {
    let source = written_out(
        r#"
        static int replace;
        module_param(replace, int, 0644);
        static int new_second(void) { return 200; }
        FUNCS(funcs, { "second", new_second });
        static struct klp_object objs[] = { { .funcs = funcs }, {} };
        static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
        static int init(void) { patch.replace = replace; return klp_enable_patch(&patch); }
        static void leave(void) { }
        module_init(init);
        module_exit(leave);
        "#,
    );
    let mut scene = Scene::set();
    scene.install("older", &answering(&[("first", 100)], ""));
    scene
        .load_with("chosen", &source, &[("replace", "0")])
        .expect("load");
    scene.settle();
    scene.expect_answers(100, 200);
    assert!(!scene.patch("chosen").replace);
    scene.disable("chosen");
    scene.engine.unload("chosen").expect("unload");
    scene
        .load_with("chosen", &source, &[("replace", "1")])
        .expect("load");
    scene.settle();
    scene.expect_answers(1, 200);
    assert!(scene.patch("chosen").replace);
    scene.program.finish();
}
