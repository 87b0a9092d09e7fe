//! Objects found in trees that somebody else has built.

use std::fs;
use std::path::Path;
use std::process::Command;

use engraft_build::{Built, CompilingError, FinishedRequest, find_both};
use tempfile::TempDir;

use crate::objects::{changed, names};

/// Two trees of the same files, one of them with a text replaced, built by the same script.
struct Trees(TempDir);

impl Trees {
    fn build(files: &[(&str, &str)], change: (&str, &str, &str), script: &str) -> Self {
        let trees = Self(tempfile::tempdir().expect("a directory"));
        for side in ["pre", "post", "work"] {
            fs::create_dir(trees.path(side)).expect("created");
        }
        for side in ["pre", "post"] {
            for (name, text) in files {
                let path = trees.path(side).join(name);
                fs::create_dir_all(path.parent().expect("a directory")).expect("created");
                let (changed, old, new) = change;
                let text = if side == "post" && *name == changed {
                    assert!(text.contains(old), "{text}");
                    text.replacen(old, new, 1)
                } else {
                    (*text).to_owned()
                };
                fs::write(path, text).expect("written");
            }
            let output = Command::new("sh")
                .args(["-c", script])
                .current_dir(trees.path(side))
                .output()
                .expect("sh runs");
            assert!(output.status.success(), "{output:?}");
        }
        trees
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn find(&self, target: &str) -> Result<(Built, Built), CompilingError> {
        find_both(&FinishedRequest {
            pre: self.path("pre"),
            post: self.path("post"),
            target: target.into(),
            work: self.path("work"),
        })
    }
}

const FILES: [(&str, &str); 5] = [
    (
        "main.c",
        "int first(int), second(int);\nstatic int help(int x) { return x / 3; }\n\
         int main(int argc, char **argv) { return first(argc) + second(help(argc)); }\n",
    ),
    (
        "first.c",
        "extern int counter;\nstatic int help(int x) { return x * counter; }\n\
         int first(int x) { counter++; return help(x) + 1; }\n",
    ),
    (
        "sub/second.c",
        "int counter = 7;\nint second(int x) { return x + 2; }\n",
    ),
    (
        "start.c",
        "static volatile int seen;\nstatic __attribute__((constructor)) void start(void) { seen = 5; }\n",
    ),
    (
        "tool.c",
        "int second(int);\nstatic int help(int x) { return x / 3; }\nint main(void) { return second(help(9)); }\n",
    ),
];
const CHANGE: (&str, &str, &str) = ("sub/second.c", "x + 2", "x + 20");
const COMPILE: &str = "gcc() { command gcc -g -O2 -fno-inline -ffunction-sections -fdata-sections \"$@\"; }; \
                       for f in *.c sub/*.c; do gcc -c $f -o ${f%.c}.o || exit 1; done";

fn build(then: &str) -> Trees {
    Trees::build(&FILES, CHANGE, &format!("{COMPILE}; {then}"))
}

#[test]
fn objects_are_found_by_their_functions_in_the_order_of_linking() {
    let trees = build(
        "gcc main.o start.o first.o sub/second.o -o program && gcc tool.o sub/second.o -o tool",
    );
    let (before, after) = trees.find("program").expect("found");
    let mut found = names(&before);
    assert_eq!(
        found.iter().position(|name| *name == "main.o"),
        found
            .iter()
            .position(|name| *name == "first.o")
            .map(|at| at - 1)
    );
    found.sort_unstable();
    assert_eq!(found, ["first.o", "main.o", "start.o", "sub/second.o"]);
    assert_eq!(changed(&before, &after), ["sub/second.o"]);
    let (before, after) = trees.find("tool").expect("found");
    assert_eq!(names(&before), ["tool.o", "sub/second.o"]);
    assert_eq!(changed(&before, &after), ["sub/second.o"]);
}

#[test]
fn what_was_linked_or_archived_from_objects_is_not_taken_beside_them() {
    let trees = build(
        "ld -r -o built-in.o first.o sub/second.o && ar rc lib.a sub/second.o start.o && \
         gcc main.o built-in.o -o program",
    );
    let (before, after) = trees.find("program").expect("found");
    let mut found = names(&before);
    found.sort_unstable();
    assert_eq!(found, ["first.o", "main.o", "sub/second.o"]);
    assert_eq!(changed(&before, &after), ["sub/second.o"]);
}

#[test]
fn members_of_archives_whose_objects_are_gone() {
    let trees = build(
        "ar rc lib.a first.o sub/second.o start.o && rm first.o sub/second.o start.o && \
         gcc main.o lib.a -o program",
    );
    let (before, after) = trees.find("program").expect("found");
    assert_eq!(
        names(&before),
        ["main.o", "lib.a(first.o)", "lib.a(second.o)"]
    );
    assert_eq!(changed(&before, &after), ["lib.a(second.o)"]);
}

#[test]
fn objects_for_a_shared_library_are_told_from_those_for_a_program() {
    let trees = build(
        "mkdir .libs && gcc -fPIC -c first.c -o .libs/first.o && \
         gcc -fPIC -c sub/second.c -o .libs/second.o && \
         gcc -shared .libs/first.o .libs/second.o -o libboth.so && \
         gcc main.o first.o sub/second.o -o program",
    );
    let (library, _) = trees.find("libboth.so").expect("found");
    assert!(
        names(&library).contains(&".libs/first.o"),
        "{:?}",
        names(&library)
    );
    assert!(
        !names(&library).contains(&"first.o"),
        "{:?}",
        names(&library)
    );
    let (program, _) = trees.find("program").expect("found");
    assert!(
        names(&program).contains(&"first.o"),
        "{:?}",
        names(&program)
    );
    assert!(
        !names(&program).contains(&".libs/first.o"),
        "{:?}",
        names(&program)
    );
}

#[test]
fn what_the_linker_drops_or_hides_does_no_harm() {
    let files = [
        (
            "main.c",
            "int used(void);\nint main(void) { return used(); }\n",
        ),
        (
            "code.c",
            "#include <stdio.h>\nint unused(void) { return 1; }\n\
             __attribute__((visibility(\"hidden\"))) int inner(int x) { return x + 2; }\n\
             _Thread_local int local; int used(void) { puts(\"x\"); return inner(local); }\n",
        ),
    ];
    let script = "gcc -O2 -fno-inline -fPIC -ffunction-sections -c main.c code.c && \
                  gcc -Wl,--gc-sections main.o code.o -o program && ! nm program | grep unused";
    let trees = Trees::build(&files, ("code.c", "x + 2", "x + 20"), script);
    let (before, after) = trees.find("program").expect("found");
    assert_eq!(changed(&before, &after), ["code.o"]);
    assert_eq!(before.objects.len(), 2);
}

#[test]
fn two_objects_that_may_both_be_the_targets() {
    let trees = build(
        "gcc main.o first.o sub/second.o -o program && \
         gcc -c first.c -DUNUSED -fno-asynchronous-unwind-tables -o other.o",
    );
    let error = trees.find("program").expect_err("ambiguous");
    let text = error.to_string();
    for part in ["'first.o'", "'other.o'", "'first'", "remove"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn trees_that_cannot_be_used() {
    let trees = build("gcc main.o first.o sub/second.o -o program && strip -o stripped program");
    let error = trees.find("stripped").expect_err("stripped");
    assert!(matches!(error, CompilingError::Stripped(_)), "{error}");
    let error = trees.find("missing").expect_err("missing");
    assert!(error.to_string().contains("missing"), "{error}");
    let trees = build("gcc main.o first.o sub/second.o -o program && find . -name '*.o' -delete");
    let error = trees.find("program").expect_err("no objects");
    assert!(
        matches!(error, CompilingError::NoObjectFound { .. }),
        "{error}"
    );
    let trees =
        build("rm *.o */*.o; gcc -flto -c main.c first.c sub/second.c && gcc -flto *.o -o program");
    let error = trees.find("program").expect_err("link-time code");
    assert!(
        matches!(error, CompilingError::LinkTimeOptimization(_)),
        "{error}"
    );
    assert!(Path::new(&trees.path("pre")).exists());
}
