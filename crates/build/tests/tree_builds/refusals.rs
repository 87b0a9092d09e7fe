//! Builds that are refused, with the reason and the way out.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::project::{Project, Quiet};
use engraft_build::{CompilingError, TreeError, TreeRequest, build_both};

fn sample() -> Project {
    Project::new()
        .file(
            "main.c",
            "int other(int);\nint main(void) { return other(1); }\n",
        )
        .file("other.c", "int other(int x)\n{\n\treturn x + 1;\n}\n")
        .patch("other.c", "x + 1", "x + 10")
}

/// The error of a build, which must say all of this.
fn refusal(project: &Project, target: &str, script: &str, parts: &[&str]) -> CompilingError {
    let error = project
        .build(target, &["sh", "-c", script])
        .expect_err(script);
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    error
}

#[test]
fn a_failing_command_shows_its_end_and_where_the_rest_is() {
    let project = sample();
    let script = "echo first; for i in $(seq 100); do echo filler $i; done; gcc -c missing.c";
    let error = refusal(
        &project,
        "program",
        script,
        &["before", "exit status: 1", "missing.c"],
    );
    let CompilingError::CommandFailed {
        last_lines, log, ..
    } = error
    else {
        panic!("{error}");
    };
    assert!(!last_lines.contains("first"), "{last_lines}");
    assert!(
        fs::read_to_string(log)
            .expect("a log")
            .starts_with("first\n")
    );
}

#[test]
fn a_patch_that_does_not_compile_is_told_from_a_tree_that_does_not() {
    let project = sample().patch_text(
        "--- a/main.c\n+++ b/main.c\n@@ -1,2 +1,3 @@\n int other(int);\n int main(void) { return other(1); }\n+syntax error\n",
    );
    let script = "gcc -c *.c && gcc *.o -o program";
    refusal(
        &project,
        "program",
        script,
        &["build after the patches failed", "main.c:3"],
    );
}

#[test]
fn a_command_that_does_not_exist() {
    let error = sample()
        .build("program", &["no-such-program", "x"])
        .expect_err("no command");
    assert!(matches!(error, CompilingError::Start { .. }), "{error}");
    let error = sample().build("program", &[]).expect_err("no command");
    assert!(matches!(error, CompilingError::NoCommand), "{error}");
}

#[test]
fn compilers_that_are_not_found_through_path() {
    let script = "/usr/bin/gcc -c *.c && /usr/bin/gcc *.o -o program";
    let error = refusal(&sample(), "program", script, &["PATH", "CC=gcc"]);
    assert!(
        matches!(error, CompilingError::NothingCompiled { .. }),
        "{error}"
    );
}

#[test]
fn one_compiler_that_is_not_found_through_path() {
    let script = "gcc -c main.c && /usr/bin/gcc -c other.c && gcc *.o -o program";
    let error = refusal(
        &sample(),
        "program",
        script,
        &["'other.o'", "PATH", "CC=gcc"],
    );
    assert!(matches!(error, CompilingError::Unseen(_)), "{error}");
    // What does not change needs no flags.
    let project = sample();
    let script = "/usr/bin/gcc -c main.c && gcc -c other.c && gcc *.o -o program";
    project
        .build("program", &["sh", "-c", script])
        .expect("builds");
}

#[test]
fn a_target_that_was_not_linked() {
    let script = "gcc -c *.c && gcc *.o -o real-name && cp real-name copy";
    refusal(
        &sample(),
        "program",
        script,
        &["no 'program'", "'real-name'", "--target"],
    );
    let script = "gcc -c *.c && gcc *.o -o other-name && echo x > program";
    refusal(
        &sample(),
        "program",
        script,
        &["'program' is there", "'other-name'"],
    );
}

#[test]
fn a_target_out_of_the_tree() {
    let script = "gcc -c *.c && gcc *.o -o program";
    let error = refusal(
        &sample(),
        "/usr/bin/program",
        script,
        &["relative to the tree"],
    );
    assert!(matches!(error, CompilingError::TargetOutside(_)), "{error}");
}

#[test]
fn objects_of_an_earlier_build() {
    let project = sample();
    let source = project.path("source");
    let compile = |name: &str| {
        let status = std::process::Command::new("gcc")
            .args(["-c", name])
            .current_dir(&source)
            .status();
        assert!(status.expect("gcc runs").success());
    };
    compile("main.c");
    let script = "make program";
    let project = project.file(
        "Makefile",
        "program: main.o other.o\n\t$(CC) -o $@ main.o other.o\n",
    );
    let error = refusal(&project, "program", script, &["'main.o'", "make clean"]);
    assert!(matches!(error, CompilingError::Leftover(names) if names == ["main.o"]));
    // Cleaned first, all is well.
    let project = sample().file(
        "Makefile",
        "program: main.o other.o\n\t$(CC) -o $@ main.o other.o\n",
    );
    fs::copy(source.join("main.o"), project.path("source/main.o")).expect("copied");
    project
        .build("program", &["sh", "-c", "rm -f *.o && make program"])
        .expect("builds");
}

#[test]
fn an_object_without_source_is_part_of_the_source() {
    let project = sample();
    let blob = project.path("elsewhere.c");
    fs::write(&blob, "int blob;\n").expect("written");
    let status = std::process::Command::new("gcc")
        .arg("-c")
        .arg(&blob)
        .arg("-o")
        .arg(project.path("source/blob.o"))
        .status();
    assert!(status.expect("gcc runs").success());
    let script = "gcc -c *.c && gcc main.o other.o blob.o -o program";
    let (before, _) = project
        .build("program", &["sh", "-c", script])
        .expect("builds");
    assert_eq!(
        crate::objects::names(&before),
        ["main.o", "other.o", "blob.o"]
    );
}

#[test]
fn objects_out_of_the_tree() {
    let project = sample();
    let script = format!(
        "gcc -c main.c -o {out}/main.o && gcc -c other.c && gcc {out}/main.o other.o -o program",
        out = project.path("").display()
    );
    let error = refusal(&project, "program", &script, &["outside", "main.o"]);
    assert!(matches!(error, CompilingError::ObjectOutside(_)), "{error}");
}

#[test]
fn link_time_optimization() {
    for flags in [
        "gcc -flto",
        "gcc -flto -ffat-lto-objects",
        "clang -flto -fuse-ld=lld",
    ] {
        let script = format!("{flags} -O2 -c *.c && {flags} -O2 *.o -o program");
        let error = refusal(&sample(), "program", &script, &["-flto", "main.o"]);
        assert!(
            matches!(error, CompilingError::LinkTimeOptimization(_)),
            "{error}"
        );
    }
}

#[test]
fn source_and_scratch_within_each_other() {
    let project = sample();
    let build = |source: &str, work: &str| {
        fs::create_dir_all(project.path(work)).expect("created");
        let request = TreeRequest {
            source: project.path(source),
            work: project.path(work),
            ..project.request("program", &["true"])
        };
        build_both(&request, &Quiet).expect_err("nested")
    };
    for (source, work) in [
        ("source", "source/work"),
        ("source", ""),
        ("source", "source"),
    ] {
        let error = build(source, work);
        let is_nested = matches!(error, CompilingError::Tree(TreeError::Nested { .. }));
        assert!(is_nested, "{work}: {error}");
        assert!(error.to_string().contains("TMPDIR"), "{error}");
    }
    let error = build("source/main.c", "work");
    assert!(
        matches!(error, CompilingError::Tree(TreeError::NotADirectory(_))),
        "{error}"
    );
    let error = build("no such tree", "work");
    assert!(error.to_string().contains("no such tree"), "{error}");
}

#[test]
fn the_source_stays_as_it_is() {
    let project = sample();
    let source = project.path("source");
    fs::create_dir(source.join("locked")).expect("created");
    fs::write(source.join("locked/data"), "data").expect("written");
    symlink("main.c", source.join("link.c")).expect("linked");
    fs::set_permissions(source.join("locked"), fs::Permissions::from_mode(0o555)).expect("set");
    let list = || {
        let output = std::process::Command::new("find")
            .arg(&source)
            .args(["-printf", "%p %m %s %T@ %l\n"])
            .output()
            .expect("find runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let before = list();
    let script = "gcc -c main.c other.c && gcc *.o -o program && rm main.c";
    project
        .build("program", &["sh", "-c", script])
        .expect("builds");
    assert_eq!(list(), before);
}
