//! The tool killed at every single effect of a scenario, cancelled loads, and entries that
//! somebody else has taken.

use super::common::{Obj, Rig};
use engraft_core::sim::{Killed, check_log, original};
use engraft_core::{Error, LOG_LINES, Level, Log, Order, Phase, Progress, Stamp, State};

const LIB: Obj = Obj("lib", &[3], true);

/// Runs a replace over two patches and then a disable, killing the tool at step `at`.
fn run_killed_at(at: u64) -> (Rig, bool) {
    let mut rig = Rig::new();
    rig.load("A", false, &[Obj("", &[0, 2], true), LIB])
        .unwrap();
    rig.load("B", false, &[Obj("", &[0], true)]).unwrap();
    rig.register("C", true, &[Obj("", &[0, 4], true), LIB]);
    rig.process.kill_at = Some(rig.process.steps + at);
    let mut killed = false;
    for enable in [true, false] {
        let perform = |rig: &mut Rig| match enable {
            true => rig.drive().enable("C", Order::Reverse),
            false => rig.drive().disable("C", Order::Reverse),
        };
        if let Err(error) = perform(&mut rig) {
            assert!(matches!(error, Error::Target(Killed)), "{error}");
            killed = true;
            rig.state = rig.process.saved.clone();
            // the next invocation goes on, unless nothing had been begun
            rig.drive().retry().unwrap();
            if rig.named("C").enabled != enable {
                perform(&mut rig).unwrap();
            }
        }
        assert_eq!(rig.process.violation, None, "killed at {at}");
    }
    (rig, killed)
}

#[test]
fn killed_at_every_step() {
    let (reference, killed) = run_killed_at(0);
    assert!(!killed);
    let mut at = 1;
    loop {
        let (rig, killed) = run_killed_at(at);
        assert_eq!(rig.lines(), reference.lines(), "killed at {at}");
        assert_eq!(rig.process.printed, reference.process.printed);
        assert_eq!(rig.process.redirected(), 0);
        if !killed {
            break;
        }
        at += 1;
    }
    assert!(at > 40, "only {at} steps");
}

#[test]
fn canceled_in_the_middle_of_pre_patch() {
    let mut rig = Rig::new();
    rig.load("A", false, &[Obj("", &[2], true)]).unwrap();
    rig.register("C", true, &[Obj("", &[0], true), LIB]);
    let printed = rig.process.printed.len();
    rig.kill_when(
        |d| d.enable("C", Order::Reverse),
        |process| process.printed.len() > printed,
    );
    assert!(matches!(
        rig.state.transition.as_ref().unwrap().phase,
        Phase::Calling(_)
    ));
    assert_eq!(rig.cancel("C"), Ok(Progress::Idle));
    let expected = [
        "C: pre_patch_callback: vmlinux",
        "C: post_unpatch_callback: vmlinux",
    ];
    assert_eq!(rig.process.printed[printed..], expected);
    assert!(!rig.named("C").enabled && rig.named("A").enabled);
    rig.unload("C").unwrap();
    check_log(&rig.state.log).unwrap();
}

#[test]
fn cancel_reverses_a_running_enable_and_disables_a_finished_one() {
    let mut rig = Rig::new();
    rig.process.call(0, 0);
    rig.load("A", false, &[Obj("", &[0], true)]).unwrap();
    assert_eq!(rig.cancel("A"), Ok(Progress::InTransition));
    assert_eq!(rig.cancel("A"), Ok(Progress::InTransition));
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    assert_eq!(rig.cancel("A"), Ok(Progress::Idle));
    rig.process.threads[0].stack.clear();
    rig.enable("A").unwrap();
    assert_eq!(rig.cancel("A"), Ok(Progress::Complete));
    assert!(!rig.named("A").enabled);
}

#[test]
fn an_entry_that_cannot_be_restored_is_waited_for() {
    let mut rig = Rig::new();
    rig.load("A", false, &[Obj("", &[0], true)]).unwrap();
    rig.process.taken.insert(original(0).entry(), 16);
    let Ok(Progress::Stuck(failure)) = rig.disable("A") else {
        panic!("not stuck");
    };
    assert_eq!(failure.errno, 16);
    assert!(matches!(rig.retry(), Ok(Progress::Stuck(_))));
    assert_eq!(rig.enable("A").unwrap_err().errno(), 16);
    assert_eq!(rig.force().unwrap_err().errno(), 16);
    rig.process.taken.clear();
    assert_eq!(rig.retry(), Ok(Progress::Complete));
    assert_eq!(rig.process.redirected(), 0);
}

#[test]
fn the_state_survives_serialization() {
    let mut rig = Rig::new();
    rig.load(
        "A",
        false,
        &[Obj("", &[0, 1], true), Obj("absent", &[3], false)],
    )
    .unwrap();
    rig.process.call(0, 0);
    rig.load("C", true, &[Obj("", &[2], true)]).unwrap();
    let bytes = postcard::to_allocvec(&rig.state).unwrap();
    assert_eq!(postcard::from_bytes::<State>(&bytes).unwrap(), rig.state);
}

#[test]
fn the_log_is_bounded_and_keeps_what_matters() {
    let mut log = Log::default();
    let stamp = Stamp::default();
    log.append(Level::Notice, stamp, "enabling patch 'A'".to_owned());
    for number in 0..3 * LOG_LINES {
        let text = format!("klp_try_switch_task: worker:{number} is running");
        log.append(Level::Debug, stamp, text);
    }
    assert_eq!(log.lines().len(), LOG_LINES);
    assert_eq!(log.lines().next().unwrap().text, "enabling patch 'A'");
    assert_eq!(log.written(), 3 * LOG_LINES as u64 + 1);
}
