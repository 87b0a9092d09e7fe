//! Each thread moves by itself, and only where its stack allows it.

mod support;

use engraft_engine::{Direction, PatchState, read_status};
use nix::errno::Errno;
use support::crew::{ALL, Crew, only_blocker, stall};
use support::{load, log_of, settle};

const START: [&str; 3] = [
    "livepatch: enabling patch 'two'",
    "livepatch: 'two': initializing patching transition",
    "livepatch: 'two': starting patching transition",
];

fn log_since(pid: i32, start: usize) -> Vec<String> {
    log_of(pid).split_off(start)
}

#[test]
fn a_sleeping_thread_holds_up_nobody_else() {
    let mut crew = Crew::start_spinning();
    let two = crew.patch("two", 2, &ALL, false);
    assert_eq!(crew.versions(), "1 1 1 1 1 1");
    crew.hold(2);
    crew.expect("up");
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    let status = stall(&mut engine, &crew, &[2]);
    assert_eq!(status.patch, "two");
    assert_eq!(status.target, Direction::Patched);
    assert_eq!(status.total as usize, Crew::WORKERS + 1);
    assert_eq!(crew.versions(), "2 2 held 2 2 2");

    let blocker = only_blocker(crew.pid());
    assert_eq!(blocker.tid, crew.tid(2));
    assert_eq!(blocker.comm, "worker-2");
    assert_eq!(blocker.state, 'S');
    assert_eq!(blocker.function.as_deref(), Some("hold"));
    let position = |name: &str| {
        let starts = |frame: &String| frame.split('+').next() == Some(name);
        blocker.stack.iter().position(starts)
    };
    let (read, wait, hold, work) = (
        position("__read"),
        position("wait_for_release"),
        position("hold"),
        position("work"),
    );
    assert!(
        read.is_some() && read < wait && wait < hold && hold < work,
        "{:#?}",
        blocker.stack
    );

    assert_eq!(crew.free(2), "1", "it went on in the code it slept in");
    settle(&mut engine);
    assert_eq!(crew.versions(), "2 2 2 2 2 2");
    let status = read_status(crew.pid()).expect("status");
    assert_eq!(status.patches[0].state, PatchState::Enabled);
    assert_eq!(status.transition, None);
    drop(engine);
    crew.finish();
}

#[test]
fn revert() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    crew.hold(1);
    crew.hold(4);
    crew.expect("up");
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    assert_eq!(stall(&mut engine, &crew, &[1, 4]).blockers.len(), 2);
    assert_eq!(crew.versions(), "2 held 2 2 held 2");
    assert_eq!(crew.free(4), "1");

    crew.expect("down");
    engine.disable("two", false).expect("reverse");
    settle(&mut engine);
    assert_eq!(crew.versions(), "1 held 1 1 1 1");
    assert_eq!(
        log_of(crew.pid()),
        [
            &START[..],
            &[
                "livepatch: 'two': reversing transition from patching to unpatching",
                "livepatch: 'two': starting unpatching transition",
                "livepatch: 'two': completing unpatching transition",
                "livepatch: 'two': unpatching complete",
            ],
        ]
        .concat()
    );
    engine.unload("two").expect("unload");
    assert_eq!(crew.free(1), "1");
    assert_eq!(crew.versions(), "1 1 1 1 1 1");
    drop(engine);
    crew.finish();
}

#[test]
fn revert_of_a_disable_waits_for_threads_that_went_back() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    crew.hold(3);
    crew.expect("down");
    let seen = log_of(crew.pid()).len();
    engine.disable("two", false).expect("disable");
    stall(&mut engine, &crew, &[3]);
    assert_eq!(crew.versions(), "1 1 1 held 1 1");
    // In the original code by now, which the reversal leaves behind.
    crew.hold(5);

    crew.expect("up");
    engine.enable("two", false).expect("reverse");
    let status = stall(&mut engine, &crew, &[5]);
    assert_eq!(status.target, Direction::Patched);
    assert_eq!(only_blocker(crew.pid()).comm, "worker-5");
    assert_eq!(crew.versions(), "2 2 2 held 2 held");
    assert_eq!(crew.free(5), "1");
    settle(&mut engine);
    assert_eq!(crew.versions(), "2 2 2 held 2 2");
    assert_eq!(crew.free(3), "2");
    assert_eq!(
        log_since(crew.pid(), seen),
        [
            "livepatch: 'two': initializing unpatching transition",
            "livepatch: 'two': starting unpatching transition",
            "livepatch: 'two': reversing transition from unpatching to patching",
            "livepatch: 'two': starting patching transition",
            "livepatch: 'two': completing patching transition",
            "livepatch: 'two': patching complete",
        ]
    );
    drop(engine);
    crew.finish();
}

#[test]
fn revert_twice() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    crew.hold(0);
    crew.expect("up");
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    stall(&mut engine, &crew, &[0]);
    assert_eq!(crew.versions(), "held 2 2 2 2 2");
    // One that sleeps in the new code keeps the reversal from completing.
    crew.hold(5);
    crew.expect("down");
    engine.disable("two", false).expect("reverse");
    let status = stall(&mut engine, &crew, &[5]);
    assert_eq!(status.target, Direction::Unpatched);
    let blocker = only_blocker(crew.pid());
    assert_eq!(blocker.comm, "worker-5");
    assert!(
        blocker.stack.iter().any(|frame| frame.ends_with("[two]")),
        "{:#?}",
        blocker.stack
    );
    assert_eq!(crew.versions(), "held 1 1 1 1 held");

    crew.expect("up");
    engine.enable("two", false).expect("reverse again");
    stall(&mut engine, &crew, &[0]);
    assert_eq!(only_blocker(crew.pid()).comm, "worker-0");
    assert_eq!(crew.versions(), "held 2 2 2 2 held");
    assert_eq!(crew.free(0), "1");
    settle(&mut engine);
    assert_eq!(crew.free(5), "2");
    assert_eq!(crew.versions(), "2 2 2 2 2 2");
    assert_eq!(
        log_of(crew.pid()),
        [
            &START[..],
            &[
                "livepatch: 'two': reversing transition from patching to unpatching",
                "livepatch: 'two': starting unpatching transition",
                "livepatch: 'two': reversing transition from unpatching to patching",
                "livepatch: 'two': starting patching transition",
                "livepatch: 'two': completing patching transition",
                "livepatch: 'two': patching complete",
            ],
        ]
        .concat()
    );
    drop(engine);
    crew.finish();
}

#[test]
fn force_moves_a_thread_that_sleeps_in_old_code() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    crew.hold(2);
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    stall(&mut engine, &crew, &[2]);
    engine.force().expect("force");
    settle(&mut engine);
    assert_eq!(
        log_of(crew.pid()),
        [
            &START[..],
            &[
                "livepatch: forcing remaining tasks to the patched state",
                "livepatch: 'two': completing patching transition",
                "livepatch: 'two': patching complete",
            ],
        ]
        .concat()
    );
    assert_eq!(crew.versions(), "2 2 held 2 2 2");
    // It is still in the old function, which calls new ones: what was given up.
    assert_eq!(crew.free(2), "1");
    assert_eq!(
        crew.program.ask("faults"),
        "mixed 1, backwards 0, interrupted 0"
    );
    assert_eq!(crew.versions(), "2 2 2 2 2 2");
    // Nobody was forced out of a patch, so nothing is stuck.
    assert!(!read_status(crew.pid()).expect("status").patches[0].forced);
    engine.disable("two", false).expect("disable");
    settle(&mut engine);
    engine.unload("two").expect("unload");
    assert_eq!(crew.versions(), "1 1 1 1 1 1");
    drop(engine);
    crew.program.finish();
}

#[test]
fn force_of_a_disable_keeps_the_module_for_ever() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    crew.hold(1);
    engine.disable("two", false).expect("disable");
    stall(&mut engine, &crew, &[1]);
    engine.force().expect("force");
    settle(&mut engine);
    assert_eq!(crew.versions(), "1 held 1 1 1 1");
    assert!(read_status(crew.pid()).expect("status").patches[0].forced);
    let refused = engine.unload("two").expect_err("it is in use");
    assert_eq!(refused.errno(), Errno::EAGAIN, "{refused}");
    let refused = load(&mut engine, "two", &two, &[]).expect_err("it is still there");
    assert_eq!(refused.errno(), Errno::EEXIST, "{refused}");
    // The code that it sleeps in is still there.
    assert_eq!(crew.free(1), "2");
    assert_eq!(crew.versions(), "1 1 1 1 1 1");
    drop(engine);
    crew.program.finish();
}

#[test]
fn force_of_a_replace_keeps_the_replaced_modules() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    let three = crew.patch("three", 3, &ALL, true);
    let four = crew.patch("four", 4, &ALL, true);
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    crew.hold(1);
    load(&mut engine, "three", &three, &[]).expect("load");
    stall(&mut engine, &crew, &[1]);
    assert_eq!(crew.versions(), "3 held 3 3 3 3");
    engine.force().expect("force");
    settle(&mut engine);
    let status = read_status(crew.pid()).expect("status");
    let forced: Vec<(&str, bool)> = status
        .patches
        .iter()
        .map(|patch| (patch.name.as_str(), patch.forced))
        .collect();
    assert_eq!(forced, [("three", false), ("two", true)]);
    let refused = engine.unload("two").expect_err("it is in use");
    assert_eq!(refused.errno(), Errno::EAGAIN, "{refused}");
    assert_eq!(crew.free(1), "2");
    // The one that was forced upon is an ordinary patch.
    load(&mut engine, "four", &four, &[]).expect("load");
    settle(&mut engine);
    engine.unload("three").expect("unload");
    assert_eq!(crew.versions(), "4 4 4 4 4 4");
    drop(engine);
    crew.program.finish();
}

#[test]
fn a_replace_waits_for_the_replaced_implementation() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    let three = crew.patch("three", 3, &ALL, true);
    let mut engine = crew.open();
    // One sleeps in the original for ever; the first load has to be without it.
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    crew.hold(4);
    crew.expect("up");
    load(&mut engine, "three", &three, &[]).expect("load");
    stall(&mut engine, &crew, &[4]);
    assert_eq!(crew.versions(), "3 3 3 3 held 3");
    let blocker = only_blocker(crew.pid());
    assert_eq!(blocker.comm, "worker-4");
    assert_eq!(blocker.function.as_deref(), Some("hold"));
    assert!(
        blocker
            .stack
            .iter()
            .any(|frame| frame.starts_with("new_hold+") && frame.ends_with("[two]")),
        "{:#?}",
        blocker.stack
    );
    let status = read_status(crew.pid()).expect("status");
    assert!(status.patches.iter().all(|patch| patch.enabled));
    assert_eq!(crew.free(4), "2");
    settle(&mut engine);
    assert_eq!(crew.versions(), "3 3 3 3 3 3");
    engine.unload("two").expect("unload");
    drop(engine);
    crew.finish();
}

#[test]
fn a_reversed_replace_leaves_the_older_patch_as_it_was() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    let three = crew.patch("three", 3, &["step", "other", "pair"], true);
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    crew.hold(4);
    crew.expect("up");
    load(&mut engine, "three", &three, &[]).expect("load");
    stall(&mut engine, &crew, &[4]);
    assert_eq!(crew.versions(), "3 3 3 3 held 3");
    crew.expect("down");
    engine.disable("three", false).expect("reverse");
    settle(&mut engine);
    assert_eq!(crew.versions(), "2 2 2 2 held 2");
    let status = read_status(crew.pid()).expect("status");
    assert!(status.patches[0].enabled && status.patches[0].state == PatchState::Enabled);
    engine.unload("three").expect("unload");
    assert_eq!(crew.free(4), "2");
    assert_eq!(crew.versions(), "2 2 2 2 2 2");
    drop(engine);
    crew.finish();
}

#[test]
fn a_nop_sends_a_function_back_thread_by_thread() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &["hold", "step", "other", "pair"], false);
    // hold() goes back to the original, which calls what three brings.
    let three = crew.patch("three", 3, &["step", "other", "pair"], true);
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    crew.hold(2);
    crew.expect("up");
    load(&mut engine, "three", &three, &[]).expect("load");
    stall(&mut engine, &crew, &[2]);
    let blocker = only_blocker(crew.pid());
    assert_eq!(blocker.comm, "worker-2");
    assert_eq!(blocker.function.as_deref(), Some("hold"));
    assert_eq!(crew.versions(), "3 3 held 3 3 3");
    let nops = |patch: &engraft_engine::PatchStatus| -> Vec<String> {
        let functions = patch.objects.iter().flat_map(|object| &object.functions);
        let nops = functions.filter(|function| function.nop);
        nops.map(|function| function.name.clone()).collect()
    };
    let status = read_status(crew.pid()).expect("status");
    assert_eq!(nops(&status.patches[1]), ["hold"]);

    // Another is switched already: it goes through the nop into the original.
    crew.hold(3);
    assert_eq!(crew.versions(), "3 3 held held 3 3");
    assert_eq!(only_blocker(crew.pid()).comm, "worker-2");
    // Reversing has to wait for that one, and not for the first any more.
    crew.expect("down");
    engine.disable("three", false).expect("reverse");
    stall(&mut engine, &crew, &[3]);
    let blocker = only_blocker(crew.pid());
    assert_eq!(blocker.comm, "worker-3");
    assert_eq!(blocker.function.as_deref(), Some("hold"));
    assert_eq!(crew.versions(), "2 2 held held 2 2");
    // The nop's own thread still sees three's functions.
    crew.expect("up");
    engine.enable("three", false).expect("reverse again");
    stall(&mut engine, &crew, &[2]);
    assert_eq!(only_blocker(crew.pid()).comm, "worker-2");
    assert_eq!(crew.free(2), "2");
    settle(&mut engine);
    let status = read_status(crew.pid()).expect("status");
    assert_eq!(nops(&status.patches[0]), Vec::<String>::new());
    assert_eq!(status.patches[0].name, "three");
    assert_eq!(crew.free(3), "1");
    // The original hold() with three's functions is what was asked for.
    assert_eq!(
        crew.program.ask("faults"),
        "mixed 1, backwards 0, interrupted 0"
    );
    assert_eq!(crew.versions(), "3 3 3 3 3 3");
    drop(engine);
    crew.program.finish();
}

#[test]
fn recursion() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &ALL, false);
    let three = crew.patch("three", 3, &ALL, true);
    crew.dig(3);
    crew.expect("up");
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    stall(&mut engine, &crew, &[3]);
    let blocker = only_blocker(crew.pid());
    assert_eq!(blocker.function.as_deref(), Some("dig"));
    let frames = blocker.stack.iter().filter(|f| f.starts_with("dig+"));
    assert_eq!(frames.count(), 21);
    // Another goes just as deep in the new code meanwhile, and comes back.
    crew.dig(4);
    assert_eq!(crew.versions(), "2 2 2 held held 2");
    assert_eq!(only_blocker(crew.pid()).comm, "worker-3");
    assert_eq!(crew.free(4), "2");
    crew.dig(5);
    assert_eq!(crew.free(3), "1");
    settle(&mut engine);
    load(&mut engine, "three", &three, &[]).expect("load");
    stall(&mut engine, &crew, &[5]);
    assert_eq!(only_blocker(crew.pid()).comm, "worker-5");
    assert_eq!(crew.free(5), "2");
    settle(&mut engine);
    assert_eq!(crew.versions(), "3 3 3 3 3 3");
    drop(engine);
    crew.finish();
}

#[test]
fn while_a_transition_runs_others_are_refused() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &["step", "other", "pair"], false);
    let three = crew.patch("three", 3, &["hold", "dig"], false);
    let four = crew.patch("four", 4, &["step"], true);
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    crew.hold(0);
    load(&mut engine, "three", &three, &[]).expect("load");
    stall(&mut engine, &crew, &[0]);
    let before = read_status(crew.pid()).expect("status");
    let seen = log_of(crew.pid()).len();

    let refused = load(&mut engine, "four", &four, &[]).expect_err("three is in transition");
    assert_eq!(refused.errno(), Errno::EBUSY, "{refused}");
    assert!(refused.to_string().contains("three"), "{refused}");
    let refused = engine
        .disable("two", false)
        .expect_err("three is in transition");
    assert_eq!(refused.errno(), Errno::EBUSY, "{refused}");
    let refused = engine
        .disable("two", true)
        .expect_err("three is in transition");
    assert_eq!(refused.errno(), Errno::EBUSY, "{refused}");
    let refused = engine.unload("two").expect_err("it is enabled");
    assert_eq!(refused.errno(), Errno::EAGAIN, "{refused}");
    let refused = engine.unload("three").expect_err("it is in transition");
    assert_eq!(refused.errno(), Errno::EAGAIN, "{refused}");
    let refused = engine
        .enable("three", false)
        .expect_err("it is being enabled");
    assert_eq!(refused.errno(), Errno::EINVAL, "{refused}");

    assert_eq!(log_since(crew.pid(), seen), Vec::<String>::new());
    let after = read_status(crew.pid()).expect("status");
    assert_eq!(after.patches, before.patches);
    assert_eq!(crew.free(0), "1");
    settle(&mut engine);
    load(&mut engine, "four", &four, &[]).expect("load");
    settle(&mut engine);
    drop(engine);
    crew.program.finish();
}

#[test]
fn a_registered_patch_cannot_be_enabled_during_a_transition() {
    let mut crew = Crew::start();
    let two = crew.patch("two", 2, &["step", "other", "pair"], false);
    let three = crew.patch("three", 3, &["hold", "dig"], false);
    let mut engine = crew.open();
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    engine.disable("two", false).expect("disable");
    settle(&mut engine);
    crew.hold(0);
    load(&mut engine, "three", &three, &[]).expect("load");
    stall(&mut engine, &crew, &[0]);
    let refused = engine
        .enable("two", false)
        .expect_err("three is in transition");
    assert_eq!(refused.errno(), Errno::EBUSY, "{refused}");
    assert_eq!(crew.versions(), "held 1 1 1 1 1");
    assert_eq!(crew.free(0), "1");
    settle(&mut engine);
    engine.enable("two", false).expect("enable");
    settle(&mut engine);
    assert_eq!(crew.versions(), "2 2 2 2 2 2");
    drop(engine);
    crew.finish();
}

#[test]
fn no_thread_mixes_versions_through_many_transitions() {
    let mut crew = Crew::start_spinning();
    let patches: Vec<Vec<u8>> = (2..4)
        .map(|version| crew.patch(&format!("v{version}"), version, &ALL, true))
        .collect();
    let mut engine = crew.open();
    for round in 0..15 {
        crew.expect("up");
        load(&mut engine, "v2", &patches[0], &[]).expect("load");
        settle(&mut engine);
        assert_eq!(crew.versions(), "2 2 2 2 2 2", "round {round}");
        load(&mut engine, "v3", &patches[1], &[]).expect("load");
        settle(&mut engine);
        assert_eq!(crew.versions(), "3 3 3 3 3 3", "round {round}");
        engine.unload("v2").expect("unload");
        crew.expect("down");
        engine.disable("v3", false).expect("disable");
        settle(&mut engine);
        assert_eq!(crew.versions(), "1 1 1 1 1 1", "round {round}");
        engine.unload("v3").expect("unload");
    }
    drop(engine);
    crew.finish();
}

/// How often a thread was put on a processor, or taken from one.
fn count_switches(crew: &Crew, tid: i32) -> u64 {
    let path = format!("/proc/{}/task/{tid}/status", crew.pid());
    let text = std::fs::read_to_string(path).expect("status");
    let counts = text.lines().filter_map(|line| {
        let (name, count) = line.split_once(':')?;
        name.ends_with("_ctxt_switches").then_some(count)
    });
    let counts = counts.map(|count| count.trim().parse::<u64>().expect("a number"));
    counts.sum()
}

/// A stop makes some system calls start their time-out anew.
#[test]
fn a_sleeping_thread_is_left_alone() {
    for (flags, most) in [
        (&["-O2"][..], 0),
        // Frame pointers: what is seen from outside proves nothing.
        (&["-O0", "-fno-omit-frame-pointer"], 40),
    ] {
        let mut crew = Crew::start_with(flags, &[]);
        let two = crew.patch("two", 2, &ALL, false);
        crew.dig(2);
        let mut engine = crew.open();
        load(&mut engine, "two", &two, &[]).expect("load");
        stall(&mut engine, &crew, &[2]);
        let tid = crew.tid(2);
        let before = count_switches(&crew, tid);
        for _ in 0..500 {
            let status = engine.retry().expect("retry").expect("a transition");
            assert_eq!(status.blockers[0].function.as_deref(), Some("dig"));
        }
        let switches = count_switches(&crew, tid) - before;
        assert!(switches <= most, "{flags:?}: {switches} switches");
        // As soon as it has left it is seen, and switched.
        assert_eq!(crew.free(2), "1");
        settle(&mut engine);
        assert_eq!(crew.versions(), "2 2 2 2 2 2");
        drop(engine);
        crew.finish();
    }
}
