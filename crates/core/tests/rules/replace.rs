//! Atomic replace (specification 8 and 15).

use super::common::{F, FG, G, Obj, Rig, pair, waiting};
use engraft_core::{CallbackKind, Phase, Progress, State, Verdict};

#[test]
fn section_15_atomic_replace_end_to_end() {
    let mut rig = Rig::new();
    rig.load("A", false, &[FG, Obj("M", &[], true)]).unwrap();
    rig.load("B", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.load("C", true, &[Obj("", &[0, 4], true)]));
    let c = rig.named("C");
    assert!(c.objects[1].dynamic && c.objects[1].funcs.is_empty());
    assert_eq!(c.objects[0].funcs.iter().filter(|f| f.is_nop()).count(), 1);
    assert_eq!(rig.route(0), pair("B", "C"));
    assert_eq!(rig.route(2), pair("A", ""));
    assert_eq!(rig.route(4), pair("", "C"));
    let printed = rig.process.printed.len();
    rig.process.threads[0].stack.clear();
    rig.retry().unwrap();
    assert_eq!(rig.route(0), pair("C", "C"));
    assert_eq!(rig.route(2), None);
    assert_eq!(rig.stack(), ["C"]);
    assert_eq!(rig.replaced(), ["A", "B"]);
    assert_eq!(rig.named("C").objects.len(), 1);
    // nothing of A and B is printed
    assert_eq!(
        rig.process.printed[printed..],
        ["C: post_patch_callback: vmlinux"]
    );
    rig.disable("C").unwrap();
    assert_eq!(rig.runs(0), "");
    let error = rig.enable("A").unwrap_err();
    assert!(
        error.to_string().contains("unload it, then load it again"),
        "{error}"
    );
    assert_eq!(error.errno(), 22);
    let again = rig.patch("A", false, &[F]);
    assert_eq!(rig.register_patch(again).unwrap_err().errno(), 17);
    rig.unload("A").unwrap();
    rig.load("A", false, &[F]).unwrap();
    assert_eq!(rig.runs(0), "A");
}

#[test]
fn reversed_replace_leaves_the_old_stack_intact() {
    let mut rig = Rig::new();
    rig.load("A", false, &[FG, Obj("M", &[], true)]).unwrap();
    rig.load("B", false, &[F]).unwrap();
    let before = rig.state.stack.clone();
    rig.process.call(0, 0);
    waiting(&rig.load("C", true, &[Obj("", &[4], true)]));
    rig.process.call(1, 2);
    rig.disable("C").unwrap();
    let progress = rig.retry();
    // it went through the nop and sits in the original
    assert_eq!(
        waiting(&progress).blockers[0].verdict,
        Verdict::OnStack("f2".to_owned())
    );
    rig.process.threads[1].stack.clear();
    rig.retry().unwrap();
    assert_eq!(rig.state.stack[..2], before);
    assert_eq!((rig.runs(0), rig.runs(2)), ("B".to_owned(), "A".to_owned()));
    assert_eq!(rig.named("C").objects.len(), 1);
    assert_eq!(
        rig.process.printed.last().unwrap(),
        "C: post_unpatch_callback: vmlinux"
    );
    // and it may be tried again
    rig.process.threads[0].stack.clear();
    assert_eq!(rig.enable("C"), Ok(Progress::Complete));
    assert_eq!(rig.replaced(), ["A", "B"]);
}

#[test]
fn replace_waits_for_a_thread_in_a_replaced_function() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.process.call(0, 0);
    let progress = rig.load("C", true, &[G]);
    assert_eq!(
        waiting(&progress).blockers[0].verdict,
        Verdict::OnStack("f0".to_owned())
    );
}

#[test]
fn replace_three_deep() {
    let mut rig = Rig::new();
    for name in ["A", "B", "C"] {
        rig.load(name, name == "B", &[F]).unwrap();
    }
    assert_eq!(rig.stack(), ["B", "C"]);
    rig.load("D", true, &[G]).unwrap();
    assert_eq!(rig.stack(), ["D"]);
    assert_eq!(rig.runs(0), "");
    assert_eq!(rig.replaced(), ["A", "B", "C"]);
}

#[test]
fn a_replace_takes_only_older_patches() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.register("C", true, &[Obj("", &[4], false)]);
    rig.load("D", false, &[FG]).unwrap();
    assert_eq!(rig.enable("C"), Ok(Progress::Complete));
    assert_eq!(rig.stack(), ["C", "D"]);
    assert_eq!((rig.runs(0), rig.runs(4)), ("D".to_owned(), "C".to_owned()));
    rig.disable("D").unwrap();
    assert_eq!(rig.runs(0), "");
}

#[test]
fn previous_states_are_visible_during_a_replace() {
    let mut rig = Rig::new();
    let a = rig.register("A", false, &[F]);
    rig.register("idle", false, &[F]);
    rig.enable("A").unwrap();
    rig.process.call(0, 0);
    let c = rig.register("C", true, &[F]);
    waiting(&rig.enable("C"));
    let listed = rig.state.listed();
    assert_eq!((listed.patches, listed.transition), (vec![a, c], Some(1)));
    // stop between the final routes and post_patch
    rig.process.threads[0].stack.clear();
    let reached = |state: &State| match state.transition.as_ref().map(|t| &t.phase) {
        Some(Phase::Calling(call)) => call.kind == CallbackKind::PostPatch,
        _ => false,
    };
    rig.kill_when(|d| d.retry(), |process| reached(&process.saved));
    let listed = rig.state.listed();
    assert_eq!((listed.patches, listed.transition), (vec![a, c], Some(1)));
    assert!(!rig.named("A").enabled);
    rig.retry().unwrap();
    assert_eq!(rig.state.listed().patches, [c]);
}
