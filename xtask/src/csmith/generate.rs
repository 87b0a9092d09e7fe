//! Programs from csmith that end in good time, and changed ones whose behaviour is defined.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bounded;
use super::mutate::{Mutant, mutate};
use super::options::Options;
use super::process::{Answer, Place, Process};
use crate::failure::{Context, Failure};
use crate::random::Random;
use crate::shell::Log;

/// Programs tried until one is of use.
const MAX_PROGRAMS: u32 = 40;
/// Changes tried on one program.
const MAX_CHANGES: u32 = 12;
const MAX_SOURCE: u64 = 150_000;
/// Processor time of the first computation. Programs take a millisecond or run for ever.
const FIRST_LIMIT: u32 = 400;

const DRIVER: &str = include_str!("driver.c");

/// A program and its mutant, built in directories `original` and `mutant`.
pub(super) struct Pair {
    pub(super) mutant: Mutant,
    pub(super) before: Answer,
    pub(super) after: Answer,
}

/// Why programs were of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Useless {
    NotGenerated,
    TooLong,
    NotCompiled,
    RunsTooLong,
    NoMutant,
    UndefinedMutant,
}

impl Useless {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::NotGenerated => "csmith did not end",
            Self::TooLong => "the source is too long",
            Self::NotCompiled => "it does not compile in time",
            Self::RunsTooLong => "it does not end in time",
            Self::NoMutant => "no change changes its checksum",
            Self::UndefinedMutant => "a mutant's behaviour is undefined",
        }
    }
}

/// The directory of one case, and its compiler.
pub(super) struct Workshop<'a> {
    pub(super) directory: &'a Path,
    pub(super) options: &'a Options,
    pub(super) log: &'a Log,
}

impl Workshop<'_> {
    pub(super) fn tree(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A pair of programs with different checksums; `useless` gets what was thrown away.
    pub(super) fn find_pair(
        &self,
        random: &mut Random,
        useless: &mut Vec<Useless>,
    ) -> Result<Pair, Failure> {
        for _ in 0..MAX_PROGRAMS {
            match self.try_program(random, useless)? {
                Ok(pair) => return Ok(pair),
                Err(reason) => useless.push(reason),
            }
        }
        Err(Failure::new(format!(
            "none of {MAX_PROGRAMS} programs is of use: {useless:?}"
        )))
    }

    fn try_program(
        &self,
        random: &mut Random,
        useless: &mut Vec<Useless>,
    ) -> Result<Result<Pair, Useless>, Failure> {
        let original = self.tree("original");
        let program = match self.generate(random, &original)? {
            Ok(program) => program,
            Err(reason) => return Ok(Err(reason)),
        };
        if !self.build(&original)? {
            return Ok(Err(Useless::NotCompiled));
        }
        let Some(before) = compute_once(&original)? else {
            return Ok(Err(Useless::RunsTooLong));
        };
        for _ in 0..MAX_CHANGES {
            let Some(mutant) = mutate(&program, random) else {
                continue;
            };
            let directory = self.tree("mutant");
            write_tree(&directory, &mutant.text)?;
            if !self.build(&directory)? {
                continue;
            }
            let Some(after) = compute_once(&directory)? else {
                continue;
            };
            if after == before {
                continue;
            }
            if self.is_defined(&directory)? {
                return Ok(Ok(Pair {
                    mutant,
                    before,
                    after,
                }));
            }
            useless.push(Useless::UndefinedMutant);
        }
        Ok(Err(Useless::NoMutant))
    }

    fn generate(
        &self,
        random: &mut Random,
        directory: &Path,
    ) -> Result<Result<String, Useless>, Failure> {
        write_tree(directory, "")?;
        let path = directory.join("program.c");
        let mut csmith = bounded::limit("csmith", 20);
        csmith
            .args(["--concise", "--seed", &(random.below(1 << 31)).to_string()])
            .args(["--max-funcs", &(3 + random.below(8)).to_string()])
            .args(["--max-block-depth", &(2 + random.below(3)).to_string()])
            .args(["--max-expr-complexity", &(4 + random.below(6)).to_string()])
            .args(["--max-array-dim", "2", "--max-array-len-per-dim", "6"])
            .args(random.choose(&[
                &["--inline-function"][..],
                &["--no-inline-function"],
                &["--float"],
            ]))
            .arg("--output")
            .arg(&path)
            .current_dir(directory);
        if !bounded::succeeds(&mut csmith, &Log::discard())? {
            return Ok(Err(Useless::NotGenerated));
        }
        let size = fs::metadata(&path).context("csmith's program")?.len();
        if size > MAX_SOURCE {
            return Ok(Err(Useless::TooLong));
        }
        let text = fs::read_to_string(&path).context("csmith's program")?;
        Ok(Ok(text))
    }

    /// Whether the tree's program could be built.
    pub(super) fn build(&self, directory: &Path) -> Result<bool, Failure> {
        let mut shell = bounded::limit("sh", 60);
        shell
            .args(["-c", &self.options.build_script()])
            .current_dir(directory);
        bounded::succeeds(&mut shell, self.log)
    }

    /// A change can make a program read what was never written, or leave its arrays; such
    /// a mutant has no checksum that could be right. Optimization would hide some of it.
    fn is_defined(&self, directory: &Path) -> Result<bool, Failure> {
        let sanitizers = [
            ("gcc", "-fsanitize=address,undefined"),
            ("clang", "-fsanitize=memory"),
        ];
        for (compiler, sanitizer) in sanitizers {
            let mut compile = Command::new("timeout");
            compile
                .args(["--signal=KILL", "60", compiler, "-w", "-O0", sanitizer])
                .args([
                    "-fno-sanitize-recover=all",
                    "-isystem",
                    "/usr/include/csmith",
                ])
                .args(["-fno-sanitize=alignment", "program.c", "-o", "sanitized"])
                .current_dir(directory);
            if !bounded::succeeds(&mut compile, self.log)? {
                return Ok(false);
            }
            let mut run = bounded::limit_time(&directory.join("sanitized"), 20);
            if !bounded::succeeds(&mut run, &Log::discard())? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The checksum that both ways of computing agree on.
fn compute_once(directory: &Path) -> Result<Option<Answer>, Failure> {
    let mut process = Process::start(&directory.join("program"), FIRST_LIMIT)?;
    let answer = process.ask(Place::Child)?;
    let sound = answer.as_ref().is_some_and(Answer::is_checksum);
    if !sound || process.ask(Place::Here)? != answer || process.ask(Place::Here)?.is_none() {
        return Ok(None);
    }
    Ok(answer)
}

fn write_tree(directory: &Path, program: &str) -> Result<(), Failure> {
    fs::create_dir_all(directory).context(format!("creating {}", directory.display()))?;
    for (name, text) in [("program.c", program), ("driver.c", DRIVER)] {
        let path = directory.join(name);
        fs::write(&path, text).context(format!("writing {}", path.display()))?;
    }
    Ok(())
}
