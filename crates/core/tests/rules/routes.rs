//! Who runs what (specification 4.8).

use super::common::{F, FG, G, Rig, pair, ranges, waiting};
use engraft_core::Progress;
use engraft_core::sim::original;

#[test]
fn table_4_8_single_patch() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    waiting(&rig.load("P1", false, &[F]));
    assert_eq!(rig.route(0), pair("", "P1"));
    rig.process.threads[0].stack.clear();
    rig.retry().unwrap();
    assert_eq!(rig.route(0), pair("P1", "P1"));
    rig.process.call(0, 0);
    waiting(&rig.disable("P1"));
    assert_eq!(rig.route(0), pair("P1", ""));
    rig.process.threads[0].stack.clear();
    rig.retry().unwrap();
    assert_eq!(rig.route(0), None);
}

#[test]
fn table_4_8_over_another_patch() {
    let mut rig = Rig::new();
    rig.load("P1", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.load("P2", false, &[F]));
    assert_eq!(rig.route(0), pair("P1", "P2"));
}

#[test]
fn table_4_8_nop() {
    let mut rig = Rig::new();
    rig.load("P1", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.load("P2", true, &[G]));
    assert_eq!(rig.route(0), pair("P1", ""));
    assert_eq!(rig.route(2), pair("", "P2"));
}

#[test]
fn table_4_8_disable_below_top_is_invisible() {
    let mut rig = Rig::new();
    rig.load("P1", false, &[FG]).unwrap();
    rig.load("P2", false, &[F]).unwrap();
    rig.process.call(0, 2);
    waiting(&rig.disable_any("P1"));
    assert_eq!(rig.route(0), pair("P2", "P2"));
    assert_eq!(rig.route(2), pair("P1", ""));
}

#[test]
fn nops_over_nothing_are_inert() {
    let mut rig = Rig::new();
    rig.register("old", false, &[F]);
    rig.process.call(0, 0);
    rig.process.call(1, 2);
    waiting(&rig.load("new", true, &[G]));
    assert!(rig.named("new").objects[0].funcs.iter().any(|f| f.is_nop()));
    assert_eq!(rig.route(0), None);
    assert_eq!(ranges(&rig), [(original(2).entry(), "f2".to_owned())]);
    rig.process.threads[1].stack.clear();
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    assert_eq!(rig.replaced(), ["old"]);
}
