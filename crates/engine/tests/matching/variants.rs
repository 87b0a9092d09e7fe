//! One program in many builds: each is found to be the right one, and patched.

use std::process::Command;

use engraft_engine::{CheckReport, Engine, LoadRequest, check};

use crate::pre_code::{Plan, list_symbols, read_objects};
use crate::programs::{MAIN, OTHER, PATCH, WANTED};
use crate::support::{Program, Workshop, load, log_of, settle};

/// How a program is built.
#[derive(Clone, Copy)]
struct Build<'a> {
    compiler: &'a str,
    /// Flags of compilation.
    flags: &'a [&'a str],
    /// Flags of linking.
    link: &'a [&'a str],
    strip: Option<&'a str>,
}

const PLAIN: Build<'static> = Build {
    compiler: "gcc",
    flags: &["-O2"],
    link: &[],
    strip: None,
};

pub(crate) fn examine(pid: i32, name: &str, module: &[u8]) -> CheckReport {
    let request = LoadRequest {
        module,
        file_name: &format!("{name}.lp"),
        parameters: &[],
        enable: true,
    };
    check(pid, &request).expect("check")
}

fn is_patched(build: Build<'_>) {
    let workshop = Workshop::new();
    workshop.write("main.c", MAIN);
    workshop.write("other.c", OTHER);
    let plan = Plan {
        replaced: &[("describe", "")],
        wanted: WANTED,
        ..Plan::default()
    };
    let objects = workshop.compile_pre(build.compiler, &["main.c", "other.c"], build.flags);
    let code = read_objects(&objects, &plan);
    let module = workshop.matched_module("matched", PATCH, &code);
    let mut arguments = build.flags.to_vec();
    arguments.extend(build.link);
    arguments.extend(["main.c", "other.c"]);
    let path = workshop.build(build.compiler, "program", &arguments);
    let symbols = list_symbols(&path);
    if let Some(how) = build.strip {
        let status = Command::new("strip").arg(how).arg(&path).status();
        assert!(status.expect("strip").success());
    }
    let mut program = Program::start(&path);
    let before = program.ask("abc");
    assert!(before.starts_with("three "), "{before}");
    let report = examine(program.pid(), "matched", &module);
    assert_eq!(report.problems, Vec::<String>::new());
    let [function] = &report.functions[..] else {
        panic!("{report:?}");
    };
    assert!(function.matched);
    let bias = function.address - symbols["describe"][0];
    assert_eq!(bias % 4096, 0, "{function:?}");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "matched", &module, &[]).expect("load");
    settle(&mut engine);
    // What the new code reads and calls are the program's own variables and functions.
    let answer = program.ask("abc");
    let patched = "patched 003 162 016 054 1000 ";
    assert!(answer.starts_with(patched), "{answer}");
    for line in log_of(program.pid()) {
        let Some((name, address)) = line.split_once(' ') else {
            continue;
        };
        let Some(expected) = symbols.get(name) else {
            continue;
        };
        let address = u64::from_str_radix(address, 16).expect("address");
        assert!(expected.contains(&(address - bias)), "{line}");
    }
    // The redirect of a patch that is there does not hide what is under it.
    let again = workshop.matched_module("again", PATCH, &code);
    drop(engine);
    let report = examine(program.pid(), "again", &again);
    assert_eq!(report.problems, Vec::<String>::new());
    assert!(report.functions[0].matched);
    let mut engine = Engine::open(program.pid()).expect("open");
    engine.disable("matched", false).expect("disable");
    settle(&mut engine);
    assert!(program.ask("abc").starts_with("three "));
    drop(engine);
    program.finish();
}

/// With its symbol table, without local symbols, and without any.
fn is_patched_stripped_or_not(build: Build<'_>) {
    for strip in [None, Some("--strip-unneeded"), Some("--strip-all")] {
        println!("strip: {strip:?}");
        is_patched(Build { strip, ..build });
    }
}

#[test]
fn position_independent() {
    is_patched_stripped_or_not(Build {
        flags: &["-O2", "-fPIE"],
        link: &["-pie"],
        ..PLAIN
    });
}

#[test]
fn at_a_fixed_address() {
    is_patched_stripped_or_not(Build {
        flags: &["-O2", "-fno-pie"],
        link: &["-no-pie"],
        ..PLAIN
    });
}

#[test]
fn linked_statically() {
    is_patched_stripped_or_not(Build {
        link: &["-static"],
        ..PLAIN
    });
    is_patched(Build {
        link: &["-static-pie"],
        strip: Some("-s"),
        ..PLAIN
    });
}

#[test]
fn without_optimization() {
    is_patched_stripped_or_not(Build {
        flags: &["-O0"],
        ..PLAIN
    });
}

#[test]
fn optimized_for_size_or_more_speed() {
    for level in ["-Os", "-O1", "-O3"] {
        println!("{level}");
        is_patched(Build {
            flags: &[level],
            strip: Some("-s"),
            ..PLAIN
        });
    }
}

#[test]
fn by_clang() {
    for level in ["-O0", "-O2", "-O3"] {
        println!("{level}");
        is_patched(Build {
            compiler: "clang",
            flags: &[level],
            strip: Some("-s"),
            ..PLAIN
        });
    }
    is_patched(Build {
        compiler: "clang",
        flags: &["-O2", "-fPIE"],
        link: &["-pie"],
        ..PLAIN
    });
}

#[test]
fn as_distributions_build() {
    for (flags, link) in [
        (
            &[
                "-g",
                "-O2",
                "-fstack-protector-strong",
                "-D_FORTIFY_SOURCE=2",
                "-fcf-protection",
            ][..],
            &["-Wl,-z,relro", "-Wl,-z,now"][..],
        ),
        (&["-O2", "-fno-plt"], &[]),
        (&["-O2", "-fPIC"], &["-Wl,-z,ibtplt", "-Wl,-z,lazy"]),
    ] {
        println!("{flags:?}");
        is_patched(Build {
            flags,
            link,
            strip: Some("-s"),
            ..PLAIN
        });
    }
}

#[test]
fn with_musl() {
    for link in [&[][..], &["-static"]] {
        is_patched(Build {
            compiler: "musl-gcc",
            link,
            strip: Some("-s"),
            ..PLAIN
        });
    }
}
