//! `engraft cc` where it cannot write: it says so, and leaves nothing half-written behind.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use support::{Workshop, engraft, livepatch, stderr};

const CODE: &str = "static int new_answer(int question) { return question * 100; }";

fn source(workshop: &Workshop) -> String {
    let path = workshop.write("fix.c", &livepatch(CODE, &[("answer", "new_answer")], ""));
    path.to_str().unwrap().to_owned()
}

/// Names in a directory.
fn list(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries.map(|e| name(e).into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[track_caller]
fn expect(output: &Output, said: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = stderr(output);
    assert!(text.starts_with("engraft: '"), "{text}");
    for part in said {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn where_nothing_can_be_written() {
    let workshop = Workshop::new();
    let source = source(&workshop);
    let directory = workshop.path("taken.lp");
    fs::create_dir(&directory).unwrap();
    for (output, said) in [
        (
            workshop.path("absent/fix.lp").to_str().unwrap(),
            "No such file or directory",
        ),
        ("/proc/fix.lp", "cannot write the module"),
        (directory.to_str().unwrap(), "not a regular file"),
        ("/dev/null", "not a regular file"),
    ] {
        let result = engraft()
            .args(["cc", &source, "-o", output])
            .output()
            .unwrap();
        expect(&result, &[output, said]);
    }
    assert_eq!(list(&workshop.path(".")), ["fix.c", "taken.lp"]);
    assert_eq!(list(&directory), [""; 0]);
    let null = fs::metadata("/dev/null").unwrap();
    assert!(!null.is_file(), "the null device was replaced");
}

/// The file size limit stands for a full disk of the compiler's temporary files.
#[test]
fn where_the_compiler_has_no_room() {
    let workshop = Workshop::new();
    let source = source(&workshop);
    let place = workshop.path("place");
    let temporary = workshop.path("temporary");
    fs::create_dir(&place).unwrap();
    fs::create_dir(&temporary).unwrap();
    let module = place.join("fix.lp");
    fs::write(&module, "as it was").unwrap();
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$@\"";
    let result = Command::new("sh")
        .args([
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_engraft"),
            "cc",
            &source,
            "-o",
        ])
        .arg(&module)
        .env("TMPDIR", &temporary)
        .output()
        .unwrap();
    expect(&result, &["fix.lp"]);
    assert_eq!(fs::read_to_string(&module).unwrap(), "as it was");
    assert_eq!(list(&place), ["fix.lp"]);
    assert_eq!(list(&temporary), [""; 0]);
}

/// A file system of a few pages, mounted where nobody else sees it.
#[test]
fn where_the_disk_is_full() {
    let workshop = Workshop::new();
    let source = source(&workshop);
    let place = workshop.path("place");
    fs::create_dir(&place).unwrap();
    let script = r#"
mount -t tmpfs -o size=4k none "$1" || exit 99
printf 'as it was' >"$1/fix.lp"
"$2" cc "$3" -o "$1/fix.lp"
code=$?
ls -A "$1"
cat "$1/fix.lp"
exit $code
"#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    unshare
        .arg(&place)
        .args([env!("CARGO_BIN_EXE_engraft"), &source]);
    let result = unshare.output().unwrap();
    if stderr(&result).contains("unshare failed") || result.status.code() == Some(99) {
        println!(
            "this machine lets nobody mount a file system: {}",
            stderr(&result)
        );
        return;
    }
    expect(
        &result,
        &[
            "fix.lp",
            "cannot write the module",
            "No space left on device",
        ],
    );
    assert_eq!(support::stdout(&result), "fix.lp\nas it was");
}

#[test]
fn a_directory_that_belongs_to_somebody_else() {
    let workshop = Workshop::new();
    let source = source(&workshop);
    let place = workshop.path("place");
    fs::create_dir(&place).unwrap();
    let open =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(&workshop.path("."), 0o755);
    open(&place, 0o555);
    let command = workshop.path("engraft");
    fs::copy(env!("CARGO_BIN_EXE_engraft"), &command).unwrap();
    let module = place.join("fix.lp");
    let mut cc = support::as_nobody(&command);
    cc.args(["cc", &source, "-o"])
        .arg(&module)
        .env("TMPDIR", "/tmp");
    expect(&cc.output().unwrap(), &["fix.lp", "Permission denied"]);
    assert_eq!(list(&place), [""; 0]);
}
