//! A project before all of its fixes: the source that modules are built from, and the program
//! that they are loaded into.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::projects::Project;
use super::running::Running;
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
        let built = directory.join("built");
        let base = Self {
            project,
            source: directory.join("source"),
            binary: built.join(project.target),
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
            if built.exists() {
                fs::remove_dir_all(&built).context(format!("removing {}", built.display()))?;
            }
            let mut copy = Command::new("cp");
            copy.arg("--archive").arg(&base.source).arg(&built);
            shell::run(&mut copy, log)?;
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

    /// A file in the package's debian/patches.
    pub(super) fn patch(&self, name: &str) -> PathBuf {
        self.source.join("debian/patches").join(name)
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
            debian::take_out(&self.source, name, log)?;
        }
        Ok(())
    }
}

fn run_in(directory: &Path, script: &str, log: &Log) -> Result<(), Failure> {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(directory);
    shell::run(&mut command, log)
}
