//! Force and what it spoils (specification 6).

use engraft_engine::PatchState;
use nix::errno::Errno;

use crate::scene::{Scene, answering, expect_refused};

const LINGER: [(&str, i32); 1] = [("linger", 30)];

/// A thread sits in the original `linger`, and a transition to a patch of it waits.
fn blocked(name: &str, fields: &str) -> Scene {
    let mut scene = Scene::set();
    scene.install("bystander", &answering(&[("second", 200)], ""));
    assert_eq!(scene.program.ask("park"), "parked");
    scene.load(name, &answering(&LINGER, fields)).expect("load");
    scene.expect_blocked_in("linger");
    scene
}

#[test]
fn without_a_transition_there_is_nothing_to_force() {
    let mut scene = Scene::set();
    scene.register("fix", &answering(&LINGER, ""));
    expect_refused(scene.engine.force(), Errno::EINVAL, "no transition");
    scene.program.finish();
}

#[test]
fn a_forced_enable_spoils_nothing() {
    let mut scene = blocked("fix", "");
    let before = scene.log_length();
    scene.engine.force().expect("force");
    scene.settle();
    assert_eq!(
        scene.log_from(before),
        [
            "forcing remaining tasks to the patched state",
            "'fix': completing patching transition",
            "fix: post_patch main -1 prev -1",
            "'fix': patching complete",
        ]
    );
    assert!(scene.status().patches.iter().all(|patch| !patch.forced));
    // The thread finishes its old call with old code.
    assert_eq!(scene.program.ask("release"), "4");
    scene.disable("fix");
    scene.engine.unload("fix").expect("unload");
    scene.program.finish();
}

#[test]
fn a_forced_replace_spoils_what_it_replaces() {
    let mut scene = blocked("fix", ".replace = true");
    scene.engine.force().expect("force");
    scene.settle();
    let bystander = scene.patch("bystander");
    assert_eq!(
        (bystander.state, bystander.forced, bystander.refcnt),
        (PatchState::Replaced, true, 1)
    );
    expect_refused(scene.engine.unload("bystander"), Errno::EAGAIN, "forced");
    let refused = scene.engine.enable("bystander", true);
    expect_refused(refused, Errno::EINVAL, "another name");
    let again = scene.load("bystander", &answering(&[("second", 200)], ""));
    expect_refused(again, Errno::EEXIST, "bystander");
    assert!(!scene.patch("fix").forced);
    assert_eq!(scene.program.ask("release"), "4");
    scene.disable("fix");
    scene.engine.unload("fix").expect("unload");
    scene.program.finish();
}

#[test]
fn a_forced_disable_spoils_the_patch_itself() {
    let mut scene = Scene::set();
    // The new `linger` waits as the old one does.
    let source = answering(&[], "").replace(
        "FUNCS(funcs, );",
        r#"#include <unistd.h>
        extern volatile int inside;
        static int new_linger(int fd) { char byte; inside = 1; return read(fd, &byte, 1) + 30; }
        FUNCS(funcs, { "linger", new_linger });"#,
    );
    scene.install("fix", &source);
    assert_eq!(scene.program.ask("park"), "parked");
    scene.engine.disable("fix", false).expect("disable");
    scene.expect_blocked_in("linger");
    expect_refused(scene.engine.unload("fix"), Errno::EAGAIN, "in transition");
    scene.engine.force().expect("force");
    scene.settle();
    let patch = scene.patch("fix");
    assert_eq!(
        (patch.enabled, patch.forced, patch.refcnt),
        (false, true, 1)
    );
    expect_refused(
        scene.engine.unload("fix"),
        Errno::EAGAIN,
        "restart the target",
    );
    // The code that the thread is still in has not gone.
    assert_eq!(scene.program.ask("release"), "31");
    assert_eq!(scene.program.ask("park"), "parked");
    assert_eq!(scene.program.ask("release"), "4");
    scene.program.finish();
}
