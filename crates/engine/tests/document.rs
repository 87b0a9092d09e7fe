//! The tests of the document that the project implements, and the samples from end to end.

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use engraft_engine::{Engine, PatchState, Status, read_status};
use nix::errno::Errno;
use support::{Program, Workshop, load, log_of, settle};

const DEMO: &str = "livepatch_callbacks_demo";
const DEMO2: &str = "livepatch_callbacks_demo2";

/// Loading `NAME`, whose only loaded object is the executable.
const ENABLED: [&str; 7] = [
    "livepatch: enabling patch 'NAME'",
    "livepatch: 'NAME': initializing patching transition",
    "NAME: pre_patch_callback: vmlinux",
    "livepatch: 'NAME': starting patching transition",
    "livepatch: 'NAME': completing patching transition",
    "NAME: post_patch_callback: vmlinux",
    "livepatch: 'NAME': patching complete",
];

const DISABLED: [&str; 6] = [
    "livepatch: 'NAME': initializing unpatching transition",
    "NAME: pre_unpatch_callback: vmlinux",
    "livepatch: 'NAME': starting unpatching transition",
    "livepatch: 'NAME': completing unpatching transition",
    "NAME: post_unpatch_callback: vmlinux",
    "livepatch: 'NAME': unpatching complete",
];

fn lines_of(parts: &[(&[&str], &str)]) -> Vec<String> {
    let named = |(lines, name): &(&[&str], &str)| -> Vec<String> {
        lines
            .iter()
            .map(|line| line.replace("NAME", name))
            .collect()
    };
    parts.iter().flat_map(named).collect()
}

/// `samples/target.c`, and the two callbacks patches.
struct Stage {
    workshop: Workshop,
    program: Program,
    demo: Vec<u8>,
    demo2: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        let workshop = Workshop::new();
        let path = workshop.build_sample("target.c", "target", &["-ldl"]);
        let mut command = Command::new(path);
        command
            .env("BUSYMOD_SECONDS", "1")
            .current_dir(workshop.path(""));
        let program = Program::start_sample(command);
        program.wait_for("this is the original");
        Self {
            demo: workshop.sample_module("livepatch-callbacks-demo", &[]),
            demo2: workshop.sample_module("livepatch-callbacks-demo2", &[]),
            workshop,
            program,
        }
    }

    fn status(&self) -> Status {
        read_status(self.program.pid()).expect("status")
    }

    /// Names, states and places of everything that `list` shows.
    fn list(&self) -> Vec<(String, PatchState, Option<u32>)> {
        let patches = self.status().patches;
        let row = |patch: engraft_engine::PatchStatus| {
            assert_eq!(patch.enabled, patch.state == PatchState::Enabled);
            assert!(!patch.transition && !patch.forced);
            (patch.name, patch.state, patch.stack_order)
        };
        patches.into_iter().map(row).collect()
    }

    /// `status` of the objects of a patch: name, loaded, patched.
    fn objects(&self, name: &str) -> Vec<(String, bool, bool)> {
        let status = self.status();
        let patch = status.patches.iter().find(|patch| patch.name == name);
        let objects = &patch.expect("patch").objects;
        objects
            .iter()
            .map(|object| (object.name.clone(), object.loaded, object.patched))
            .collect()
    }
}

fn row(name: &str, state: PatchState, order: Option<u32>) -> (String, PatchState, Option<u32>) {
    (name.to_owned(), state, order)
}

/// The executable is patched; the two libraries are not there.
fn objects_of_demo() -> Vec<(String, bool, bool)> {
    let object = |name: &str, there: bool| (name.to_owned(), there, there);
    vec![
        object("target", true),
        object("livepatch_callbacks_mod", false),
        object("livepatch_callbacks_busymod", false),
    ]
}

#[test]
fn test_1_two_patches_without_replace() {
    let stage = Stage::new();
    let pid = stage.program.pid();
    let mut engine = Engine::open(pid).expect("open");
    assert_eq!(stage.list(), []);

    load(&mut engine, DEMO, &stage.demo, &[]).expect("load demo");
    settle(&mut engine);
    assert_eq!(stage.list(), [row(DEMO, PatchState::Enabled, Some(1))]);
    assert_eq!(stage.objects(DEMO), objects_of_demo());

    load(&mut engine, DEMO2, &stage.demo2, &[]).expect("load demo2");
    settle(&mut engine);
    let both = [
        row(DEMO, PatchState::Enabled, Some(1)),
        row(DEMO2, PatchState::Enabled, Some(2)),
    ];
    assert_eq!(stage.list(), both);
    assert_eq!(stage.objects(DEMO2), objects_of_demo());
    for name in [DEMO, DEMO2] {
        let refused = engine.unload(name).expect_err("it is enabled");
        assert_eq!(refused.errno(), Errno::EWOULDBLOCK, "{refused}");
    }
    assert_eq!(stage.list(), both);

    engine.disable(DEMO2, false).expect("disable demo2");
    settle(&mut engine);
    let one = [
        row(DEMO, PatchState::Enabled, Some(1)),
        row(DEMO2, PatchState::Registered, Some(2)),
    ];
    assert_eq!(stage.list(), one);
    engine.disable(DEMO, false).expect("disable demo");
    settle(&mut engine);
    let none = [
        row(DEMO, PatchState::Registered, Some(1)),
        row(DEMO2, PatchState::Registered, Some(2)),
    ];
    assert_eq!(stage.list(), none);

    engine.unload(DEMO2).expect("unload demo2");
    assert_eq!(stage.list(), [row(DEMO, PatchState::Registered, Some(1))]);
    engine.unload(DEMO).expect("unload demo");
    assert_eq!(stage.list(), []);
    for name in [DEMO, DEMO2, "never_loaded"] {
        let refused = engine.unload(name).expect_err("it is not loaded");
        assert_eq!(refused.errno(), Errno::ENOENT, "{refused}");
        assert!(refused.to_string().contains(name), "{refused}");
    }
    assert_eq!(
        log_of(pid),
        lines_of(&[
            (&ENABLED, DEMO),
            (&ENABLED, DEMO2),
            (&DISABLED, DEMO2),
            (&DISABLED, DEMO),
        ])
    );
}

#[test]
fn test_2_the_second_patch_replaces_the_first() {
    let stage = Stage::new();
    let pid = stage.program.pid();
    let mut engine = Engine::open(pid).expect("open");

    load(&mut engine, DEMO, &stage.demo, &[]).expect("load demo");
    settle(&mut engine);
    assert!(!stage.status().patches[0].replace);
    load(&mut engine, DEMO2, &stage.demo2, &[("replace", "1")]).expect("load demo2");
    settle(&mut engine);
    let replaced = [
        row(DEMO2, PatchState::Enabled, Some(1)),
        row(DEMO, PatchState::Replaced, None),
    ];
    assert_eq!(stage.list(), replaced);
    assert!(stage.status().patches[0].replace);
    // Callback-only objects are the patch's own: they do not go with the nops.
    assert_eq!(stage.objects(DEMO2), objects_of_demo());
    let unloaded = engine.unload(DEMO2).expect_err("it is enabled");
    assert_eq!(unloaded.errno(), Errno::EWOULDBLOCK, "{unloaded}");
    for refused in [engine.enable(DEMO, false), engine.disable(DEMO, false)] {
        let refused = refused.expect_err("it was replaced");
        assert_eq!(refused.errno(), Errno::EINVAL, "{refused}");
    }
    assert_eq!(stage.list(), replaced);

    engine.disable(DEMO2, false).expect("disable demo2");
    settle(&mut engine);
    assert_eq!(
        stage.list(),
        [
            row(DEMO2, PatchState::Registered, Some(1)),
            row(DEMO, PatchState::Replaced, None),
        ]
    );
    engine.unload(DEMO2).expect("unload demo2");
    assert_eq!(stage.list(), [row(DEMO, PatchState::Replaced, None)]);
    engine.unload(DEMO).expect("unload demo");
    assert_eq!(stage.list(), []);
    assert_eq!(
        log_of(pid),
        lines_of(&[(&ENABLED, DEMO), (&ENABLED, DEMO2), (&DISABLED, DEMO2)])
    );
}

#[test]
fn a_pre_patch_callback_that_fails_passes_its_errno_and_rolls_everything_back() {
    let stage = Stage::new();
    let pid = stage.program.pid();
    let mut engine = Engine::open(pid).expect("open");
    let refused = load(&mut engine, DEMO, &stage.demo, &[("pre_patch_ret", "-19")])
        .expect_err("pre_patch refuses");
    assert_eq!(refused.errno(), Errno::ENODEV, "{refused}");
    assert_eq!(stage.list(), []);
    assert!(engine.retry().expect("retry").is_none());
    let refusal = [
        "livepatch: enabling patch 'NAME'",
        "livepatch: 'NAME': initializing patching transition",
        "NAME: pre_patch_callback: vmlinux",
        "livepatch: pre-patch callback failed for object 'target'",
        "livepatch: failed to enable patch 'NAME'",
        "livepatch: 'NAME': canceling patching transition, going to unpatch",
        "livepatch: 'NAME': completing unpatching transition",
        "livepatch: 'NAME': unpatching complete",
    ];
    assert_eq!(log_of(pid), lines_of(&[(&refusal, DEMO)]));
    let refused = engine.unload(DEMO).expect_err("nothing of it is left");
    assert_eq!(refused.errno(), Errno::ENOENT, "{refused}");

    // Under an enabled patch, which stays as it is.
    load(&mut engine, DEMO2, &stage.demo2, &[]).expect("load demo2");
    settle(&mut engine);
    load(&mut engine, DEMO, &stage.demo, &[("pre_patch_ret", "-19")])
        .expect_err("pre_patch refuses");
    assert_eq!(stage.list(), [row(DEMO2, PatchState::Enabled, Some(1))]);
    assert_eq!(stage.objects(DEMO2), objects_of_demo());

    // The same module with another value of its parameter.
    load(&mut engine, DEMO, &stage.demo, &[("pre_patch_ret", "0")]).expect("load demo");
    settle(&mut engine);
    assert_eq!(
        log_of(pid),
        lines_of(&[
            (&refusal, DEMO),
            (&ENABLED, DEMO2),
            (&refusal, DEMO),
            (&ENABLED, DEMO),
        ])
    );
}

#[test]
fn callbacks_and_functions_of_libraries_that_are_there() {
    let mut stage = Stage::new();
    let pid = stage.program.pid();
    for name in ["mod", "busymod"] {
        let file = format!("livepatch-callbacks-{name}.so");
        let source = format!("livepatch-callbacks-{name}.c");
        stage
            .workshop
            .build_sample(&source, &file, &["-shared", "-fPIC"]);
        stage.program.tell(&format!("load ./{file}"));
        stage
            .program
            .wait_for(&format!("livepatch_callbacks_{name}_init"));
    }
    let entered = "livepatch_callbacks_busymod: busymod_work_func enter";
    let patched = format!("livepatch_callbacks_busymod: this has been live patched by {DEMO}");
    stage.program.wait_for(entered);
    let mut engine = Engine::open(pid).expect("open");
    load(&mut engine, DEMO, &stage.demo, &[]).expect("load");
    settle(&mut engine);
    stage.program.wait_for(&patched);
    let since = stage.program.wait_for(&patched);
    assert!(!since.iter().any(|line| line == entered), "{since:#?}");
    let all = |there| {
        [
            "target",
            "livepatch_callbacks_mod",
            "livepatch_callbacks_busymod",
        ]
        .map(|name| (name.to_owned(), true, there))
    };
    assert_eq!(stage.objects(DEMO), all(true));
    engine.disable(DEMO, false).expect("disable");
    settle(&mut engine);
    stage.program.wait_for(entered);
    let since = stage.program.wait_for(entered);
    assert!(!since.contains(&patched), "{since:#?}");
    assert_eq!(stage.objects(DEMO), all(false));
    // Each event visits the objects in the patch's order.
    let with_libraries = |lines: &[&str]| -> Vec<String> {
        let visits = |line: &&str| {
            let line = line.replace("NAME", DEMO);
            let library = |start: &str, name: &str| {
                format!("{start}livepatch_callbacks_{name} -> [MODULE_STATE_LIVE] Normal state")
            };
            match line.strip_suffix("vmlinux") {
                Some(start) => {
                    let libraries = ["mod", "busymod"].map(|name| library(start, name));
                    [line].into_iter().chain(libraries).collect()
                }
                None => vec![line],
            }
        };
        lines.iter().flat_map(visits).collect()
    };
    assert_eq!(
        log_of(pid),
        [with_libraries(&ENABLED), with_libraries(&DISABLED)].concat()
    );
}

#[test]
fn livepatch_sample_replaces_one_function() {
    const NAME: &str = "livepatch_sample";
    let (old, new) = ("this is the original", "this has been live patched");
    let stage = Stage::new();
    let module = stage.workshop.sample_module("livepatch-sample", &[]);
    let mut engine = Engine::open(stage.program.pid()).expect("open");
    load(&mut engine, NAME, &module, &[]).expect("load");
    settle(&mut engine);
    stage.program.wait_for(new);
    let since = stage.program.wait_for(new);
    assert!(!since.iter().any(|line| line.contains(old)), "{since:#?}");
    engine.disable(NAME, false).expect("disable");
    settle(&mut engine);
    stage.program.wait_for(old);
    let since = stage.program.wait_for(old);
    assert!(!since.iter().any(|line| line.contains(new)), "{since:#?}");
    engine.unload(NAME).expect("unload");
    let lines = |lines: &[&str]| -> Vec<String> {
        let own = lines.iter().filter(|line| line.starts_with("livepatch:"));
        own.map(|line| line.replace("NAME", NAME)).collect()
    };
    assert_eq!(
        log_of(stage.program.pid()),
        [lines(&ENABLED), lines(&DISABLED)].concat()
    );
}

/// The address that follows `what` in a line; C libraries and the log write it differently.
fn address_after(line: &str, what: &str) -> Option<u64> {
    let (_, rest) = line.split_once(what)?;
    let digits = rest.trim_start_matches("0x");
    let end = digits.find(|c: char| !c.is_ascii_hexdigit());
    u64::from_str_radix(&digits[..end.unwrap_or(digits.len())], 16).ok()
}

/// Waits until `count` lines of the log have all of `parts` in them; returns the last.
fn wait_for_log(pid: i32, count: usize, parts: &[&str]) -> String {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let log = log_of(pid);
        let mut fitting = log
            .iter()
            .filter(|line| parts.iter().all(|part| line.contains(part)));
        if let Some(line) = fitting.nth(count - 1) {
            return line.clone();
        }
        assert!(Instant::now() < deadline, "no {parts:?} in {log:#?}");
        sleep(Duration::from_millis(50));
    }
}

/// Shadow variables that are alive after `log`, when every one is made and destroyed once.
fn follow_variables(log: &[String], alive: &mut BTreeSet<u64>) {
    for line in log {
        if line.contains("livepatch_dummy_alloc: ") {
            let dummy = address_after(line, "dummy @ ").expect("address");
            assert!(alive.insert(dummy), "made twice: {line}\n{log:#?}");
        } else if line.contains("leak_dtor: ") {
            let dummy = address_after(line, "dummy @ ").expect("address");
            assert!(alive.remove(&dummy), "destroyed twice: {line}\n{log:#?}");
        }
    }
}

#[test]
fn shadow_variables_survive_a_replace_and_are_destroyed_at_the_end() {
    const FIX1: &str = "livepatch_shadow_fix1";
    const FIX2: &str = "livepatch_shadow_fix2";
    let workshop = Workshop::new();
    let soon = "-DEXPIRY_SECONDS=1";
    let path = workshop.build_sample("livepatch-shadow-mod.c", "livepatch-shadow-mod", &[soon]);
    // What fix1 makes outlives the test, unless the patch ends; fix2's dummies expire.
    let fix1 = workshop.sample_module("livepatch-shadow-fix1", &["-DEXPIRY_SECONDS=3600"]);
    let fix2 = workshop.sample_module("livepatch-shadow-fix2", &[soon]);
    let program = Program::start_sample(Command::new(path));
    let pid = program.pid();
    // Old behaviour: every dummy leaks.
    let leaking = program.wait_for("dummy_alloc: ").pop().expect("line");
    assert!(leaking.contains(", leaks "), "{leaking}");

    let mut engine = Engine::open(pid).expect("open");
    load(&mut engine, FIX1, &fix1, &[]).expect("load fix1");
    settle(&mut engine);
    let mended = wait_for_log(pid, 2, &[FIX1, "livepatch_dummy_alloc: "]);
    // The old dummy has no shadow variable.
    let unknown = wait_for_log(pid, 1, &[FIX1, "livepatch_dummy_free: ", " leaked!"]);
    assert_eq!(
        address_after(&unknown, "dummy @ "),
        address_after(&leaking, "dummy @ ")
    );
    program.printed();

    // The dummies of fix1 go over to fix2 with their shadow variables.
    load(&mut engine, FIX2, &fix2, &[]).expect("load fix2");
    settle(&mut engine);
    let replaced = log_of(pid).len();
    let status = read_status(pid).expect("status");
    let stack: Vec<_> = status
        .patches
        .iter()
        .map(|patch| (patch.name.as_str(), patch.state))
        .collect();
    assert_eq!(
        stack,
        [(FIX2, PatchState::Enabled), (FIX1, PatchState::Replaced)]
    );
    engine.unload(FIX1).expect("unload fix1");
    assert!(!log_of(pid).iter().any(|line| line.contains("leak_dtor: ")));
    // A dummy of fix2 comes and goes as it should.
    wait_for_log(pid, 1, &[FIX2, "leak_dtor: ", "prevented leak"]);
    wait_for_log(pid, 1, &[FIX2, "livepatch_dummy_free: ", "looked at"]);
    let printed = program.printed();
    assert!(
        !printed.iter().any(|line| line.starts_with("dummy_")),
        "old code ran while it was replaced: {printed:#?}"
    );

    // Whatever is left is destroyed when the patch is disabled; the old code comes back.
    engine.disable(FIX2, false).expect("disable");
    settle(&mut engine);
    engine.unload(FIX2).expect("unload fix2");
    let log = log_of(pid);
    let position = |text: &str| {
        let line = format!("livepatch: '{FIX2}': {text}");
        let found = log.iter().position(|other| *other == line);
        found.unwrap_or_else(|| panic!("no {line} in {log:#?}"))
    };
    let unpatched = position("completing unpatching transition");
    let end = position("unpatching complete");
    let mut alive = BTreeSet::new();
    follow_variables(&log[..replaced], &mut alive);
    let of_fix1 = alive.clone();
    assert!(of_fix1.contains(&address_after(&mended, "dummy @ ").expect("address")));
    follow_variables(&log[replaced..unpatched], &mut alive);
    assert!(of_fix1.is_subset(&alive), "{of_fix1:x?} {log:#?}");
    follow_variables(&log[unpatched..end], &mut alive);
    assert!(alive.is_empty(), "{alive:x?} {log:#?}");
    assert_eq!(log.len(), end + 1);
    let again = program.wait_for("dummy_alloc: ").pop().expect("line");
    assert!(again.contains(", leaks "), "{again}");
}
