//! Compilers and linkers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Position-independent executable.
    Pie,
    /// Executable at a fixed address.
    Fixed,
    /// The same, from position-independent code and without libraries.
    Static,
    /// Library.
    Shared,
}

/// A program's source.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) text: &'a str,
    /// `c`, `cpp`, `s`, `rs`.
    pub(crate) language: &'static str,
    /// Source in C of a library that it needs.
    pub(crate) library: &'a str,
}

/// One way to compile, and some to link.
pub(crate) struct Build {
    compiler: &'static str,
    kind: Kind,
    flags: Vec<&'static str>,
    /// Each with its flags.
    pub(crate) linkers: Vec<&'static str>,
}

/// What was compiled.
pub(crate) struct Made {
    directory: PathBuf,
    /// The object file that is matched, with one section per function.
    pub(crate) sections: PathBuf,
    /// The object file that is linked.
    whole: PathBuf,
    library: PathBuf,
    language: &'static str,
}

impl fmt::Display for Build {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.flags.join(" ");
        write!(formatter, "{} {flags} {:?}", self.compiler, self.kind)
    }
}

impl Build {
    pub(crate) fn new(
        compiler: &'static str,
        kind: Kind,
        flags: &[&'static str],
        linkers: &[&'static str],
    ) -> Self {
        Self {
            compiler,
            kind,
            flags: flags.to_vec(),
            linkers: linkers.to_vec(),
        }
    }

    pub(crate) fn compile(&self, directory: &Path, source: Source<'_>) -> Made {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = directory.join(number.to_string());
        std::fs::create_dir(&directory).unwrap();
        let file = directory.join(format!("unit.{}", source.language));
        std::fs::write(&file, source.text).unwrap();
        let library_file = directory.join("library.c");
        std::fs::write(&library_file, source.library).unwrap();
        let made = Made {
            sections: directory.join("sections.o"),
            whole: directory.join("whole.o"),
            library: directory.join("library.o"),
            directory,
            language: source.language,
        };
        if source.language == "rs" {
            self.compile_rust(&file, &made);
        } else {
            let sections = ["-ffunction-sections", "-fdata-sections"];
            self.compile_file(&file, &sections, &made.sections);
            self.compile_file(&file, &[], &made.whole);
        }
        let mut command = Command::new("gcc");
        match self.kind {
            Kind::Static => command.arg("-c"),
            _ => command.args(["-shared", "-fPIC"]),
        };
        run(command.arg(&library_file).arg("-o").arg(&made.library));
        made
    }

    fn compile_file(&self, file: &Path, more: &[&str], to: &Path) {
        let mode = match self.kind {
            Kind::Pie => "-fPIE",
            Kind::Fixed => "-fno-pie",
            Kind::Static | Kind::Shared => "-fPIC",
        };
        let mut command = Command::new(self.compiler);
        command.args(["-w", "-c", mode]).args(&self.flags);
        run(command.args(more).arg(file).arg("-o").arg(to));
    }

    /// rustc gives every function a section of its own.
    fn compile_rust(&self, file: &Path, made: &Made) {
        let mut command = Command::new(self.compiler);
        command.args(["--edition=2024", "--crate-type=lib", "--emit=obj"]);
        command.args(["-C", "codegen-units=1"]).args(&self.flags);
        run(command.arg(file).arg("-o").arg(&made.sections));
        std::fs::copy(&made.sections, &made.whole).unwrap();
    }

    pub(crate) fn link(&self, made: &Made, linker: &str) -> PathBuf {
        let output = made.directory.join(linker);
        let driver = match made.language {
            "cpp" => "g++",
            _ => "gcc",
        };
        let mut command = Command::new(driver);
        let mut words = linker.split(' ');
        command.arg(format!("-fuse-ld={}", words.next().unwrap_or_default()));
        command.args(words);
        command.arg(match self.kind {
            Kind::Pie => "-pie",
            Kind::Fixed => "-no-pie",
            Kind::Static => "-static",
            Kind::Shared => "-shared",
        });
        command.args([&made.whole, &made.library]);
        run(command.arg("-lm").arg("-o").arg(&output));
        output
    }
}

fn run(command: &mut Command) {
    let done = command.output().expect("a compiler");
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {text}");
}
