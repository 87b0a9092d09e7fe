//! The fixtures' modules in running programs that were built as programs are: without a
//! section for each function, with their symbols and stripped of them.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use engraft_engine::{Engine, LoadRequest};
use support::{Fixture, build, run};

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

/// Loads the module, disables and unloads it, and compares what the program answers.
fn check(fixture: &Fixture, flags: &str, strip: bool) {
    let what = format!("{} {flags} stripped: {strip}", fixture.name);
    let built = build(fixture, flags);
    let directory = built.directory.path();
    let path = directory.join("program");
    let mut link = fixture.compiler(flags);
    for unit in fixture.units() {
        let object = directory.join(format!("plain{unit}.o"));
        fixture.compile(&object, flags, unit, false, false);
        link.arg(object);
    }
    if flags.contains("-fno-pie") {
        link.arg("-no-pie");
    }
    run(link.arg("-pthread").arg("-o").arg(&path));
    if strip {
        run(Command::new("strip").arg(&path));
    }
    let mut program = Program::start(&path);
    let before = fixture.one("Before");
    let after = fixture.one("After");
    // What answers count up, they go on counting.
    let again = fixture.all("Again").first().copied().unwrap_or(before);
    assert_eq!(program.ask(), before, "{what}");
    let module = std::fs::read(built.module()).expect("module");
    let mut engine = Engine::open(program.child.id().cast_signed()).expect("open");
    let load = engine.load(&LoadRequest {
        module: &module,
        file_name: "fixture.lp",
        parameters: &[],
        enable: true,
    });
    if let Err(error) = load {
        panic!("{what}: {error}; help: {:?}", error.help());
    }
    settle(&mut engine);
    assert_eq!(program.ask(), after, "{what}");
    engine.disable("fixture", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask(), again, "{what}");
    engine.unload("fixture").expect("unload");
}

fn check_all(strip: bool) {
    let mut names: Vec<String> = std::fs::read_dir("tests/fixtures")
        .expect("fixtures")
        .map(|entry| entry.expect("fixture"))
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    let mut count = 0;
    for name in names {
        let fixture = Fixture::read(&name);
        if fixture.all("Before").is_empty() {
            continue;
        }
        let replacing = |case: &support::Case<'_>| case.expect.starts_with("replaced(");
        for case in fixture.cases().into_iter().filter(replacing) {
            check(&fixture, case.flags, strip);
            count += 1;
        }
    }
    assert!(count > 0, "there are fixtures that run");
}

#[test]
fn programs_with_symbols_follow_their_changed_source() {
    check_all(false);
}

#[test]
fn stripped_programs_follow_their_changed_source() {
    check_all(true);
}
