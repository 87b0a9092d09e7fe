//! Registering, enabling, disabling and unloading in every order (specification 3 and 7,
//! section 8 of the design).

use std::process::{Child, Command};

use engraft_engine::{Engine, PatchState};
use nix::errno::Errno;

use crate::scene::{Scene, answering, expect_refused, written_out};

#[test]
fn a_registered_patch_is_enabled_later_and_again() {
    let mut scene = Scene::set();
    let source = answering(&[("first", 100)], "");
    scene.register("fix", &source);
    assert_eq!(scene.log_from(0), [""; 0]);
    let patch = scene.patch("fix");
    assert_eq!(
        (patch.state, patch.enabled, patch.refcnt, patch.stack_order),
        (PatchState::Registered, false, 0, Some(1))
    );
    scene.expect_answers(1, 2);
    expect_refused(
        scene.engine.disable("fix", false),
        Errno::EINVAL,
        "not enabled",
    );
    for round in 0..2 {
        let before = scene.log_length();
        scene.enable("fix");
        assert_eq!(
            (scene.patch("fix").enabled, scene.patch("fix").refcnt),
            (true, 1)
        );
        scene.expect_answers(100, 2);
        expect_refused(
            scene.engine.enable("fix", false),
            Errno::EINVAL,
            "already enabled",
        );
        expect_refused(
            scene.engine.unload("fix"),
            Errno::EAGAIN,
            "disable it first",
        );
        scene.disable("fix");
        scene.expect_answers(1, 2);
        // Every round runs every callback, and the init function runs no more.
        assert_eq!(
            scene.log_from(before),
            [
                "enabling patch 'fix'",
                "'fix': initializing patching transition",
                "fix: pre_patch main -1 prev -1",
                "'fix': starting patching transition",
                "'fix': completing patching transition",
                "fix: post_patch main -1 prev -1",
                "'fix': patching complete",
                "'fix': initializing unpatching transition",
                "fix: pre_unpatch main -1 prev -1",
                "'fix': starting unpatching transition",
                "'fix': completing unpatching transition",
                "fix: post_unpatch main -1 prev -1",
                "'fix': unpatching complete",
            ],
            "round {round}"
        );
    }
    scene.engine.unload("fix").expect("unload");
    expect_refused(
        scene.engine.enable("fix", false),
        Errno::ENOENT,
        "load it first",
    );
    expect_refused(scene.engine.unload("fix"), Errno::ENOENT, "no such module");
    scene.program.finish();
}

#[test]
fn patches_that_share_functions_come_off_in_reverse() {
    let mut scene = Scene::set();
    scene.install("older", &answering(&[("first", 100), ("second", 200)], ""));
    scene.install("newer", &answering(&[("first", 101)], ""));
    scene.expect_answers(101, 200);
    expect_refused(
        scene.engine.disable("older", false),
        Errno::EBUSY,
        "--any-order",
    );
    scene.expect_answers(101, 200);
    scene.engine.disable("older", true).expect("disable");
    scene.settle();
    // The newer one stays in force, what only the older one changed goes back.
    scene.expect_answers(101, 2);
    expect_refused(scene.engine.enable("older", false), Errno::EBUSY, "'newer'");
    scene.engine.enable("older", true).expect("enable");
    scene.settle();
    scene.expect_answers(100, 200);
    assert_eq!(scene.patch("older").stack_order, Some(2));
    scene.program.finish();
}

/// A patch whose function is named by the init function only, so that it is not looked up
/// before.
fn naming_late(function: &str, states: &str) -> String {
    written_out(&format!(
        "static int new_second(void) {{ return 200; }}
        static struct klp_func funcs[2];
        static struct klp_object objs[] = {{ {{ .funcs = funcs }}, {{}} }};
        static struct klp_state states[] = {{ {states} {{}} }};
        static struct klp_patch patch = {{ .mod = THIS_MODULE, .states = states }};
        static int init(void) {{
            patch.objs = objs;
            funcs[0] = (struct klp_func){{ \"{function}\", new_second }};
            return klp_enable_patch(&patch);
        }}
        static void leave(void) {{ }}
        module_init(init);
        module_exit(leave);\n"
    ))
}

#[test]
fn unfit_patches_are_refused_before_the_transition_is_found_busy() {
    let mut scene = Scene::set();
    let states = "static struct klp_state states[] = { { .id = 7, .version = 3 }, {} };\n";
    let source = answering(&[("linger", 30)], ".states = states");
    let source = source.replace(
        "static struct klp_patch",
        &format!("{states}static struct klp_patch"),
    );
    assert_eq!(scene.program.ask("park"), "parked");
    scene.load("moving", &source).expect("load");
    scene.expect_blocked_in("linger");
    let before = scene.log_length();
    let incompatible = naming_late("nonesuch", "{ .id = 7, .version = 2 },");
    let result = scene.load("incompatible", &incompatible);
    expect_refused(
        result,
        Errno::EINVAL,
        "state 7 has version 2, older than the installed 3",
    );
    // The symbol is not even looked at, nor is the transition.
    let line =
        "Livepatch patch (incompatible) is not compatible with the already installed livepatches.";
    assert_eq!(scene.log_from(before), [line]);
    let before = scene.log_length();
    let result = scene.load("unknown", &naming_late("nonesuch", ""));
    expect_refused(result, Errno::EINVAL, "nonesuch");
    assert_eq!(
        scene.log_from(before),
        ["symbol 'nonesuch' not found in symbol table"]
    );
    let before = scene.log_length();
    let result = scene.load("busy", &naming_late("second", ""));
    expect_refused(result, Errno::EBUSY, "'moving' is in transition");
    assert_eq!(scene.log_from(before), [""; 0]);
    assert_eq!(scene.status().patches.len(), 1);
    // Registering is possible at any time; enabling is not.
    scene.register("waiting", &naming_late("second", ""));
    expect_refused(
        scene.engine.enable("waiting", false),
        Errno::EBUSY,
        "in transition",
    );
    assert_eq!(scene.program.ask("release"), "4");
    scene.settle();
    scene.enable("waiting");
    scene.expect_answers(1, 200);
    scene.program.finish();
}

#[test]
fn a_module_without_exit_function_stays() {
    let mut scene = Scene::set();
    let source = answering(&[("first", 100)], "").replace("module_exit(leave);", "");
    let source = source.replace("static void leave(void) { }", "");
    scene.install("stays", &source);
    scene.disable("stays");
    expect_refused(scene.engine.unload("stays"), Errno::EBUSY, "module_exit()");
    scene.enable("stays");
    scene.expect_answers(100, 2);
    scene.program.finish();
}

#[test]
fn the_module_knows_its_own_state() {
    let mut scene = Scene::set();
    scene.install(
        "aware",
        &written_out(
            r#"
            static int new_first(void) { return 100 + THIS_MODULE->state; }
            FUNCS(funcs, { "first", new_first });
            static struct klp_object objs[] = { { .funcs = funcs }, {} };
            static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
            static int init(void)
            {
                pr_info("init %d\n", THIS_MODULE->state == MODULE_STATE_COMING);
                return klp_enable_patch(&patch);
            }
            static void leave(void) { pr_info("exit %d\n", THIS_MODULE->state == MODULE_STATE_GOING); }
            module_init(init);
            module_exit(leave);
            "#,
        ),
    );
    scene.expect_answers(100, 2);
    scene.disable("aware");
    scene.engine.unload("aware").expect("unload");
    let log = scene.log_from(0);
    assert_eq!(log.first().map(String::as_str), Some("aware: init 1"));
    assert_eq!(log.last().map(String::as_str), Some("aware: exit 1"));
    scene.program.finish();
}

#[test]
fn one_tool_at_a_time() {
    let scene = Scene::set();
    expect_refused(
        Engine::open(scene.program.pid()).map(drop),
        Errno::EBUSY,
        "another engraft",
    );
    drop(scene.engine);
    Engine::open(scene.program.pid()).map(drop).expect("open");
    scene.program.finish();
}

/// Keeps one processor busy.
struct Spinner(Child);

impl Spinner {
    fn start(processor: &str) -> Self {
        let mut command = Command::new("taskset");
        let spin = command.args(["-c", processor, "sh", "-c", "while :; do :; done"]);
        Self(spin.spawn().expect("taskset"))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The thread that is lent to run callbacks sits in the function to be patched. On a busy
/// processor it takes its time to go back there.
#[test]
fn a_borrowed_thread_on_its_way_back_has_not_left_its_function() {
    let mut scene = Scene::set_under(&["taskset", "-c", "0", "nice", "-n", "19"]);
    assert_eq!(scene.program.ask("park"), "parked");
    let spinner = Spinner::start("0");
    let source = answering(&[("linger", 30)], "");
    for round in 0..10 {
        let name = format!("fix{round}");
        scene.load(&name, &source).expect("load");
        for _ in 0..3 {
            let status = scene.engine.retry().expect("retry");
            assert!(
                status.is_some(),
                "round {round}: a thread was switched in its old function"
            );
        }
        scene.engine.disable(&name, false).expect("reverse");
        scene.settle();
    }
    drop(spinner);
    assert_eq!(scene.program.ask("release"), "4");
    scene.program.finish();
}
