//! Fixtures: one source file, compiled as it was before a change and (with `-DAFTER`) as it is
//! after it, with directives in lines of their own:
//!
//! - `//#Unit: NAME`: the file is several objects, this one of which is compiled with
//!   `-DUNIT_NAME`; the order is that in which they are linked;
//! - `//#Flags: FLAGS` of the compiler, several lines of which are tried one after another; the
//!   first word may be another compiler (`clang`, which stands for clang++ in C++);
//! - `//#Hook: FILE`: a hook, in `tests/fixtures/hooks`;
//! - `//#Expect: replaced(F, ...)`, `unchanged`, `refused(NAME: TEXT)` or `error(TEXT)`, with
//!   all flags above it that have no such line yet;
//! - `//#Added: NAME, ...`: what comes along as new, if it matters;
//! - `//#Ignored: NAME WHAT, ...`: what differs without consequence, if it matters;
//! - `//#Handled: NAME, ...`: what would be refused without the hook;
//! - `//#Before: LINE` and `//#After: LINE`: what the program answers to a line of input
//!   before and after the patch is loaded. It answers like before again once it is disabled;
//! - `//#Again: LINE`: what it answers then, if that is something else because it counts.
#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_build::{BuildError, ModuleRequest, ObjectPair, Report, build_module};

pub struct Fixture {
    pub name: String,
    pub path: PathBuf,
    directives: Vec<(String, String)>,
}

/// Flags with what is expected under them.
pub struct Case<'a> {
    pub flags: &'a str,
    pub expect: &'a str,
}

impl Fixture {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name);
        let text = std::fs::read_to_string(&path).expect("fixture");
        let directives = text
            .lines()
            .filter_map(|line| line.strip_prefix("//#")?.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        Self {
            name: name.to_owned(),
            path,
            directives,
        }
    }

    pub fn all(&self, key: &str) -> Vec<&str> {
        let found = self.directives.iter().filter(|(name, _)| name == key);
        found.map(|(_, value)| &**value).collect()
    }

    pub fn one(&self, key: &str) -> &str {
        let found = self.all(key);
        assert_eq!(found.len(), 1, "{}: one directive {key}", self.name);
        found[0]
    }

    /// The names of a directive's list, if there is such a directive.
    pub fn list(&self, key: &str) -> Option<Vec<&str>> {
        let found = self.all(key);
        assert!(found.len() <= 1, "{}: several directives {key}", self.name);
        let names = found.first()?.split(", ");
        Some(names.filter(|name| !name.is_empty()).collect())
    }

    pub fn cases(&self) -> Vec<Case<'_>> {
        let mut flags = Vec::new();
        let mut cases = Vec::new();
        for (key, value) in &self.directives {
            match &**key {
                "Flags" => flags.push(&**value),
                "Expect" => cases.extend(flags.drain(..).map(|flags| Case {
                    flags,
                    expect: value,
                })),
                _ => {}
            }
        }
        assert!(flags.is_empty(), "{}: nothing expected", self.name);
        assert!(!cases.is_empty(), "{}: no flags", self.name);
        cases
    }

    /// Objects of the program in the order in which they are linked.
    pub fn units(&self) -> Vec<&str> {
        match self.all("Unit") {
            units if units.is_empty() => vec![""],
            units => units,
        }
    }

    pub fn hooks(&self) -> Vec<PathBuf> {
        let directory = self.path.with_file_name("hooks");
        let names = self.all("Hook").into_iter();
        names.map(|name| directory.join(name)).collect()
    }

    fn is_cxx(&self) -> bool {
        match self.path.extension().and_then(|name| name.to_str()) {
            Some("c") => false,
            Some("cc") => true,
            other => panic!("{}: extension {other:?}", self.name),
        }
    }

    /// The compiler and its flags.
    pub fn compiler(&self, flags: &str) -> Command {
        let mut flags = flags.split_whitespace().peekable();
        let clang = flags.next_if(|first| *first == "clang").is_some();
        let mut command = Command::new(match (clang, self.is_cxx()) {
            (false, false) => "gcc",
            (false, true) => "g++",
            (true, false) => "clang",
            (true, true) => "clang++",
        });
        command
            .arg("-g")
            .args(flags)
            .arg("-I")
            .arg(self.path.with_file_name(""));
        command
    }

    /// Compiles one version of one unit in a tree of its own, at a time of its own; with
    /// `sections` as `engraft build` does it.
    pub fn compile(&self, output: &Path, flags: &str, unit: &str, after: bool, sections: bool) {
        let mut command = self.compiler(flags);
        if sections {
            command.args(["-ffunction-sections", "-fdata-sections"]);
        }
        if after {
            command.arg("-DAFTER");
        }
        if !unit.is_empty() {
            command.arg(format!("-DUNIT_{unit}"));
        }
        let directory = output.parent().expect("directory");
        let tree = directory.join(if after { "after/src" } else { "before/src" });
        std::fs::create_dir_all(&tree).expect("tree");
        let source = tree.join(&self.name);
        std::fs::copy(&self.path, &source).expect("copy");
        let time = if after { "1700000000" } else { "1600000000" };
        command.env("SOURCE_DATE_EPOCH", time).current_dir(tree);
        command.arg("-c").arg("-o").arg(output).arg(source);
        run(&mut command);
    }
}

pub fn run(command: &mut Command) {
    let output = command.output().expect("program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The result of building a module from a fixture.
pub struct Built {
    pub directory: tempfile::TempDir,
    pub report: Result<Report, BuildError>,
}

impl Built {
    pub fn module(&self) -> PathBuf {
        self.directory.path().join("fixture.lp")
    }
}

/// Builds the module of a fixture's change.
pub fn build(fixture: &Fixture, flags: &str) -> Built {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = |name: &str| directory.path().join(name);
    let mut objects = Vec::new();
    for unit in fixture.units() {
        let before = place(&format!("before{unit}.o"));
        let after = place(&format!("after{unit}.o"));
        fixture.compile(&before, flags, unit, false, true);
        fixture.compile(&after, flags, unit, true, true);
        objects.push(ObjectPair {
            name: match unit {
                "" => "fixture.o".to_owned(),
                unit => format!("{unit}.o"),
            },
            before: Some(before),
            after: Some(after),
        });
    }
    let output = place("fixture.lp");
    let report = build_module(ModuleRequest {
        objects,
        library: None,
        hook_flags: &[],
        hooks: &fixture.hooks(),
        made_for: None,
        output: &output,
    });
    Built { directory, report }
}
