//! Patches that the livepatch rules forbid.

use super::*;

#[test]
fn duplicate_name() {
    let mut scene = Scene::set();
    let module = fix(&scene.workshop, "fix");
    let mut engine = Engine::open(scene.pid()).expect("open");
    load(&mut engine, "fix", &module, &[]).expect("load");
    settle(&mut engine);
    let (code, log) = (Snapshot::of(scene.pid()).code, log_of(scene.pid()));
    let other = livepatch("static int new_answer(int q) { return -q; }", FIX_FUNCS);
    let other = scene.workshop.module("fix", &other);
    for module in [&module, &other] {
        let error = load(&mut engine, "fix", module, &[]).expect_err("the name is taken");
        expect(
            &error,
            Errno::EEXIST,
            &["load 'fix'", "of that name", "unload it first"],
        );
    }
    assert_eq!(scene.program.ask("abc"), "hello 300");
    assert!(Snapshot::of(scene.pid()).code == code, "code was changed");
    assert_eq!(log_of(scene.pid()), log);
    let status = read_status(scene.pid()).expect("status");
    assert_eq!(status.patches.len(), 1);
    assert_eq!(status.patches[0].state, PatchState::Enabled);
}

#[test]
fn without_objects() {
    let mut scene = Scene::set();
    let module = scene
        .workshop
        .module("fix", &livepatch_with("", "{}", "", ""));
    let said = ["patch 'fix'", "has no objects", "klp_patch.objs"];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
}

#[test]
fn with_an_object_without_functions_and_callbacks() {
    let mut scene = Scene::set();
    let module = scene.workshop.module("fix", &livepatch("", ""));
    let said = ["patch 'fix'", "neither funcs nor callbacks", "remove it"];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
}

#[test]
fn with_a_function_listed_twice() {
    let mut scene = Scene::set();
    let funcs = FIX_FUNCS.repeat(2);
    let module = scene.workshop.module("fix", &livepatch(FIX, &funcs));
    let said = [
        "patch 'fix'",
        "function 'answer'",
        "listed twice",
        "keep one entry",
    ];
    scene.refuses("fix", &module, Errno::EEXIST, &said);
}

#[test]
fn with_an_unknown_parameter() {
    let mut scene = Scene::set();
    let code = format!("{FIX}\nstatic int level;\nmodule_param(level, int, 0644);");
    let module = scene.workshop.module("fix", &livepatch(&code, FIX_FUNCS));
    let mut engine = Engine::open(scene.pid()).expect("open");
    let error = load(&mut engine, "fix", &module, &[("levle", "1")]).expect_err("unknown");
    let said = [
        "parameter 'levle' of module 'fix'",
        "no such parameter",
        "it has: level",
    ];
    expect(&error, Errno::EINVAL, &said);
    let error = load(&mut engine, "fix", &module, &[("level", "many")]).expect_err("no number");
    expect(
        &error,
        Errno::EINVAL,
        &["parameter 'level'", "'many' is not a number"],
    );
    drop(engine);
    scene.is_untouched();
}

fn stateful(workshop: &Workshop, name: &str, version: u32) -> Vec<u8> {
    let code = format!(
        "{FIX}\nstatic struct klp_state states[] = {{ {{ .id = 5, .version = {version} }}, {{}} }};"
    );
    let objects = "{ .funcs = funcs }, {}";
    let more = ".states = states, .replace = true";
    workshop.module(name, &livepatch_with(&code, objects, FIX_FUNCS, more))
}

#[test]
fn with_an_incompatible_state() {
    let mut scene = Scene::set();
    let mut engine = Engine::open(scene.pid()).expect("open");
    let newer = stateful(&scene.workshop, "newer", 2);
    load(&mut engine, "newer", &newer, &[]).expect("load");
    settle(&mut engine);
    let code = Snapshot::of(scene.pid()).code;
    let older = stateful(&scene.workshop, "older", 1);
    let error = load(&mut engine, "older", &older, &[]).expect_err("incompatible");
    let said = [
        "patch 'older'",
        "not compatible with 'newer'",
        "state 5",
        "disable 'newer' first",
    ];
    expect(&error, Errno::EINVAL, &said);
    assert_eq!(scene.program.ask("abc"), "hello 300");
    assert!(Snapshot::of(scene.pid()).code == code, "code was changed");
    let status = read_status(scene.pid()).expect("status");
    let names: Vec<&str> = status.patches.iter().map(|patch| &*patch.name).collect();
    assert_eq!(names, ["newer"]);
    assert_eq!(
        log_of(scene.pid()).last().map(String::as_str),
        Some(
            "livepatch: Livepatch patch (older) is not compatible with the already installed livepatches."
        )
    );
}

const CALLBACKS: &str = r#"
static int yes(struct klp_object *o) { pr_info("pre_patch of %s\n", o->name ? o->name : "main"); return 0; }
static int no(struct klp_object *o) { pr_info("refusing\n"); return -ENODEV; }
static void gone(struct klp_object *o) { pr_info("post_unpatch of %s\n", o->name ? o->name : "main"); }
static void never(struct klp_object *o) { pr_info("never\n"); }
static struct klp_func none[] = { {} };
"#;

#[test]
fn whose_pre_patch_fails() {
    let mut scene = Scene::set();
    let objects = "{ .funcs = funcs, .callbacks = { .pre_patch = yes, .post_patch = never, .post_unpatch = gone } }, \
                       { .name = \"libc.so.6\", .funcs = none, .callbacks = { .pre_patch = no, .post_patch = never, .post_unpatch = never } }, {}";
    let code = format!("{FIX}{CALLBACKS}");
    let module = scene
        .workshop
        .module("fix", &livepatch_with(&code, objects, FIX_FUNCS, ""));
    let error = scene.load("fix", &module).expect_err("pre_patch refuses");
    let said = [
        "'fix'",
        "pre_patch callback of object 'libc.so.6' returned -19",
        "log of the target",
    ];
    expect(&error, Errno::ENODEV, &said);
    scene.is_unpatched();
    assert_eq!(
        log_of(scene.pid()),
        [
            "livepatch: enabling patch 'fix'",
            "livepatch: 'fix': initializing patching transition",
            "pre_patch of main",
            "refusing",
            "livepatch: pre-patch callback failed for object 'libc.so.6'",
            "livepatch: failed to enable patch 'fix'",
            "livepatch: 'fix': canceling patching transition, going to unpatch",
            "livepatch: 'fix': completing unpatching transition",
            "post_unpatch of main",
            "livepatch: 'fix': unpatching complete",
        ]
    );
    let module = fix(&scene.workshop, "fix");
    let mut engine = Engine::open(scene.pid()).expect("open");
    load(&mut engine, "fix", &module, &[]).expect("the name is free again");
    settle(&mut engine);
    assert_eq!(scene.program.ask("abc"), "hello 300");
}
