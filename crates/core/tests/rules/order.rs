//! Order on the stack (specification 3, design section 8).

use super::common::{F, FG, G, Rig, waiting};
use engraft_core::{Progress, RefusalKind};

#[test]
fn disabling_beneath_a_newer_patch_needs_any_order() {
    let mut rig = Rig::new();
    rig.load("A", false, &[FG]).unwrap();
    rig.load("B", false, &[F]).unwrap();
    let error = rig.disable("A").unwrap_err();
    assert_eq!(error.errno(), 16);
    let text = error.to_string();
    assert!(text.contains("'B'") && text.contains("f0") && text.contains("--any-order"));
    assert_eq!(rig.disable_any("A"), Ok(Progress::Complete));
    assert_eq!(rig.runs(0), "B");
    assert_eq!(rig.runs(2), "");
    assert_eq!(rig.stack(), ["A", "B"]);
}

#[test]
fn disabling_beneath_a_patch_that_shares_nothing_is_free() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.load("B", false, &[G]).unwrap();
    assert_eq!(rig.disable("A"), Ok(Progress::Complete));
    assert_eq!(rig.enable("A"), Ok(Progress::Complete));
    assert_eq!(rig.stack(), ["A", "B"]);
}

#[test]
fn a_disabled_patch_keeps_its_place_and_may_come_back() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.load("B", false, &[F]).unwrap();
    rig.disable("B").unwrap();
    rig.disable("A").unwrap();
    assert_eq!(rig.stack(), ["A", "B"]);
    rig.enable("A").unwrap();
    assert_eq!(rig.runs(0), "A");
    rig.enable("B").unwrap();
    assert_eq!(rig.runs(0), "B");
}

#[test]
fn enabling_beneath_moves_to_the_top_only_with_any_order() {
    let mut rig = Rig::new();
    rig.register("A", false, &[F]);
    rig.load("B", false, &[F]).unwrap();
    assert_eq!(rig.enable("A").unwrap_err().errno(), 16);
    assert_eq!(rig.runs(0), "B");
    assert_eq!(rig.enable_any("A"), Ok(Progress::Complete));
    assert_eq!(rig.stack(), ["B", "A"]);
    assert_eq!(rig.runs(0), "A");
}

#[test]
fn a_move_to_the_top_is_undone_with_its_enable() {
    let mut rig = Rig::new();
    rig.register("A", false, &[F]);
    rig.veto(0, -19);
    rig.load("B", false, &[F]).unwrap();
    rig.load("C", false, &[G]).unwrap();
    assert_eq!(rig.enable_any("A").unwrap_err().errno(), 19);
    assert_eq!(rig.stack(), ["A", "B", "C"]);
    rig.process.returns.clear();
    rig.process.call(0, 0);
    waiting(&rig.enable_any("A"));
    assert_eq!(rig.stack(), ["B", "C", "A"]);
    rig.disable("A").unwrap();
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    assert_eq!(rig.stack(), ["A", "B", "C"]);
}

#[test]
fn busy_while_another_patch_is_in_transition() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.register("C", false, &[F]);
    rig.process.call(0, 2);
    waiting(&rig.load("B", true, &[G]));
    for error in [rig.disable("A").unwrap_err(), rig.enable("C").unwrap_err()] {
        assert_eq!(error.kind, RefusalKind::Busy { by: "B".to_owned() });
        assert_eq!(error.errno(), 16);
    }
    // replaced soon, but still enabled
    assert!(rig.named("A").enabled);
    assert_eq!(rig.levels("enabling patch 'C'"), []);
}

#[test]
fn compatibility_is_tested_before_busy() {
    let mut rig = Rig::new();
    rig.register_with_states("A", false, &[0], &[(7, 3)]);
    rig.process.call(0, 0);
    waiting(&rig.enable("A"));
    rig.register_with_states("B", false, &[2], &[(7, 2)]);
    assert_eq!(rig.enable("B").unwrap_err().errno(), 22);
}

#[test]
fn the_same_value_again_is_einval() {
    let mut rig = Rig::new();
    assert_eq!(rig.enable("A").unwrap_err().errno(), 2);
    rig.register("A", false, &[F]);
    assert_eq!(rig.disable("A").unwrap_err().kind, RefusalKind::NotEnabled);
    rig.process.call(0, 0);
    waiting(&rig.enable("A"));
    let error = rig.enable("A").unwrap_err();
    assert_eq!(
        (error.kind.clone(), error.errno()),
        (RefusalKind::AlreadyEnabled, 22)
    );
    rig.process.threads[0].stack.clear();
    rig.retry().unwrap();
    assert_eq!(
        rig.enable("A").unwrap_err().kind,
        RefusalKind::AlreadyEnabled
    );
}
