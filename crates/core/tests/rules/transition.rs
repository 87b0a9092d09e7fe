//! Transition and reversal (specification 4 and 5).

use super::common::{F, FG, Rig, waiting};
use engraft_core::{Blocker, Progress, Token, Universe, Verdict};

#[test]
fn blockers_are_reported_and_logged() {
    let mut rig = Rig::new();
    rig.process.call(1, 0);
    let progress = rig.load("A", false, &[F]);
    let pass = waiting(&progress);
    assert_eq!((pass.switched, pass.total, pass.complete), (1, 2, false));
    let verdict = Verdict::OnStack("f0".to_owned());
    let comm = "worker".to_owned();
    assert_eq!(
        pass.blockers,
        [Blocker {
            tid: 101,
            comm,
            verdict
        }]
    );
    let last = rig.state.log.lines().next_back().unwrap();
    assert_eq!(
        last.text,
        "klp_try_switch_task: worker:101 is sleeping on function f0"
    );
    assert_eq!(last.level, engraft_core::Level::Debug);
}

#[test]
fn the_check_is_all_or_nothing_per_thread() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    waiting(&rig.load("A", false, &[FG]));
    rig.process.call(0, 2);
    rig.process.call(1, 2);
    let inner = |rig: &Rig, thread: usize| rig.process.threads[thread].stack.last().unwrap().code;
    assert_eq!(inner(&rig, 0), None);
    assert_eq!(inner(&rig, 1), Some(rig.named("A").id));
    assert_eq!(rig.process.violation, None);
}

#[test]
fn new_threads_inherit() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    waiting(&rig.load("A", false, &[F]));
    let old = rig.process.spawn(rig.process.threads[0].carries);
    let new = rig.process.spawn(rig.process.threads[1].carries);
    assert_eq!(rig.process.selected(old, 0), None);
    assert!(rig.process.selected(new, 0).is_some());
    rig.process.threads[0].stack.clear();
    let progress = rig.retry();
    assert_eq!(progress, Ok(Progress::Complete));
}

#[test]
fn stall_is_noted_once_per_start() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    waiting(&rig.load("A", false, &[F]));
    let signaling = |rig: &Rig| rig.levels("signaling remaining tasks").len();
    for second in 0..40 {
        rig.process.clock += 1_000_000_000;
        waiting(&rig.retry());
        assert_eq!(
            signaling(&rig),
            usize::from(second >= 14),
            "second {second}"
        );
    }
    rig.disable("A").unwrap();
    rig.retry().unwrap();
    assert_eq!(signaling(&rig), 1);
}

#[test]
fn reversal_of_an_enable() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    waiting(&rig.load("A", false, &[FG]));
    rig.process.call(1, 2);
    let attempts = |rig: &Rig| rig.state.transition.as_ref().map(|t| t.attempts);
    assert_eq!(attempts(&rig), Some(1));
    rig.disable("A").unwrap();
    assert!(!rig.named("A").enabled);
    assert_eq!(attempts(&rig), Some(0));
    waiting(&rig.retry());
    rig.process.threads[1].stack.clear();
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    rig.expect_log(&[
        "A en",
        "A pi",
        "A pre(vmlinux)",
        "A ps",
        "A rev",
        "A us",
        "A uc",
        "A unpost(vmlinux)",
        "A ud",
    ]);
    assert_eq!(rig.process.redirected(), 0);
}

#[test]
fn reversal_of_a_disable() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    rig.process.call(0, 0);
    waiting(&rig.disable("A"));
    assert!(!rig.named("A").enabled);
    rig.enable("A").unwrap();
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    rig.disable("A").map(|p| waiting(&Ok(p)).clone()).unwrap();
    rig.process.threads[0].stack.clear();
    rig.retry().unwrap();
    rig.expect_log(&[
        "A en",
        "A pi",
        "A pre(vmlinux)",
        "A ps",
        "A pc",
        "A post(vmlinux)",
        "A pd",
        "A ui",
        "A unpre(vmlinux)",
        "A us",
        "A unrev",
        "A ps",
        "A pc",
        "A post(vmlinux)",
        "A pd",
        "A ui",
        "A unpre(vmlinux)",
        "A us",
        "A uc",
        "A unpost(vmlinux)",
        "A ud",
    ]);
}

#[test]
fn double_reversal() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    waiting(&rig.load("A", false, &[F]));
    rig.disable("A").unwrap();
    rig.enable("A").unwrap();
    rig.process.threads[0].stack.clear();
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    rig.expect_log(&[
        "A en",
        "A pi",
        "A pre(vmlinux)",
        "A ps",
        "A rev",
        "A us",
        "A unrev",
        "A ps",
        "A pc",
        "A post(vmlinux)",
        "A pd",
    ]);
    assert_eq!(rig.runs(0), "A");
}

#[test]
fn every_transition_has_its_own_token() {
    let mut rig = Rig::new();
    rig.load("A", false, &[F]).unwrap();
    let carried = rig.process.threads[0].carries;
    assert!(Token::is_token(carried));
    rig.process.call(0, 0);
    waiting(&rig.disable("A"));
    let transition = rig.state.transition.clone().unwrap();
    assert_ne!(transition.token.value(), carried);
    assert_eq!(transition.universe_of(carried), Universe::Patched);
    assert_eq!(transition.wanted_value(), transition.token.value());
    rig.enable("A").unwrap();
    let reversed = rig.state.transition.clone().unwrap();
    assert_eq!(
        (reversed.token, reversed.wanted_value()),
        (transition.token, 0)
    );
}

/// A reversal takes consistency up again: what was forced in one direction is not in the other.
#[test]
fn a_force_ends_with_a_reversal() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    waiting(&rig.load("A", false, &[F]));
    rig.force().unwrap();
    // A thread that came into being with the old code meanwhile.
    rig.process.spawn(0);
    rig.process.call(2, 0);
    rig.process.call(1, 0);
    rig.disable("A").unwrap();
    let progress = rig.retry();
    let held: Vec<i32> = waiting(&progress).blockers.iter().map(|b| b.tid).collect();
    assert_eq!(held, [101]);
}
