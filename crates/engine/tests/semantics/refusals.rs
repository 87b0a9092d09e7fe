//! What klp_enable_patch() refuses, with which errno and which lines (specification 2).

use nix::errno::Errno;

use crate::scene::{Scene, answering, expect_refused, livepatch, written_out};

const NEW: &str = "static int new_first(void) { return 100; }\n";
const GOOD: &str = r#"FUNCS(funcs, { "first", new_first });
static struct klp_object objs[] = { { .funcs = funcs }, {} };"#;

struct Case {
    name: &'static str,
    source: String,
    errno: Errno,
    /// A part of the message.
    says: &'static str,
    /// The kernel's lines.
    log: &'static [&'static str],
}

fn body(name: &'static str, body: &str, errno: Errno, says: &'static str) -> Case {
    Case {
        name,
        source: livepatch(&format!("{NEW}{body}"), ""),
        errno,
        says,
        log: &[],
    }
}

/// The module's init function is the second part.
fn init(name: &'static str, parts: [&str; 2], errno: Errno, says: &'static str) -> Case {
    let tail = "static void leave(void) { }\nmodule_init(init);\nmodule_exit(leave);\n";
    let [patch, init] = parts;
    Case {
        name,
        source: written_out(&format!(
            "{NEW}{GOOD}\n{patch}\nstatic int init(void) {{ {init} }}\n{tail}"
        )),
        errno,
        says,
        log: &[],
    }
}

const PATCH: &str = "static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };";
const ENABLE: &str = "return klp_enable_patch(&patch);";

fn pointers() -> Vec<Case> {
    let invalid = Errno::EINVAL;
    vec![
        init(
            "no_patch",
            ["", "return klp_enable_patch(NULL);"],
            invalid,
            "the patch is NULL",
        ),
        init(
            "no_mod",
            ["static struct klp_patch patch = { .objs = objs };", ENABLE],
            invalid,
            "set it to THIS_MODULE",
        ),
        init(
            "foreign_mod",
            [
                "static struct module foreign;\n\
                 static struct klp_patch patch = { .mod = &foreign, .objs = objs };",
                ENABLE,
            ],
            invalid,
            "set it to THIS_MODULE",
        ),
        init(
            "no_objs",
            [
                "static struct klp_patch patch = { .mod = THIS_MODULE };",
                ENABLE,
            ],
            invalid,
            "klp_patch.objs is not set",
        ),
        body(
            "no_funcs",
            r#"FUNCS(funcs, { "first", new_first });
            static struct klp_object objs[] = {
                { .funcs = funcs }, { .name = "libc.so.6", .callbacks = TELL }, {} };"#,
            invalid,
            "klp_patch.objs[1].funcs is not set",
        ),
        body(
            "callbacks_in_the_terminator",
            r#"FUNCS(funcs, { "first", new_first });
            static struct klp_object objs[] = { { .funcs = funcs }, { .callbacks = TELL }, {} };"#,
            invalid,
            "klp_patch.objs[1] has callbacks, but neither name nor funcs",
        ),
        body(
            "no_objects",
            "static struct klp_object objs[] = { {} };",
            invalid,
            "has no objects",
        ),
        body(
            "nothing_to_do",
            "FUNCS(funcs);\nstatic struct klp_object objs[] = { { .funcs = funcs }, {} };",
            invalid,
            "has neither funcs nor callbacks",
        ),
        body(
            "no_new_func",
            r#"FUNCS(funcs, { "first", new_first }, { "second" });
            static struct klp_object objs[] = { { .funcs = funcs }, {} };"#,
            invalid,
            "new_func is not set",
        ),
        body(
            "no_old_name",
            r#"FUNCS(funcs, { "first", new_first }, { NULL, new_first });
            static struct klp_object objs[] = { { .funcs = funcs }, {} };"#,
            invalid,
            "funcs[1].old_name of object 'program' is not set",
        ),
        init(
            "positive",
            [PATCH, "return 5;"],
            invalid,
            "returned 5, which is neither 0 nor a negative errno",
        ),
        init(
            "fails",
            [PATCH, "return -ENXIO;"],
            Errno::ENXIO,
            "module init returned ENXIO",
        ),
    ]
}

fn names() -> Vec<Case> {
    let long = format!(
        "FUNCS(funcs, {{ \"first\", new_first }});\n\
         static struct klp_object objs[] = {{ {{ .name = \"{}\", .funcs = funcs }}, {{}} }};",
        "x".repeat(56)
    );
    vec![
        body("long_name", &long, Errno::EINVAL, "longer than 55 bytes"),
        body(
            "main_by_name",
            r#"FUNCS(funcs, { "first", new_first });
            static struct klp_object objs[] = { { .name = "program", .funcs = funcs }, {} };"#,
            Errno::EINVAL,
            "leave klp_object.name NULL",
        ),
        body(
            "function_twice",
            r#"FUNCS(funcs, { "first", new_first }, { "first", new_first, 1 });
            static struct klp_object objs[] = { { .funcs = funcs }, {} };"#,
            Errno::EEXIST,
            "'first' of object 'program' is listed twice",
        ),
        body(
            "object_twice",
            r#"FUNCS(funcs, { "first", new_first });
            FUNCS(more, { "second", new_first });
            static struct klp_object objs[] = { { .funcs = funcs }, { .funcs = more, .name = NULL }, {} };"#,
            Errno::EEXIST,
            "'program' is listed twice",
        ),
        body(
            "library_twice",
            r#"FUNCS(none);
            static struct klp_object objs[] = {
                { .name = "libc.so.6", .funcs = none, .callbacks = TELL },
                { .name = "libc", .funcs = none, .callbacks = TELL }, {} };"#,
            Errno::EEXIST,
            "'libc.so.6' is listed twice",
        ),
    ]
}

/// Functions that only the init function names are looked up when it asks.
fn late(name: &'static str, init: &str, errno: Errno, log: &'static [&'static str]) -> Case {
    let source = written_out(&format!(
        "{NEW}static struct klp_func funcs[2];
        static struct klp_object objs[] = {{ {{ .funcs = funcs }}, {{}} }};
        static struct klp_patch patch = {{ .mod = THIS_MODULE }};
        __asm__(\".text\\n.type sizeless, @function\\nsizeless: ret\\n.previous\");
        extern int sizeless(void);
        static int init(void) {{ patch.objs = objs; {init} {ENABLE} }}
        static void leave(void) {{ }}
        module_init(init);
        module_exit(leave);\n"
    ));
    Case {
        name,
        source,
        errno,
        says: "",
        log,
    }
}

fn symbols() -> Vec<Case> {
    let unknown = r#"FUNCS(funcs, { "nonesuch", new_first });
        static struct klp_object objs[] = { { .funcs = funcs }, {} };"#;
    vec![
        Case {
            log: &["symbol 'nonesuch' not found in symbol table"],
            ..body("unknown", unknown, Errno::EINVAL, "nonesuch")
        },
        late(
            "unknown_late",
            r#"funcs[0] = (struct klp_func){ "nonesuch", new_first };"#,
            Errno::EINVAL,
            &["symbol 'nonesuch' not found in symbol table"],
        ),
        late(
            "ambiguous_late",
            r#"funcs[0] = (struct klp_func){ "twin", new_first };"#,
            Errno::EINVAL,
            &["unresolvable ambiguity for symbol 'twin' in object 'program'"],
        ),
        late(
            "position_late",
            r#"funcs[0] = (struct klp_func){ "twin", new_first, 3 };"#,
            Errno::EINVAL,
            &["symbol position 3 for symbol 'twin' in object 'program' not found"],
        ),
        late(
            "sizeless",
            r#"funcs[0] = (struct klp_func){ "first", sizeless };"#,
            Errno::ENOENT,
            &["kallsyms size lookup failed for 'first' replacement"],
        ),
        Case {
            name: "unmarked",
            source: {
                let text = livepatch(&format!("{NEW}{GOOD}"), "");
                text.replace("MODULE_INFO(livepatch, \"Y\");", "")
            },
            errno: Errno::EINVAL,
            says: "add MODULE_INFO(livepatch, \"Y\")",
            log: &["module unmarked is not marked as a livepatch module"],
        },
    ]
}

fn expect_all(cases: Vec<Case>) {
    let mut scene = Scene::set();
    // There is a log once something was loaded.
    scene.register("bystander", &answering(&[("second", 200)], ""));
    for case in cases {
        let before = scene.log_length();
        let result = scene.load(case.name, &case.source);
        println!("{}: {result:?}", case.name);
        expect_refused(result, case.errno, case.says);
        assert_eq!(scene.log_from(before), case.log, "{}", case.name);
        assert_eq!(scene.status().patches.len(), 1, "{}", case.name);
        assert_eq!(scene.status().transition, None);
        scene.expect_answers(1, 2);
    }
    scene.enable("bystander");
    scene.expect_answers(1, 200);
    scene.program.finish();
}

#[test]
fn missing_pointers() {
    expect_all(pointers());
}

#[test]
fn unfit_names_and_duplicates() {
    expect_all(names());
}

#[test]
fn functions_that_cannot_be_found() {
    expect_all(symbols());
}

#[test]
fn a_patch_is_enabled_once() {
    let twice = |second: &str| {
        written_out(&format!(
            "{NEW}{GOOD}\n{PATCH}
            static int init(void) {{ int error = klp_enable_patch(&patch); {second} }}
            static void leave(void) {{ }}
            module_init(init);
            module_exit(leave);\n"
        ))
    };
    let mut scene = Scene::set();
    let result = scene.load(
        "twice",
        &twice("return error ? error : klp_enable_patch(&patch);"),
    );
    expect_refused(result, Errno::EEXIST, "already loaded");
    scene.settle();
    scene.expect_answers(1, 2);
    assert_eq!(scene.status().patches, []);
    // What was enabled is taken back in the open.
    assert_eq!(
        scene.log_from(0),
        [
            "enabling patch 'twice'",
            "'twice': initializing patching transition",
            "'twice': starting patching transition",
            "'twice': completing patching transition",
            "'twice': patching complete",
            "'twice': initializing unpatching transition",
            "'twice': starting unpatching transition",
            "'twice': completing unpatching transition",
            "'twice': unpatching complete",
        ]
    );
    // Whoever does not mind the second answer keeps the first.
    let mind = "return error ? error : klp_enable_patch(&patch) == -EEXIST ? 0 : -EPROTO;";
    scene.install("unmindful", &twice(mind));
    scene.expect_answers(100, 2);
    scene.program.finish();
}

#[test]
fn a_failing_pre_patch_passes_its_errno_on() {
    let mut scene = Scene::set();
    let source = answering(&[("first", 100)], "");
    let result = scene.load_with("fix", &source, &[("pre_patch_ret", "-19")]);
    expect_refused(result, Errno::ENODEV, "returned -19");
    assert_eq!(
        scene.log_from(0),
        [
            "enabling patch 'fix'",
            "'fix': initializing patching transition",
            "fix: pre_patch main -1 prev -1",
            "pre-patch callback failed for object 'program'",
            "failed to enable patch 'fix'",
            "'fix': canceling patching transition, going to unpatch",
            "'fix': completing unpatching transition",
            "'fix': unpatching complete",
        ]
    );
    assert_eq!(scene.status().patches, []);
    scene.expect_answers(1, 2);
    scene.install("fix", &source);
    scene.expect_answers(100, 2);
    scene.program.finish();
}
