//! One fix: built, loaded into the running program, disabled and unloaded again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::entries::{Entry, Expected};
use super::running::Running;
use crate::debian;
use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

pub(super) struct Trial<'a> {
    workspace: &'a Workspace,
    entry: &'static Entry,
    log: &'a Log,
}

/// What came of a fix.
pub(super) struct Outcome {
    pub(super) replaced: usize,
    pub(super) result: String,
}

impl<'a> Trial<'a> {
    pub(super) fn new(workspace: &'a Workspace, entry: &'static Entry, log: &'a Log) -> Self {
        Self {
            workspace,
            entry,
            log,
        }
    }

    pub(super) fn run(&self) -> Result<Outcome, Failure> {
        let source = self.prepare_source()?;
        let module = self.directory()?.join("corpus_fix.lp");
        if module.exists() {
            fs::remove_file(&module).context(format!("removing {}", module.display()))?;
        }
        let answer = self.build(&source, &module)?;
        let replaced = names(&answer["report"]["replaced"]);
        let refusals = answer["report"]["refusals"].to_string();
        let unexpected = |what: &str| Failure::new(format!("{what}: {}", answer["report"]));
        match &self.entry.expected {
            Expected::Nothing => {
                if module.exists() || !replaced.is_empty() {
                    return Err(unexpected("it changes something"));
                }
                return Ok(Outcome {
                    replaced: 0,
                    result: "no effect on this build".to_owned(),
                });
            }
            Expected::Refused(text) => {
                if module.exists() || !refusals.contains(text) {
                    return Err(unexpected("it is not refused as it should be"));
                }
                return Ok(Outcome {
                    replaced: 0,
                    result: format!("refused: {text}"),
                });
            }
            Expected::Replaced(expected) => {
                let mut expected = expected.to_vec();
                expected.sort_unstable();
                if replaced != expected {
                    return Err(unexpected("other functions are replaced than expected"));
                }
            }
            Expected::Few(expected, most) => {
                let missing = expected
                    .iter()
                    .any(|name| !replaced.iter().any(|found| found == name));
                if missing || replaced.is_empty() || replaced.len() > *most {
                    return Err(unexpected("other functions are replaced than expected"));
                }
            }
        }
        self.try_on_program(&source, &module)?;
        Ok(Outcome {
            replaced: replaced.len(),
            result: "loaded, disabled, unloaded".to_owned(),
        })
    }

    fn directory(&self) -> Result<PathBuf, Failure> {
        self.workspace
            .scratch(&format!("corpus/{}", self.entry.project.name))
    }

    /// The package's tree with the fix taken out.
    fn prepare_source(&self) -> Result<PathBuf, Failure> {
        let project = self.entry.project;
        let source = debian::unpack(&project.package, &self.directory()?, self.log)?;
        for patch in self.entry.patches.iter().rev() {
            let mut reverse = Command::new("patch");
            reverse
                .args([
                    "--reverse",
                    "--strip=1",
                    "--batch",
                    "--no-backup-if-mismatch",
                ])
                .arg(format!("--input=debian/patches/{patch}"))
                .current_dir(&source);
            shell::run(&mut reverse, self.log)?;
        }
        if let Some(configure) = project.configure {
            shell::run(
                Command::new("sh")
                    .args(["-c", configure])
                    .current_dir(&source),
                self.log,
            )?;
        }
        Ok(source)
    }

    /// `engraft build --json`; its answer.
    fn build(&self, source: &Path, module: &Path) -> Result<Value, Failure> {
        let project = self.entry.project;
        let mut command = Command::new(self.workspace.engraft_binary());
        command.args(["--json", "build", "--source"]).arg(source);
        for patch in self.entry.patches {
            command
                .arg("--patch")
                .arg(source.join("debian/patches").join(patch));
        }
        command
            .args(["--target", project.target, "--output"])
            .arg(module)
            .args(["--", "sh", "-c", project.build]);
        command.stderr(self.log.output()?);
        let output = command.output().context("engraft build")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = text.lines().next().unwrap_or_default();
        let answer: Value = serde_json::from_str(first)
            .map_err(|_| Failure::new(format!("engraft build answers {text:?}")))?;
        if answer["report"].is_null() {
            return Err(Failure::new(format!("engraft build: {first}")));
        }
        Ok(answer)
    }

    /// The program, built without engraft's help from the tree without the fix.
    fn try_on_program(&self, source: &Path, module: &Path) -> Result<(), Failure> {
        let project = self.entry.project;
        shell::run(
            Command::new("sh")
                .args(["-c", project.build])
                .current_dir(source),
            self.log,
        )?;
        let scratch = self.directory()?.join("run");
        fs::create_dir_all(&scratch).context(format!("creating {}", scratch.display()))?;
        let binary = source.join(project.target);
        let mut running = Running::start(&binary, &scratch, &project.program)?;
        let pid = running.pid().to_string();
        let module = module.to_string_lossy();
        for arguments in [
            ["load", &module],
            ["disable", "corpus_fix"],
            ["unload", "corpus_fix"],
            ["load", &module],
        ] {
            let mut command = Command::new(self.workspace.engraft_binary());
            command.args(arguments).args(["--pid", &pid, "--json"]);
            shell::read(&mut command, self.log)?;
            running.check_alive()?;
            running.ask()?;
        }
        Ok(())
    }
}

/// Names of functions in a report, sorted.
fn names(list: &Value) -> Vec<&str> {
    let functions = list.as_array().into_iter().flatten();
    let mut names: Vec<&str> = functions
        .filter_map(|function| function["name"].as_str())
        .collect();
    names.sort_unstable();
    names
}
