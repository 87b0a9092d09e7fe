//! How a program is compiled, chosen at random.

use crate::random::Random;

const COMPILERS: &[&str] = &["gcc", "clang"];
const LEVELS: &[&str] = &["-O0", "-O1", "-O2", "-O3", "-Os"];
/// What distributions and projects add to a level.
const EXTRAS: &[&str] = &[
    "",
    "",
    "-g",
    "-fstack-protector-strong",
    "-fcf-protection",
    "-fno-omit-frame-pointer",
    "-fno-plt",
    "-mavx2",
];

/// Compiler, flags, and whether the program keeps its symbol table.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) compiler: &'static str,
    pub(super) level: &'static str,
    extra: &'static str,
    position_independent: bool,
    pub(super) stripped: bool,
}

impl Options {
    pub(super) fn choose(random: &mut Random) -> Self {
        Self {
            compiler: random.choose(COMPILERS),
            level: random.choose(LEVELS),
            extra: random.choose(EXTRAS),
            position_independent: random.below(2) == 0,
            stripped: random.below(2) == 0,
        }
    }

    /// The shell commands that build `program` in a directory with the sources.
    pub(super) fn build_script(&self) -> String {
        let Self {
            compiler, level, ..
        } = self;
        let (code, link) = if self.position_independent {
            ("-fPIE", "-pie")
        } else {
            ("-fno-pie", "-no-pie")
        };
        let flags = format!("-w {level} {} {code}", self.extra);
        format!(
            "{compiler} {flags} -isystem /usr/include/csmith -Dmain=computation -c program.c && \
             {compiler} {flags} -c driver.c && \
             {compiler} {flags} {link} -o program program.o driver.o"
        )
    }

    /// For a line about a program.
    pub(super) fn describe(&self) -> String {
        let kind = if self.position_independent {
            "pie"
        } else {
            "no-pie"
        };
        let symbols = if self.stripped { "stripped" } else { "symbols" };
        let words = [self.compiler, self.level, self.extra, kind, symbols];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }
}
