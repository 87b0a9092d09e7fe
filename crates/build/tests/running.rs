//! The fixtures' modules in running programs, with their symbols and stripped of them.

mod support;

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use engraft_engine::{Engine, Error, LoadRequest};
use object::{Object as _, ObjectSection as _};
use support::{Case, Fixture, build};

/// A program that answers each line with one.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(path: &Path) -> Self {
        let mut child = Command::new(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("program starts");
        let mut program = Self {
            input: child.stdin.take().expect("piped"),
            output: BufReader::new(child.stdout.take().expect("piped")),
            child,
        };
        assert_eq!(program.line(), "ready");
        program
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }

    fn ask(&mut self) -> String {
        writeln!(self.input, "?").expect("the program listens");
        self.line()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn settle(engine: &mut Engine) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Some(status) = engine.retry().expect("retry") {
        assert!(Instant::now() < deadline, "stalled: {status:#?}");
        engine.pause(Duration::from_millis(2)).expect("pause");
    }
}

fn load(engine: &mut Engine, module: &[u8]) -> Result<(), Error> {
    let loaded = engine.load(&LoadRequest {
        module,
        file_name: "fixture.lp",
        parameters: &[],
        enable: true,
    });
    loaded.map(|_| ())
}

/// Loads the module, disables and unloads it, and compares what the program answers.
fn is_followed(fixture: &Fixture, path: &Path, module: &[u8], what: &str) {
    let mut program = Program::start(path);
    let before = fixture.one("Before");
    let after = fixture.one("After");
    // What answers count up, they go on counting.
    let again = fixture.all("Again").first().copied().unwrap_or(before);
    assert_eq!(program.ask(), before, "{what}");
    let mut engine = Engine::open(program.child.id().cast_signed()).expect("open");
    if let Err(error) = load(&mut engine, module) {
        panic!("{what}: {error}; help: {:?}", error.help());
    }
    settle(&mut engine);
    assert_eq!(program.ask(), after, "{what}");
    engine.disable("fixture", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask(), again, "{what}");
    engine.unload("fixture").expect("unload");
}

/// The module is not loaded, and the program is as it was.
fn is_blocked(path: &Path, module: &[u8], reason: &str, what: &str) {
    let mut program = Program::start(path);
    let before = program.ask();
    let mut engine = Engine::open(program.child.id().cast_signed()).expect("open");
    let error = load(&mut engine, module).expect_err(what);
    assert!(error.to_string().contains(reason), "{what}: {error}");
    assert_eq!(program.ask(), before, "{what}");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", program.child.id()));
    assert!(!maps.expect("maps").contains("engraft"), "{what}");
}

fn check(fixture: &Fixture, case: &Case<'_>, strip: bool) {
    let what = format!("{} {} stripped: {strip}", fixture.name, case.flags);
    let built = build(fixture, case.flags);
    let module = std::fs::read(built.module()).expect("module");
    let directory = built.directory.path();
    let path = fixture.link(case.flags, directory, strip);
    let reason = match strip {
        true => case.blocked_stripped,
        false => case.blocked,
    };
    match reason {
        Some(reason) => is_blocked(&path, &module, reason, &what),
        None => is_followed(fixture, &path, &module, &what),
    }
    for other in fixture.all("Other") {
        let (flags, reason) = other.split_once(": ").expect("flags and reason");
        let path = fixture.link(&format!("{} {flags}", case.flags), directory, strip);
        is_blocked(&path, &module, reason, &format!("{what} {flags}"));
    }
}

fn check_all(name: &str, strip: bool) {
    let fixture = Fixture::read(name);
    if fixture.all("Before").is_empty() {
        return;
    }
    let replacing = |case: &Case<'_>| case.expect.starts_with("replaced(");
    for case in fixture.cases().iter().filter(|case| replacing(case)) {
        check(&fixture, case, strip);
    }
}

/// Each field of a function's exception table is compared, in the order of the table.
#[test]
fn programs_with_another_exception_table_are_refused() {
    let fixture = Fixture::read("exception_table.cc");
    let built = build(&fixture, "-O2");
    let module = std::fs::read(built.module()).expect("module");
    let path = fixture.link("-O2", built.directory.path(), true);
    let good = std::fs::read(&path).expect("program");
    let file = object::File::parse(&*good).expect("ELF");
    let section = file.section_by_name(".gcc_except_table").expect("table");
    let (start, _) = section.file_range().expect("contents");
    let table = start as usize;
    // One call that may throw, whose landing pad catches one type.
    assert_eq!(
        good[table..][..11],
        [0xff, 0x9b, 13, 1, 4, 4, 5, 21, 1, 1, 0]
    );
    let changes = [
        (0, 0x1b, "its landing pads count from another place"),
        (1, 0x2b, "pointers of an unknown encoding 0x2b"),
        (3, 9, "pointers of an unknown encoding 0x9"),
        (4, 0, "it covers 0 ranges of calls instead of 1"),
        (
            5,
            9,
            "calls at 0x9 lead to 0x15 instead of 0x4 lead to 0x15",
        ),
        (6, 4, "calls at 0x4 lead to 0x15"),
        (7, 0, "calls at 0x4 lead nowhere"),
        (8, 0, "what is caught of the calls at 0x4 differs"),
        (9, 0, "what is caught of the calls at 0x4 differs"),
    ];
    for (at, byte, reason) in changes {
        let mut changed = good.clone();
        changed[table + at] = byte;
        std::fs::remove_file(&path).expect("the last one");
        std::fs::write(&path, changed).expect("program");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("executable");
        let program = Program::start(&path);
        let mut engine = Engine::open(program.child.id().cast_signed()).expect("open");
        let error = load(&mut engine, &module).expect_err(reason).to_string();
        assert!(
            error.contains("exceptions do something else in it"),
            "{error}"
        );
        assert!(error.contains(reason), "{error}");
    }
}

macro_rules! programs {
    ($($name:ident: $file:literal;)*) => {
        mod with_symbols {
            $(#[test]
            fn $name() {
                super::check_all($file, false);
            })*
        }

        mod stripped {
            $(#[test]
            fn $name() {
                super::check_all($file, true);
            })*
        }
    };
}

each_fixture!(programs);
