//! Patches that fit, and patches that do not.

use std::fs;
use std::path::Path;

use crate::objects::{changed, names};
use crate::project::Project;
use engraft_build::{CompilingError, Reject, TreeError};

const BUILD: [&str; 3] = ["sh", "-c", "gcc -O1 -c *.c && gcc *.o -o program"];

/// A source of ten functions on a line each, between empty lines.
fn ten_functions() -> String {
    let mut text = String::new();
    for number in 0..10 {
        text += &format!("\nint f{number}(int x) {{ return x + {number}; }}\n\n");
    }
    text
}

fn sample() -> Project {
    Project::new()
        .file("main.c", "int f0(int);\nint main(void) { return f0(0); }\n")
        .file("ten.c", &ten_functions())
}

fn rejects(project: &Project) -> Vec<Reject> {
    match project.build("program", &BUILD) {
        Err(CompilingError::Tree(TreeError::Rejected { rejects, .. })) => rejects,
        other => panic!("not rejected: {other:?}"),
    }
}

#[test]
fn files_come_and_go() {
    let project = sample()
        .file("old.c", "int old;\n")
        .patch_text("--- a/old.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-int old;\n")
        .patch_text("--- /dev/null\n+++ b/new.c\n@@ -0,0 +1 @@\n+int new;\n");
    let (before, after) = project.build("program", &BUILD).expect("builds");
    assert_eq!(names(&before), ["main.o", "old.o", "ten.o"]);
    assert_eq!(names(&after), ["main.o", "new.o", "ten.o"]);
    assert!(
        project.path("source/old.c").exists(),
        "the source is only read"
    );
    assert!(
        !project.path("source/new.c").exists(),
        "the source is only read"
    );
}

#[test]
fn patches_build_on_each_other() {
    let project = sample()
        .patch_text("--- a/ten.c\n+++ b/ten.c\n@@ -2 +2 @@\n-int f0(int x) { return x + 0; }\n+int f0(int x) { return x + 100; }\n")
        .patch_text("--- a/ten.c\n+++ b/ten.c\n@@ -2 +2 @@\n-int f0(int x) { return x + 100; }\n+int f0(int x) { return x + 0; }\n");
    let (before, after) = project.build("program", &BUILD).expect("builds");
    assert_eq!(changed(&before, &after), Vec::<&str>::new());
}

#[test]
fn a_hunk_may_have_moved() {
    let project = sample().patch("ten.c", "x + 5", "x + 50");
    let moved = format!("/* one\n * two\n */\n{}", ten_functions());
    let project = project.file("ten.c", &moved);
    let (before, after) = project.build("program", &BUILD).expect("builds");
    assert_eq!(changed(&before, &after), ["ten.o"]);
}

#[test]
fn every_line_of_a_hunk_must_be_there() {
    let project = sample().patch("ten.c", "x + 5", "x + 50");
    let other = ten_functions().replace("\n\nint f5(int x)", "\n/* other */\nint f5(int x)");
    let project = project.file("ten.c", &other);
    let expected = Reject {
        file: "ten.c".into(),
        hunk: Some((1, 14)),
    };
    assert_eq!(rejects(&project), [expected]);
}

#[test]
fn all_that_does_not_fit_is_named_before_anything_is_compiled() {
    let project = sample()
        .patch("main.c", "f0(0)", "f0(1)")
        .patch_text("--- a/none.c\n+++ b/none.c\n@@ -1 +1 @@\n-a\n+b\n--- a/ten.c\n+++ b/ten.c\n@@ -2 +2 @@\n-no such line\n+b\n");
    let error = project
        .build("program", &["no-such-program"])
        .expect_err("rejected");
    let text = error.to_string();
    for part in [
        "2.patch'",
        "'none.c'",
        "hunk 1 of 'ten.c' (line 2)",
        "--patch",
    ] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert!(!text.contains("1.patch"), "{text}");
}

#[test]
fn a_patch_that_is_there_already_is_refused() {
    let project = sample().patch("ten.c", "x + 5", "x + 50");
    let project = project.file("ten.c", &ten_functions().replace("x + 5", "x + 50"));
    match project.build("program", &BUILD) {
        Err(CompilingError::Tree(TreeError::AlreadyApplied { file, .. })) => {
            assert_eq!(file, Path::new("ten.c"));
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_is_no_patch_is_refused() {
    for text in [
        "This is a letter.\n",
        "diff --git a/x b/x\nGIT binary patch\nliteral 1\n",
    ] {
        let project = sample().patch_text(text);
        match project.build("program", &BUILD) {
            Err(CompilingError::Tree(TreeError::Unusable { .. })) => {}
            other => panic!("not refused: {other:?}"),
        }
    }
}

#[test]
fn no_patch_reaches_out_of_the_tree() {
    let project =
        sample().patch_text("--- /dev/null\n+++ b/../../out.c\n@@ -0,0 +1 @@\n+int out;\n");
    let error = project.build("program", &BUILD).expect_err("refused");
    assert!(matches!(error, CompilingError::Tree(_)), "{error}");
    for entry in ["out.c", "work/out.c", "source/out.c"] {
        assert!(!project.path(entry).exists(), "{entry}");
    }
}

#[test]
fn a_patch_leaves_no_copies_behind() {
    let project = sample().patch("ten.c", "x + 5", "x + 50");
    let script = "ls > listing; gcc -c *.c && gcc *.o -o program && cp listing /dev/stderr";
    project
        .build("program", &["sh", "-c", script])
        .expect("builds");
    for side in ["before", "after"] {
        let log = fs::read_to_string(project.path(&format!("work/{side}.log"))).expect("a log");
        assert_eq!(log, "listing\nmain.c\nten.c\n", "{side}");
    }
}

#[test]
fn generated_files_that_are_patched_with_their_source_are_not_generated_again() {
    let project = Project::new()
        .file("main.c", "int main(void) { return 0; }\n")
        .file("data.in", "1\n")
        .file("data.c", "int data = 1;\n")
        .file(
            "Makefile",
            "program: main.o data.o\n\t$(CC) main.o data.o -o $@\n\
             data.c: data.in\n\t@echo generated; exit 1\n",
        )
        // The generated file comes first, so its source would be newer.
        .patch_text(
            "--- a/data.c\n+++ b/data.c\n@@ -1 +1,2 @@\n int data = 1;\n+int more = 2;\n\
             --- a/data.in\n+++ b/data.in\n@@ -1 +1 @@\n-1\n+2\n",
        );
    let (before, after) = project.build("program", &["make"]).expect("builds");
    assert_eq!(changed(&before, &after), ["data.o"]);
}

#[test]
fn a_version_that_git_tells_is_the_same() {
    let script = "gcc -DVERSION=\\\"$(git describe --always --dirty)-$(git diff | wc -l)\\\" -c version.c && \
                  gcc -c main.c ten.c && gcc *.o -o program";
    let project = sample()
        .file("version.c", "const char version[] = VERSION;\n")
        .file("old.txt", "old\n")
        .patch("ten.c", "x + 5", "x + 50")
        .patch_text("--- a/old.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n")
        .patch_text("--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+new\n");
    let commit =
        "git init -q && git add . && git -c user.name=a -c user.email=a@example.com commit -qm a";
    let run = |script: &str| {
        let status = std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(project.path("source"))
            .status();
        assert!(status.expect("sh runs").success());
    };
    run(commit);
    for change in ["true", "echo '/* changed */' >> main.c"] {
        run(change);
        let (before, after) = project
            .build("program", &["sh", "-c", script])
            .expect("builds");
        assert_eq!(changed(&before, &after), ["ten.o"], "{change}");
        run("git diff --quiet -- ten.c old.txt && git ls-files -v | grep -q '^H ten.c'");
        project.clear_work();
    }
}
