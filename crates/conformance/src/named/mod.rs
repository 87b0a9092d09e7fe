//! Scenarios by name. Those that are named after one of the kernel's self-tests do what it does
//! (its inventory is in the project's specification); parameters of `conf_patch.c` make the
//! patches what its modules are there.

mod arrivals;

use engraft_guest::Step;

/// A scenario with its group and name.
#[derive(Clone, Debug)]
pub struct Named {
    /// The self-test script, or what it is about.
    pub group: &'static str,
    /// What happens.
    pub name: &'static str,
    /// The steps.
    pub steps: Vec<Step>,
}

/// All callbacks, on vmlinux, conf_a and conf_c (which is not there at the beginning).
const DEMO: &str = "objects=11 callbacks=15";
const DEMO2: &str = "objects=1 callbacks=15";

/// All of them.
#[must_use]
pub fn all() -> Vec<Named> {
    let mut list = Vec::new();
    list.extend(livepatch());
    list.extend(callbacks());
    list.extend(shadow_and_state());
    list.extend(sysfs_and_syscall());
    list.extend(own());
    list.extend(arrivals::all());
    list
}

fn parse(text: &str) -> Vec<Step> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(parse_step).collect()
}

fn parse_step(line: &str) -> Step {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.replace("DEMO2", DEMO2).replace("DEMO", DEMO);
    match verb {
        "load" => {
            let (module, parameters) = rest.split_once(' ').unwrap_or((&rest, ""));
            Step::load(module, parameters)
        }
        "unload" => Step::Unload(rest),
        "enable" => Step::Enable(rest),
        "disable" => Step::Disable(rest),
        "force" => Step::Force(rest),
        "insmod" => Step::Insmod(rest),
        "rmmod" => Step::Rmmod(rest),
        _ => Step::Target(line.to_owned()),
    }
}

fn steps(group: &'static str, name: &'static str, text: &str) -> Named {
    Named {
        group,
        name,
        steps: parse(text),
    }
}

fn livepatch() -> Vec<Named> {
    let group = "test-livepatch";
    vec![
        steps(
            group,
            "basic function patching",
            "load conf_p0 functions=1
             call a1
             disable conf_p0
             unload conf_p0
             call a1",
        ),
        steps(
            group,
            "multiple livepatches",
            "load conf_p0 functions=1
             call a1
             load conf_p1 functions=2 version=3
             call a1
             call a2
             disable conf_p1
             unload conf_p1
             call a1
             call a2
             disable conf_p0
             unload conf_p0
             call a1",
        ),
        steps(
            group,
            "atomic replace livepatch",
            "load conf_p0 functions=1
             call a1
             load conf_p1 functions=4 version=3
             load conf_p2 DEMO
             load conf_p3 functions=2 version=4 replace=1
             call a1
             call a2
             call b1
             unload conf_p2
             unload conf_p1
             unload conf_p0
             call a2
             disable conf_p3
             unload conf_p3
             call a2",
        ),
        steps(
            group,
            "module function patching",
            "insmod conf_c
             call c1
             load conf_p0 functions=16
             call c1
             disable conf_p0
             unload conf_p0
             call c1
             rmmod conf_c",
        ),
        steps(
            group,
            "module function patching (livepatch first)",
            "load conf_p0 functions=16
             insmod conf_c
             call c1
             disable conf_p0
             unload conf_p0
             call c1
             rmmod conf_c",
        ),
    ]
}

fn callbacks() -> Vec<Named> {
    let group = "test-callbacks";
    vec![
        steps(
            group,
            "target module before livepatch",
            "insmod conf_c
             load conf_p0 DEMO
             disable conf_p0
             unload conf_p0
             rmmod conf_c",
        ),
        steps(
            group,
            "module_coming notifier",
            "load conf_p0 DEMO
             insmod conf_c
             disable conf_p0
             unload conf_p0
             rmmod conf_c",
        ),
        steps(
            group,
            "module_going notifier",
            "insmod conf_c
             load conf_p0 DEMO
             rmmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "module_coming and module_going notifiers",
            "load conf_p0 DEMO
             insmod conf_c
             rmmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "target module not present",
            "load conf_p0 objects=9 callbacks=15
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "pre-patch callback -ENODEV",
            "insmod conf_c
             load conf_p0 DEMO pre_patch_ret=-19
             unload conf_p0
             rmmod conf_c",
        ),
        steps(
            group,
            "module_coming + pre-patch callback -ENODEV",
            "load conf_p0 DEMO pre_patch_ret=-19 fails_for=3
             insmod conf_c
             call c1
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "multiple target modules",
            "load conf_p0 DEMO functions=1
             insmod conf_c
             rmmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "busy target module",
            "park 0 a1
             load conf_p0 DEMO functions=1
             insmod conf_c
             rmmod conf_c
             disable conf_p0
             unload conf_p0
             free 0",
        ),
        steps(
            group,
            "multiple livepatches",
            "load conf_p0 DEMO
             load conf_p1 DEMO2
             disable conf_p1
             disable conf_p0
             unload conf_p1
             unload conf_p0",
        ),
        steps(
            group,
            "atomic replace",
            "load conf_p0 DEMO
             load conf_p1 DEMO2 replace=1
             disable conf_p1
             unload conf_p1
             unload conf_p0",
        ),
    ]
}

fn shadow_and_state() -> Vec<Named> {
    let state = "test-state";
    vec![
        steps(
            "test-shadow-vars",
            "basic shadow variable API",
            "load conf_shadow
             unload conf_shadow",
        ),
        steps(
            state,
            "system state modification",
            "load conf_state1
             disable conf_state1
             unload conf_state1",
        ),
        steps(
            state,
            "taking over system state modification",
            "load conf_state1
             load conf_state2 version=2
             unload conf_state1
             disable conf_state2
             unload conf_state2",
        ),
        steps(
            state,
            "compatible cumulative livepatches",
            "load conf_state2 version=2
             load conf_state3 version=2
             unload conf_state2
             load conf_state2 version=2
             disable conf_state2
             unload conf_state2
             unload conf_state3",
        ),
        steps(
            state,
            "incompatible cumulative livepatches",
            "load conf_state2 version=2
             load conf_state1
             disable conf_state2
             unload conf_state2",
        ),
    ]
}

fn sysfs_and_syscall() -> Vec<Named> {
    let group = "test-sysfs";
    vec![
        steps(
            group,
            "sysfs test",
            "load conf_p0 functions=1
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "sysfs test object/patched",
            "load conf_p0 DEMO
             insmod conf_c
             rmmod conf_c
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "sysfs test replace enabled",
            "load conf_p0 functions=1 replace=1
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "sysfs test replace disabled",
            "load conf_p0 functions=1 replace=0
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            group,
            "sysfs test stack_order value",
            "load conf_p0 functions=1
             load conf_p1 DEMO
             load conf_p2 functions=2
             disable conf_p1
             unload conf_p1
             disable conf_p2
             unload conf_p2
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            "test-syscall",
            "patch a function while being heavily hammered",
            "hammer 0 a1
             hammer 1 a1
             hammer 2 a2
             load conf_p0 functions=3
             free 0
             free 1
             free 2
             disable conf_p0
             unload conf_p0",
        ),
    ]
}

/// What the self-tests leave out.
fn own() -> Vec<Named> {
    vec![
        steps(
            "reversal",
            "of a replace",
            "load conf_p0 functions=3 objects=3 callbacks=15 state1=1
             park 0 a1
             load conf_p1 functions=2 objects=3 callbacks=15 state1=2 replace=1 version=3
             call a1
             call a2
             disable conf_p1
             call a1
             free 0
             unload conf_p1
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            "reversal",
            "of a disable, twice",
            "load conf_p0 functions=1 objects=3 callbacks=15
             park 0 a1
             disable conf_p0
             call a1
             enable conf_p0
             call a1
             disable conf_p0
             enable conf_p0
             free 0
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            "busy",
            "another patch is refused while one is in transition",
            "park 0 a1
             load conf_p0 functions=1 callbacks=15
             load conf_p1 functions=2
             disable conf_p1
             unload conf_p0
             free 0
             load conf_p1 functions=2
             disable conf_p0
             unload conf_p0
             disable conf_p1
             unload conf_p1",
        ),
        steps(
            "busy",
            "a nop of a function that a thread is in",
            "load conf_p0 functions=1
             park 0 a1
             load conf_p1 functions=2 replace=1 version=3
             call a1
             call a2
             free 0
             call a1
             unload conf_p0
             disable conf_p1
             unload conf_p1",
        ),
        steps(
            "force",
            "an enable, and what stays of it",
            "park 0 a1
             load conf_p0 functions=1 callbacks=15
             force conf_p0
             free 0
             disable conf_p0
             unload conf_p0",
        ),
        steps(
            "force",
            "a replace",
            "load conf_p0 functions=1
             park 0 a1
             load conf_p1 functions=2 replace=1
             force conf_p1
             unload conf_p0
             free 0
             call a1
             disable conf_p1
             unload conf_p1",
        ),
        steps(
            "refusal",
            "pre_patch fails for the second object",
            "load conf_p0 functions=5 objects=7 callbacks=15 pre_patch_ret=-12 fails_for=2
             unload conf_p0
             load conf_p0 functions=5 objects=7 callbacks=15
             load conf_p0 functions=5
             disable conf_p0
             unload conf_p0
             unload conf_p0",
        ),
        steps(
            "stack",
            "three deep, one below the top is disabled",
            "load conf_p0 functions=1 version=2
             load conf_p1 functions=1 version=3
             load conf_p2 functions=1 version=4
             call a1
             disable conf_p1
             call a1
             disable conf_p2
             call a1
             unload conf_p1
             unload conf_p2
             disable conf_p0
             unload conf_p0
             call a1",
        ),
        steps(
            "state",
            "versions of patches that do not replace",
            "load conf_p0 functions=1 state1=2
             load conf_p1 functions=2 state1=1
             load conf_p1 functions=2 state2=1
             load conf_p2 functions=4 state1=3 state2=1 callbacks=3 replace=1
             load conf_p3 functions=4 state1=3
             load conf_p3 functions=4 state1=3 state2=2 replace=1 callbacks=3
             disable conf_p3
             unload conf_p3",
        ),
    ]
}
