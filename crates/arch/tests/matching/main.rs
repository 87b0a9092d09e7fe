//! Run-pre matching of what compilers, assemblers and linkers really produce.

mod assembly;
mod check;
mod distinct;
mod hostile;
mod linked_file;
mod mutations;
mod object_file;
mod rules;
mod toolchain;

use std::path::Path;
use std::sync::Mutex;

use check::{Seen, add_seen, check_all, find_all};
use linked_file::LinkedFile;
use object_file::ObjectFile;
use toolchain::{Build, Kind, Source};

const VARIED: Source<'_> = Source {
    text: include_str!("fixtures/varied.c"),
    language: "c",
    library: include_str!("fixtures/library.c"),
};
const OBJECTS: Source<'_> = Source {
    text: include_str!("fixtures/objects.cpp"),
    language: "cpp",
    library: "",
};
const GENERIC: Source<'_> = Source {
    text: include_str!("fixtures/generic.rs"),
    language: "rs",
    library: "",
};

/// Compiles, links and checks; what was seen must include `expected`: kind of the field, and
/// of its value.
fn check_builds(builds: Vec<Build>, source: Source<'_>, expected: &[(&str, &str)]) {
    let directory = tempfile::tempdir().unwrap();
    let seen: Mutex<Seen> = Mutex::default();
    let queue = Mutex::new(builds);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(build) = { queue.lock().unwrap().pop() } {
                    let new = check_build(&build, source, directory.path());
                    add_seen(&mut seen.lock().unwrap(), new);
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    for (field, value) in expected {
        let key = ((*field).to_owned(), (*value).to_owned());
        assert!(seen.contains_key(&key), "{key:?} is not among {seen:#?}");
    }
}

fn check_build(build: &Build, source: Source<'_>, directory: &Path) -> Seen {
    let mut seen = Seen::new();
    let made = build.compile(directory, source);
    let object = ObjectFile::open(&made.sections);
    for linker in &build.linkers {
        println!("{build}, {linker}");
        let linked = LinkedFile::open(&build.link(&made, linker));
        let found = find_all(&object, &linked);
        add_seen(&mut seen, check_all(&object, &linked, &found));
    }
    seen
}

const LINKERS: [&str; 4] = ["bfd", "gold", "lld", "mold"];

#[test]
fn functions_are_found_at_every_level_of_optimization() {
    let mut builds = Vec::new();
    for compiler in ["gcc", "clang"] {
        for level in ["-O0", "-O1", "-O2", "-O3", "-Os"] {
            for kind in [Kind::Pie, Kind::Fixed, Kind::Shared] {
                builds.push(Build::new(compiler, kind, &[level], &["bfd"]));
            }
        }
    }
    let expected = [
        ("Absolute32", "Address"),
        ("Absolute32Signed", "Address"),
        ("Absolute64", "Address"),
        ("Relative32", "Address"),
        ("Relative32", "short"),
        ("Slot", "Slot"),
        ("TlsBlockOffset32", "TlsBlockOffset"),
        ("TlsIndex", "TlsIndex"),
        ("TlsModule", "TlsModule"),
        ("TlsOffset32", "TlsOffset"),
        ("TlsSlot", "TlsOffset"),
        ("TlsSlot", "TlsSlot"),
    ];
    check_builds(builds, VARIED, &expected);
}

#[test]
fn functions_are_found_whatever_linkers_relax() {
    let mut builds = Vec::new();
    for compiler in ["gcc", "clang"] {
        for (kind, flags) in [
            (Kind::Pie, &["-O2", "-fPIC"][..]),
            (Kind::Pie, &["-Os", "-fPIC", "-fno-plt"]),
            (Kind::Fixed, &["-O2", "-fPIC", "-fno-plt"]),
            (Kind::Static, &["-O2"]),
            (
                Kind::Shared,
                &["-O2", "-fno-plt", "-fno-semantic-interposition"],
            ),
        ] {
            builds.push(Build::new(compiler, kind, flags, &LINKERS));
        }
    }
    for (kind, mode) in [
        (Kind::Shared, "-fPIC"),
        (Kind::Pie, "-fPIC"),
        (Kind::Static, "-fPIC"),
    ] {
        let flags = ["-O2", mode, "-mtls-dialect=gnu2"];
        builds.push(Build::new("gcc", kind, &flags, &LINKERS));
    }
    let linkers = [
        "bfd -Wl,-z,call-nop=suffix-0x90",
        "bfd -Wl,-z,call-nop=prefix-0x90",
        "bfd -Wl,--no-relax",
        "lld -Wl,--no-relax",
    ];
    builds.push(Build::new(
        "gcc",
        Kind::Static,
        &["-O2", "-fno-plt"],
        &linkers,
    ));
    let expected = [
        ("Relative32", "nothing"),
        ("Slot", "nothing"),
        ("Slot", "Slot"),
        ("Slot", "Target"),
        ("TlsBlockOffset32", "TlsBlockOffset"),
        ("TlsBlockOffset32", "TlsOffset"),
        ("TlsDescriptor", "TlsDescriptor"),
        ("TlsDescriptor", "TlsOffset"),
        ("TlsDescriptor", "TlsSlot"),
        ("TlsDescriptorCall", "nothing"),
        ("TlsIndex", "TlsIndex"),
        ("TlsIndex", "TlsOffset"),
        ("TlsIndex", "TlsSlot"),
        ("TlsModule", "nothing"),
        ("TlsModule", "TlsModule"),
        ("TlsSlot", "TlsOffset"),
        ("TlsSlot", "TlsSlot"),
    ];
    check_builds(builds, VARIED, &expected);
}

#[test]
fn functions_are_found_with_flags_that_change_padding_and_branches() {
    let mut builds = Vec::new();
    for compiler in ["gcc", "clang"] {
        for flags in [
            &["-O2", "-falign-functions=1", "-march=x86-64-v3"][..],
            &[
                "-O2",
                "-fcf-protection=full",
                "-fstack-protector-strong",
                "-D_FORTIFY_SOURCE=2",
            ],
            &[
                "-O2",
                "-fno-omit-frame-pointer",
                "-fpatchable-function-entry=5",
            ],
        ] {
            builds.push(Build::new(compiler, Kind::Pie, flags, &["bfd"]));
        }
    }
    for (compiler, flag) in [
        ("gcc", "-Wa,-mbranches-within-32B-boundaries"),
        ("clang", "-mbranches-within-32B-boundaries"),
        ("gcc", "-mindirect-branch=thunk"),
    ] {
        builds.push(Build::new(compiler, Kind::Shared, &["-O2", flag], &["bfd"]));
    }
    let linkers = [
        "lld -Wl,-z,now",
        "lld -Wl,--icf=all",
        "bfd -Wl,--gc-sections",
    ];
    builds.push(Build::new("clang", Kind::Shared, &["-O2"], &linkers));
    check_builds(
        builds,
        VARIED,
        &[("Relative32", "short"), ("None", "short")],
    );
}

#[test]
fn functions_of_other_languages_are_found() {
    let builds = vec![
        Build::new("g++", Kind::Pie, &["-O2"], &["bfd", "lld"]),
        Build::new("clang++", Kind::Shared, &["-O1"], &["bfd", "lld"]),
    ];
    check_builds(builds, OBJECTS, &[("Relative32", "Address")]);
    let rust = |flags: &[&'static str]| Build::new("rustc", Kind::Shared, flags, &["bfd", "lld"]);
    let builds = vec![rust(&["-Copt-level=3"]), rust(&["-Copt-level=0"])];
    check_builds(builds, GENERIC, &[("Slot", "Slot")]);
}
