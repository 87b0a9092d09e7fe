//! The sequences of the kernel's selftests (test-callbacks.sh, test-state.sh and the mission
//! document) that need no library to come or go, compared line by line.

use super::common::{Obj, Rig};
use engraft_core::{Level, Progress};

const VM: Obj = Obj("", &[], true);
const MOD: Obj = Obj("mod", &[], true);
const BUSY: Obj = Obj("busy", &[0], true);
const ABSENT: Obj = Obj("absent", &[1], true);

const ENABLE: [&str; 7] = [
    "en",
    "pi",
    "pre(vmlinux)",
    "ps",
    "pc",
    "post(vmlinux)",
    "pd",
];
const DISABLE: [&str; 6] = ["ui", "unpre(vmlinux)", "us", "uc", "unpost(vmlinux)", "ud"];

fn sequence(parts: &[(&str, &[&str])]) -> Vec<String> {
    let lines = parts
        .iter()
        .flat_map(|(name, tokens)| tokens.iter().map(move |token| format!("{name} {token}")));
    lines.collect()
}

fn expect(rig: &Rig, parts: &[(&str, &[&str])]) {
    let tokens = sequence(parts);
    rig.expect_log(&tokens.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn callbacks_target_before_livepatch() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.load("D", false, &[VM, MOD, ABSENT]),
        Ok(Progress::Complete)
    );
    assert_eq!(rig.disable("D"), Ok(Progress::Complete));
    rig.unload("D").unwrap();
    rig.expect_log(&[
        "D en",
        "D pi",
        "D pre(vmlinux)",
        "D pre(mod)",
        "D ps",
        "D pc",
        "D post(vmlinux)",
        "D post(mod)",
        "D pd",
        "D ui",
        "D unpre(vmlinux)",
        "D unpre(mod)",
        "D us",
        "D uc",
        "D unpost(vmlinux)",
        "D unpost(mod)",
        "D ud",
    ]);
    assert_eq!(rig.levels("initializing"), [Level::Debug; 2]);
    assert_eq!(rig.levels("completing"), [Level::Debug; 2]);
    for notice in ["enabling", "starting", "patching complete"] {
        assert!(
            rig.levels(notice)
                .iter()
                .all(|level| *level == Level::Notice)
        );
    }
}

#[test]
fn callbacks_target_not_present() {
    let mut rig = Rig::new();
    rig.load("D", false, &[VM, ABSENT]).unwrap();
    rig.disable("D").unwrap();
    expect(&rig, &[("D", &ENABLE), ("D", &DISABLE)]);
}

#[test]
fn callbacks_pre_patch_refuses() {
    let mut rig = Rig::new();
    rig.register("D", false, &[VM, MOD]);
    rig.veto(0, -19);
    assert_eq!(rig.enable("D").unwrap_err().errno(), 19);
    rig.expect_log(&[
        "D en",
        "D pi",
        "D pre(vmlinux)",
        "pre-patch callback failed for object 'vmlinux'",
        "D failed",
        "D can",
        "D uc",
        "D ud",
    ]);
    assert_eq!(rig.levels("failed"), [Level::Warn; 2]);
    assert_eq!(rig.levels("canceling"), [Level::Debug]);
    assert!(!rig.named("D").enabled);
}

#[test]
fn callbacks_busy_target_is_reversed() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    assert!(matches!(
        rig.load("D", false, &[VM, BUSY]),
        Ok(Progress::Waiting(_))
    ));
    assert_eq!(rig.disable("D"), Ok(Progress::InTransition));
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    rig.expect_log(&[
        "D en",
        "D pi",
        "D pre(vmlinux)",
        "D pre(busy)",
        "D ps",
        "D rev",
        "D us",
        "D uc",
        "D unpost(vmlinux)",
        "D unpost(busy)",
        "D ud",
    ]);
    assert_eq!(rig.levels("reversing"), [Level::Debug]);
}

#[test]
fn callbacks_multiple_livepatches() {
    let mut rig = Rig::new();
    rig.load("D", false, &[VM, ABSENT]).unwrap();
    rig.load("D2", false, &[VM]).unwrap();
    rig.disable("D2").unwrap();
    rig.disable("D").unwrap();
    rig.unload("D2").unwrap();
    rig.unload("D").unwrap();
    expect(
        &rig,
        &[
            ("D", &ENABLE),
            ("D2", &ENABLE),
            ("D2", &DISABLE),
            ("D", &DISABLE),
        ],
    );
}

/// Test 2 of the mission document, whose log lacks the last patch's unpatch callbacks.
#[test]
fn mission_replace_keeps_callback_only_objects_patched() {
    let mut rig = Rig::new();
    rig.load("demo", false, &[VM, ABSENT]).unwrap();
    rig.load("demo2", true, &[VM, ABSENT]).unwrap();
    assert_eq!(rig.stack(), ["demo2"]);
    assert!(rig.named("demo2").objects[0].patched);
    rig.disable("demo2").unwrap();
    rig.unload("demo2").unwrap();
    rig.unload("demo").unwrap();
    expect(
        &rig,
        &[("demo", &ENABLE), ("demo2", &ENABLE), ("demo2", &DISABLE)],
    );
}

#[test]
fn mission_object_left_with_nothing_but_nops_stays_patched() {
    let mut rig = Rig::new();
    rig.load("demo", false, &[Obj("", &[0, 1], true)]).unwrap();
    rig.load("demo2", true, &[VM]).unwrap();
    assert!(rig.named("demo2").objects[0].patched);
    assert!(rig.named("demo2").objects[0].funcs.is_empty());
    assert_eq!(rig.process.redirected(), 0);
    rig.disable("demo2").unwrap();
    expect(
        &rig,
        &[("demo", &ENABLE), ("demo2", &ENABLE), ("demo2", &DISABLE)],
    );
}

#[test]
fn states_compatible_cumulative_livepatches() {
    let mut rig = Rig::new();
    rig.register_with_states("S2", true, &[0], &[(1, 2)]);
    rig.enable("S2").unwrap();
    rig.register_with_states("S3", true, &[0], &[(1, 2)]);
    rig.enable("S3").unwrap();
    rig.unload("S2").unwrap();
    rig.register_with_states("S2", true, &[0], &[(1, 2)]);
    rig.enable("S2").unwrap();
    rig.disable("S2").unwrap();
    rig.unload("S2").unwrap();
    rig.unload("S3").unwrap();
    let enable = &["en", "pi", "ps", "pc", "pd"];
    let disable = &["ui", "us", "uc", "ud"];
    expect(
        &rig,
        &[
            ("S2", enable),
            ("S3", enable),
            ("S2", enable),
            ("S2", disable),
        ],
    );
}

#[test]
fn states_incompatible_cumulative_livepatches() {
    let mut rig = Rig::new();
    rig.register_with_states("S2", true, &[0], &[(1, 2)]);
    rig.enable("S2").unwrap();
    rig.register_with_states("S1", true, &[0], &[(1, 1)]);
    assert_eq!(rig.enable("S1").unwrap_err().errno(), 22);
    rig.expect_log(&[
        "S2 en",
        "S2 pi",
        "S2 ps",
        "S2 pc",
        "S2 pd",
        "Livepatch patch (S1) is not compatible with the already installed livepatches.",
    ]);
    assert_eq!(rig.levels("compatible"), [Level::Err]);
    assert_eq!(rig.runs(0), "S2");
}

#[test]
fn redirection_refused_logs_as_a_refused_ftrace_handler() {
    let mut rig = Rig::new();
    let entry = engraft_core::sim::original(0).entry();
    rig.process.taken.insert(entry, 16);
    let error = rig.load("L", false, &[Obj("", &[0], true)]).unwrap_err();
    assert_eq!(error.errno(), 16);
    rig.expect_log(&[
        "L en",
        "L pi",
        "L pre(vmlinux)",
        "failed to register ftrace handler for function 'f0' (-16)",
        "failed to patch object 'vmlinux'",
        "L failed",
        "L can",
        "L uc",
        "L unpost(vmlinux)",
        "L ud",
    ]);
    rig.process.taken.clear();
    assert_eq!(rig.enable("L"), Ok(Progress::Complete));
}

#[test]
fn a_function_without_room_for_a_jump_logs_as_one_without_location() {
    let mut rig = Rig::new();
    let entry = engraft_core::sim::original(0).entry();
    rig.process.taken.insert(entry, 22);
    let error = rig.load("L", false, &[Obj("", &[0], false)]).unwrap_err();
    assert_eq!(error.errno(), 22);
    rig.expect_log(&[
        "L en",
        "L pi",
        "failed to find location for function 'f0'",
        "failed to patch object 'vmlinux'",
        "L failed",
        "L can",
        "L uc",
        "L ud",
    ]);
    assert_eq!(rig.levels("failed to find"), [Level::Err]);
    assert_eq!(rig.process.redirected(), 0);
}
