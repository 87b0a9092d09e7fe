//! A project before all of its fixes: the source that modules are built from, and the program
//! that they are loaded into.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::projects::Project;
use super::running::{Program, Running};
use crate::debian;
use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

pub(super) struct Base {
    pub(super) project: &'static Project,
    /// Where modules and everything else of the project goes.
    pub(super) directory: PathBuf,
    /// The source without the fixes, configured and not built.
    pub(super) source: PathBuf,
    /// The program, built from that source without engraft's help.
    pub(super) binary: PathBuf,
}

impl Base {
    /// Fetches, takes the fixes out and builds, unless that has been done.
    pub(super) fn prepare(
        workspace: &Workspace,
        project: &'static Project,
        fixes: &[&str],
        log: &Log,
    ) -> Result<Self, Failure> {
        let directory = workspace.scratch(&format!("corpus/{}", project.name))?;
        let base = Self {
            project,
            source: directory.join("source"),
            binary: directory.join("built").join(project.target),
            directory,
        };
        let stamp = base.directory.join("base");
        let complete = format!(
            "{} {:?} {} {fixes:?}\n",
            project.package.version, project.configure, project.build
        );
        if fs::read_to_string(&stamp).ok().as_deref() != Some(complete.as_str()) {
            debian::unpack(&project.package, &base.directory, log)?;
            base.take_out(fixes, log)?;
            if let Some(configure) = project.configure {
                run_in(&base.source, configure, log)?;
            }
            let built = debian::copy(&base.source, "built", log)?;
            run_in(&built, project.build, log)?;
            fs::write(&stamp, &complete).context(format!("writing {}", stamp.display()))?;
        }
        Ok(base)
    }

    /// The program, running.
    pub(super) fn start(&self) -> Result<Running, Failure> {
        let scratch = self.directory.join("run");
        Running::start(&self.binary, &scratch, &self.project.program)
    }

    /// The program, running in another way at the same time.
    pub(super) fn start_as(&self, program: &'static Program) -> Result<Running, Failure> {
        let scratch = self.directory.join("run-otherwise");
        Running::start(&self.binary, &scratch, program)
    }

    /// A fix, as it fits the source.
    pub(super) fn patch(&self, name: &str) -> PathBuf {
        let refit = self.refitted(name);
        if refit.exists() {
            return refit;
        }
        self.source.join("debian/patches").join(name)
    }

    /// A fix whose surroundings have changed since.
    fn refitted(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Patch files in the order in which the package applies them.
    pub(super) fn in_order(&self, mut patches: Vec<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
        let series = self.read_series()?;
        patches.sort_by_key(|path| series.iter().position(|name| path.ends_with(name)));
        Ok(patches)
    }

    fn read_series(&self) -> Result<Vec<String>, Failure> {
        let series = self.patch("series");
        let text = fs::read_to_string(&series).context(format!("reading {}", series.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Reverses the fixes, the last one of the package first.
    fn take_out(&self, fixes: &[&str], log: &Log) -> Result<(), Failure> {
        let series = self.read_series()?;
        for fix in fixes {
            if !series.iter().any(|name| name == fix) {
                let message = format!("{} has no patch {fix}", self.project.name);
                return Err(Failure::new(message));
            }
        }
        for name in series.iter().rev() {
            if !fixes.contains(&name.as_str()) {
                continue;
            }
            let refit = self.refitted(name);
            if refit.exists() {
                fs::remove_file(&refit).context(format!("removing {}", refit.display()))?;
            }
            if debian::is_out_of_place(&self.source, name, log)? {
                debian::copy(&self.source, "with", log)?;
                debian::take_out(&self.source, name, log)?;
                debian::write_difference(&self.directory, "source", "with", &refit)?;
            } else {
                debian::take_out(&self.source, name, log)?;
            }
        }
        Ok(())
    }
}

fn run_in(directory: &Path, script: &str, log: &Log) -> Result<(), Failure> {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(directory);
    shell::run(&mut command, log)
}
