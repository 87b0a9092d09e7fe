//! Force and unload (specification 6 and 7).

use super::common::{F, G, Rig, waiting};
use engraft_core::{InUse, Progress, RefusalKind};

#[test]
fn force_needs_a_transition() {
    let mut rig = Rig::new();
    let error = rig.force().unwrap_err();
    assert_eq!((error.errno(), error.kind), (22, RefusalKind::NoTransition));
}

#[test]
fn forced_disable_keeps_the_module_for_ever() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.disable("A"));
    assert_eq!(rig.force(), Ok(Progress::InTransition));
    assert_eq!(
        rig.levels("forcing remaining tasks to the patched state"),
        [engraft_core::Level::Warn]
    );
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    assert_eq!(rig.runs(0), "");
    let error = rig.unload("A").unwrap_err();
    assert_eq!(
        (error.errno(), error.kind),
        (11, RefusalKind::InUse(InUse::Forced))
    );
}

#[test]
fn forced_replace_flags_the_replaced_not_the_replacing() {
    let mut rig = Rig::new();
    rig.register("never enabled", false, &[F]);
    rig.load("A", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.load("C", true, &[F]));
    rig.force().unwrap();
    rig.retry().unwrap();
    assert!(rig.named("A").forced && !rig.named("C").forced);
    assert_eq!(rig.unload("A").unwrap_err().errno(), 11);
    rig.unload("never enabled").unwrap();
    let again = rig.patch("A", false, &[F]);
    let error = rig.register_patch(again).unwrap_err();
    assert!(error.to_string().contains("another name"), "{error}");
    rig.disable("C").unwrap();
    rig.unload("C").unwrap();
}

#[test]
fn forced_enable_without_replace_flags_nobody() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.load("B", false, &[F]));
    rig.force().unwrap();
    rig.retry().unwrap();
    assert!(rig.state.patches().all(|patch| !patch.forced));
}

#[test]
fn force_after_reversal_flags_by_direction() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.load("C", true, &[G]));
    rig.process.call(1, 0);
    rig.disable("C").unwrap();
    waiting(&rig.retry());
    rig.force().unwrap();
    rig.retry().unwrap();
    assert!(rig.named("C").forced && !rig.named("A").forced);
    assert_eq!(rig.runs(0), "A");
}

#[test]
fn unload_only_what_is_not_in_use() {
    let mut rig = Rig::new();
    assert_eq!(rig.unload("A").unwrap_err().errno(), 2);
    rig.process.call(0, 0);
    waiting(&rig.load("A", false, &[F]));
    let kind = |kind| RefusalKind::InUse(kind);
    assert_eq!(rig.unload("A").unwrap_err().kind, kind(InUse::InTransition));
    rig.process.threads[0].stack.clear();
    rig.retry().unwrap();
    assert_eq!(rig.unload("A").unwrap_err().kind, kind(InUse::Enabled));
    rig.disable("A").unwrap();
    assert_eq!(rig.unload("A").unwrap().name, "A");
    assert!(rig.stack().is_empty());
}
