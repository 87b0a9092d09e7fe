//! Programs as Debian ships them, stripped and without debugging information, and modules for
//! them built from Debian's source.

use std::path::{Path, PathBuf};

use super::engraft::{Engraft, Request};
use super::projects::{MEMCACHED, Project, REDIS};
use super::running::{Program, Running};
use super::trial::{self, Outcome};
use super::trigger::{State, Trigger};
use super::triggers;
use crate::debian;
use crate::failure::Failure;
use crate::shell::Log;
use crate::workspace::Workspace;

/// A program of a binary package.
pub(super) struct Stripped {
    pub(super) project: &'static Project,
    /// Binary packages of the version of the project's source.
    packages: &'static [&'static str],
    /// Path in the packages.
    path: &'static str,
    /// What builds the source as the package's debian/rules do.
    build: &'static str,
    change: Change,
    trigger: &'static Trigger,
    program: &'static Program,
}

enum Change {
    /// A patch of the package is taken out: what is shipped has it.
    Without(&'static str),
    /// A patch of our own.
    With(&'static str),
}

pub(super) static STRIPPED: &[Stripped] = &[
    Stripped {
        project: &REDIS,
        packages: &["redis-server", "redis-tools"],
        path: "usr/bin/redis-server",
        build: include_str!("stripped/redis.sh"),
        change: Change::Without("CVE-2026-66373.patch"),
        trigger: &triggers::REDIS_STREAM,
        program: &REDIS.program,
    },
    Stripped {
        project: &MEMCACHED,
        packages: &["memcached"],
        path: "usr/bin/memcached",
        build: include_str!("stripped/memcached.sh"),
        change: Change::With("memcached-touch.patch"),
        trigger: &triggers::MEMCACHED_TOUCH,
        program: &Program {
            arguments: &["-l", "127.0.0.1", "-p", "PORT", "-t", "4", "-u", "root"],
            request: b"version\r\n",
            reply: "VERSION",
        },
    },
];

const NAME: &str = "corpus_debian";

impl Stripped {
    /// What the table calls it.
    pub(super) fn title(&self) -> String {
        match self.change {
            Change::Without(patch) => format!("Debian's, stripped; without {patch}"),
            Change::With(patch) => format!("Debian's, stripped; with {patch}"),
        }
    }

    /// Whether its project has this in its name, or it is among what `stripped` stands for.
    pub(super) fn is_called(&self, text: &str) -> bool {
        text == "stripped" || self.project.name.contains(text)
    }

    pub(super) fn run(
        &'static self,
        workspace: &Workspace,
        engraft: &Engraft<'_>,
        log: &Log,
    ) -> Result<Outcome, Failure> {
        let directory = workspace.scratch(&format!("corpus/{}-debian", self.project.name))?;
        let package = &self.project.package;
        let shipped = debian::unpack_binaries(package, self.packages, &directory, log)?;
        let source = debian::unpack(package, &directory, log)?;
        let module = directory.join(NAME).with_extension("lp");
        let answer = engraft.build(&Request {
            source: &source,
            patches: vec![self.write_patch(workspace, &source, log)?],
            hook: None,
            target: self.project.target,
            module: &module,
            build: self.build,
        })?;
        if answer.replaced.is_empty() || !answer.refusals.is_empty() {
            let message = format!("no module is built: {}", answer.report);
            return Err(Failure::new(message));
        }
        let binary = shipped.join(self.path);
        let mut running = Running::start(&binary, &directory.join("run"), self.program)?;
        let (before, after) = match self.change {
            Change::Without(_) => (State::Fixed, State::Vulnerable),
            Change::With(_) => (State::Vulnerable, State::Fixed),
        };
        let answers = trial::go_up_and_down(
            engraft,
            &mut running,
            (NAME, &module),
            Some(self.trigger),
            [before, after],
        )?;
        Ok(Outcome {
            replaced: answer.replaced.len(),
            seconds: answer.seconds,
            result: format!("matches, loads and leaves, as it shows; {answers} answers"),
        })
    }

    fn write_patch(
        &self,
        workspace: &Workspace,
        source: &Path,
        log: &Log,
    ) -> Result<PathBuf, Failure> {
        match self.change {
            Change::With(name) => Ok(workspace.path("xtask/src/corpus/stripped").join(name)),
            Change::Without(name) => reverse_patch(source, name, log),
        }
    }
}

/// Writes the patch that takes a patch of the package out.
fn reverse_patch(source: &Path, name: &str, log: &Log) -> Result<PathBuf, Failure> {
    let without = debian::copy(source, "without", log)?;
    debian::take_out(&without, name, log)?;
    let patch = source.with_file_name("without.patch");
    let directory = source.with_file_name("");
    debian::write_difference(&directory, "source", "without", &patch)?;
    Ok(patch)
}
