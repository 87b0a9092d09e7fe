//! What a thread must not be in (specification 4.5).

use super::common::{F, FG, G, Obj, Rig, ranges, waiting};
use engraft_core::sim::{original, replacement};
use engraft_core::{Progress, forbidden};

#[test]
fn table_4_5_patching_waits_for_what_was_active() {
    let mut rig = Rig::new();
    rig.load("A", false, &[FG]).unwrap();
    rig.load("B", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.load("C", true, &[Obj("", &[0, 4], true)]));
    // section 15: B's F (not A's), A's G because of the nop, the original H
    let expected = [
        (replacement(2, 0).entry(), "f0".to_owned()),
        (replacement(1, 2).entry(), "f2".to_owned()),
        (original(4).entry(), "f4".to_owned()),
    ];
    assert_eq!(ranges(&rig), expected);
}

#[test]
fn table_4_5_unpatching_waits_for_own_code_and_nops_for_the_original() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.load("C", true, &[G]));
    rig.disable("C").unwrap();
    let expected = [
        (original(0).entry(), "f0".to_owned()),
        (replacement(2, 2).entry(), "f2".to_owned()),
    ];
    assert_eq!(ranges(&rig), expected);
    let nop = &forbidden(&rig.state)[0];
    assert!(nop.original && nop.old_entry == original(0).entry());
}

#[test]
fn cold_parts_are_forbidden_too() {
    let mut rig = Rig::new();
    rig.process.call(0, 1);
    waiting(&rig.load("A", false, &[Obj("", &[1], false)]));
    let parts: Vec<_> = original(1).parts().map(|part| part.start).collect();
    assert_eq!(parts.len(), 2);
    assert_eq!(ranges(&rig).iter().map(|r| r.0).collect::<Vec<_>>(), parts);
}

/// Reversing the disable of the bottom entry: the kernel's code walks onto the list head.
#[test]
fn reversed_disable_below_top_checks_nothing() {
    let mut rig = Rig::new();
    rig.load("A", false, &[FG]).unwrap();
    rig.load("B", false, &[F]).unwrap();
    rig.process.call(0, 2);
    waiting(&rig.disable_any("A"));
    assert_eq!(rig.enable("A"), Ok(Progress::InTransition));
    // f0 has B on top; f2 has nothing below, so its original counts
    assert_eq!(ranges(&rig), [(original(2).entry(), "f2".to_owned())]);
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    assert_eq!(rig.runs(0), "B");
    assert_eq!(rig.runs(2), "A");
}

#[test]
fn nothing_is_forbidden_outside_a_transition() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    assert_eq!(ranges(&rig), []);
}
