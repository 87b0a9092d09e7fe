//! System states: what callbacks find out about older patches (specification 10).

use nix::errno::Errno;

use crate::scene::{Scene, answering, expect_refused};

/// A patch with version `version` of state 7.
fn versioned(functions: &[(&str, i32)], version: u32, fields: &str) -> String {
    let states = format!(
        "static struct klp_state states[] = {{ {{ .id = 7, .version = {version} }}, {{}} }};\n"
    );
    let source = answering(functions, &format!(".states = states, {fields}"));
    source.replace(
        "static struct klp_patch patch",
        &format!("{states}static struct klp_patch patch"),
    )
}

fn said(scene: &Scene, from: usize) -> Vec<String> {
    let log = scene.log_from(from).into_iter();
    log.filter(|line| line.contains(" prev ")).collect()
}

#[test]
fn previous_states_are_found_while_a_replace_runs() {
    let mut scene = Scene::set();
    scene.install("v1", &versioned(&[("first", 100)], 1, ".replace = true"));
    let before = scene.log_length();
    // A replace sees the older patch's state to the very end.
    scene.install("v2", &versioned(&[("first", 101)], 2, ".replace = true"));
    assert_eq!(
        said(&scene, before),
        [
            "v2: pre_patch main -1 prev 1",
            "v2: post_patch main -1 prev 1"
        ]
    );
    // Nothing is left of it afterwards.
    let before = scene.log_length();
    scene.disable("v2");
    assert_eq!(
        said(&scene, before),
        [
            "v2: pre_unpatch main -1 prev -1",
            "v2: post_unpatch main -1 prev -1"
        ]
    );
    scene.program.finish();
}

#[test]
fn a_reversed_replace_still_finds_the_previous_state() {
    let mut scene = Scene::set();
    scene.install("v1", &versioned(&[("first", 100)], 1, ".replace = true"));
    assert_eq!(scene.program.ask("park"), "parked");
    let before = scene.log_length();
    scene
        .load("v2", &versioned(&[("linger", 30)], 2, ".replace = true"))
        .expect("load");
    scene.disable("v2");
    assert_eq!(
        said(&scene, before),
        [
            "v2: pre_patch main -1 prev 1",
            "v2: post_unpatch main -1 prev 1"
        ]
    );
    assert_eq!(scene.program.ask("release"), "4");
    scene.expect_answers(100, 2);
    scene.program.finish();
}

#[test]
fn a_disable_sees_older_patches_only() {
    let mut scene = Scene::set();
    for (name, function, version) in [("a", "first", 1), ("b", "second", 2), ("c", "linger", 3)] {
        scene.install(name, &versioned(&[(function, 100)], version, ""));
    }
    let before = scene.log_length();
    scene.disable("b");
    assert_eq!(
        said(&scene, before),
        [
            "b: pre_unpatch main -1 prev 1",
            "b: post_unpatch main -1 prev 1"
        ]
    );
    // Not enabled, it is not seen either.
    let before = scene.log_length();
    scene.disable("c");
    assert_eq!(said(&scene, before)[0], "c: pre_unpatch main -1 prev 1");
    // Enabled beneath nobody, it sees what is older by then.
    let before = scene.log_length();
    scene.enable("b");
    assert_eq!(said(&scene, before)[0], "b: pre_patch main -1 prev 1");
    scene.program.finish();
}

/// What the module's data say before its init function has run is not what counts.
#[test]
fn a_version_may_come_from_a_parameter() {
    let mut scene = Scene::set();
    let source = versioned(&[("first", 101)], 0, ".replace = true").replace(
        "static int init(void) {",
        "static int version;\nmodule_param(version, int, 0444);\n\
         static int init(void) { states[0].version = version;",
    );
    scene.install("v2", &versioned(&[("first", 100)], 2, ".replace = true"));
    let older = scene.load_with("older", &source, &[("version", "1")]);
    expect_refused(older, Errno::EINVAL, "is not compatible with 'v2'");
    scene.expect_answers(100, 2);
    scene
        .load_with("newer", &source, &[("version", "3")])
        .expect("load");
    scene.settle();
    scene.expect_answers(101, 2);
    scene.disable("newer");
    scene.program.finish();
}

#[test]
fn incompatible_versions_are_refused_and_logged() {
    let mut scene = Scene::set();
    scene.install("v2", &versioned(&[("first", 100)], 2, ".replace = true"));
    let line = |name: &str| {
        format!(
            "Livepatch patch ({name}) is not compatible with the already installed livepatches."
        )
    };
    for (name, source) in [
        ("v1", versioned(&[("first", 101)], 1, ".replace = true")),
        ("v1_beside", versioned(&[("second", 201)], 1, "")),
        ("ignorant", answering(&[("first", 102)], ".replace = true")),
    ] {
        let before = scene.log_length();
        let result = scene.load(name, &source);
        expect_refused(result, Errno::EINVAL, "is not compatible with 'v2'");
        assert_eq!(scene.log_from(before), [line(name)]);
        assert_eq!(scene.status().patches.len(), 1);
        scene.expect_answers(100, 2);
    }
    // Beside it, a patch need not know the state; registered, it waits for better days.
    scene.install("beside", &answering(&[("second", 200)], ""));
    scene.register("v1", &versioned(&[("first", 101)], 1, ".replace = true"));
    expect_refused(
        scene.engine.enable("v1", false),
        Errno::EINVAL,
        "not compatible",
    );
    scene.disable("v2");
    scene.enable("v1");
    scene.expect_answers(101, 2);
    scene.program.finish();
}
