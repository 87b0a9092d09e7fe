//! One program: patched to its mutant and back while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::bounded;
use super::generate::{Pair, Workshop};
use super::process::{Answer, Place, Process};
use crate::failure::{Context, Failure};

/// Processor time of a computation that has been seen to end, in milliseconds.
const LIMIT: u32 = 60_000;
const BUILD_SECONDS: u32 = 300;
const COMMAND_SECONDS: u32 = 120;
const NAME: &str = "random_fix";

/// What came of a pair.
pub(super) enum Outcome {
    /// The program followed the change and went back again.
    Followed { replaced: usize },
    /// The change was refused, by the command of that name.
    Refused { stage: &'static str, reason: String },
    /// Something that must not be.
    Wrong(String),
}

pub(super) struct Trial<'a> {
    pub(super) workshop: &'a Workshop<'a>,
    pub(super) pair: &'a Pair,
    pub(super) engraft: &'a Path,
}

/// A built module, or how building ended.
enum Module {
    Written(Built),
    Ended(Outcome),
}

struct Built {
    path: PathBuf,
    replaced: usize,
    /// Where the program can compute again and again with the module: what a module brings
    /// along is not set back, and a second computation in the same process starts with it.
    places: &'static [Place],
}

const EVERYWHERE: &[Place] = &[Place::Here, Place::Child, Place::Here];
const IN_CHILDREN: &[Place] = &[Place::Child, Place::Child];

impl Trial<'_> {
    pub(super) fn run(&self) -> Result<Outcome, Failure> {
        let built = match self.build_module()? {
            Module::Written(built) => built,
            Module::Ended(outcome) => return Ok(outcome),
        };
        let binary = self.prepare_program()?;
        let mut process = Process::start(&binary, LIMIT)?;
        let Pair { before, after, .. } = self.pair;
        let module = built.path.to_string_lossy();
        let places = built.places;
        // Twice, because what is loaded again meets what the first time has left.
        for round in 1..=2 {
            let when = format!("before load {round}");
            if let Err(wrong) = check(&mut process, places, before, &when)? {
                return Ok(Outcome::Wrong(wrong));
            }
            let steps = [
                (["load", &*module], after),
                (["disable", NAME], before),
                (["unload", NAME], before),
            ];
            for (arguments, expected) in steps {
                let from = if arguments[0] == "disable" {
                    after
                } else {
                    before
                };
                let passage = Passage {
                    place: places[0],
                    from,
                    to: expected,
                };
                match self.change(&mut process, &passage, &arguments)? {
                    Ok(()) => {}
                    Err(Outcome::Refused { reason, .. }) if round > 1 || arguments[0] != "load" => {
                        return Ok(Outcome::Wrong(format!("{}: {reason}", arguments[0])));
                    }
                    Err(Outcome::Refused { stage, reason }) => {
                        let after = check(&mut process, places, before, "after a refusal")?;
                        return Ok(match after {
                            Ok(()) => Outcome::Refused { stage, reason },
                            Err(wrong) => Outcome::Wrong(wrong),
                        });
                    }
                    Err(outcome) => return Ok(outcome),
                }
                let when = format!("after {} {round}", arguments[0]);
                if let Err(wrong) = check(&mut process, places, expected, &when)? {
                    return Ok(Outcome::Wrong(wrong));
                }
            }
        }
        Ok(Outcome::Followed {
            replaced: built.replaced,
        })
    }

    /// `engraft build` with the difference of the two sources as a patch.
    fn build_module(&self) -> Result<Module, Failure> {
        let directory = self.workshop.directory;
        let module = directory.join(format!("{NAME}.lp"));
        fs::remove_file(&module).ok();
        let source = directory.join("source");
        fs::create_dir_all(&source).context("a source tree")?;
        for name in ["program.c", "driver.c"] {
            fs::copy(self.workshop.tree("original").join(name), source.join(name))
                .context("copying a source")?;
        }
        let patch = self.write_patch()?;
        let mut command = bounded::limit_time(self.engraft, BUILD_SECONDS);
        command
            .args(["--json", "build", "--source"])
            .arg(&source)
            .arg("--patch")
            .arg(patch)
            .args(["--target", "program", "--output"])
            .arg(&module)
            .args(["--", "sh", "-c", &self.workshop.options.build_script()]);
        let output = bounded::finish(&mut command, self.workshop.log)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let answer: Value =
            serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap_or_default();
        let wrong = |what: &str| {
            Ok(Module::Ended(Outcome::Wrong(format!(
                "engraft build {what} ({}): {}",
                output.status,
                text.trim()
            ))))
        };
        let refused = |reason: &Value| {
            Ok(Module::Ended(Outcome::Refused {
                stage: "build",
                reason: reason.as_str().unwrap_or_default().to_owned(),
            }))
        };
        if output.status.code() == Some(1) {
            let refusal = &answer["report"]["refusals"][0]["reason"];
            if refusal.is_string() {
                return refused(refusal);
            }
            return match &answer["error"] {
                error @ Value::String(_) => refused(error),
                _ => wrong("fails without a reason"),
            };
        }
        if !output.status.success() {
            return wrong("ends badly");
        }
        if !module.exists() {
            return wrong("sees no change");
        }
        let count = |list: &str| answer["report"][list].as_array().map_or(0, Vec::len);
        Ok(Module::Written(Built {
            path: module,
            replaced: count("replaced"),
            places: match count("added") {
                0 => EVERYWHERE,
                _ => IN_CHILDREN,
            },
        }))
    }

    fn write_patch(&self) -> Result<PathBuf, Failure> {
        let directory = self.workshop.directory;
        let mut diff = Command::new("diff");
        diff.args(["-u", "original/program.c", "mutant/program.c"])
            .current_dir(directory);
        // Its exit code says that the files differ, which they do.
        let output = bounded::finish(&mut diff, self.workshop.log)?;
        let path = directory.join("mutant.patch");
        fs::write(&path, output.stdout).context("writing a patch")?;
        Ok(path)
    }

    /// The original, as it was built without engraft.
    fn prepare_program(&self) -> Result<PathBuf, Failure> {
        let built = self.workshop.tree("original").join("program");
        let binary = self.workshop.directory.join("running");
        fs::copy(&built, &binary).context("copying a program")?;
        if self.workshop.options.stripped {
            let mut strip = Command::new("strip");
            if !bounded::succeeds(strip.arg(&binary), self.workshop.log)? {
                return Err(Failure::new("strip fails"));
            }
        }
        Ok(binary)
    }

    /// Runs a command while the program computes.
    fn change(
        &self,
        process: &mut Process,
        passage: &Passage<'_>,
        arguments: &[&str; 2],
    ) -> Result<Result<(), Outcome>, Failure> {
        let mut command = bounded::limit_time(self.engraft, COMMAND_SECONDS);
        command
            .args(arguments)
            .args(["--pid", &process.pid().to_string(), "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.workshop.log.output()?);
        let mut child = command.spawn().context("starting engraft")?;
        let mut answers: Vec<Option<Answer>> = Vec::new();
        while child.try_wait().context("waiting for engraft")?.is_none() {
            let answer = process.ask(passage.place)?;
            if answers.last() != Some(&answer) {
                answers.push(answer);
            }
        }
        let output = child.wait_with_output().context("engraft's answer")?;
        let what = arguments[0];
        if !passage.is_orderly(&answers) {
            return Ok(Err(Outcome::Wrong(format!("during {what}: {answers:?}"))));
        }
        if output.status.success() {
            return Ok(Ok(()));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        let answer: Value = serde_json::from_str(first).unwrap_or_default();
        Ok(Err(match answer["error"].as_str() {
            Some(reason) if output.status.code() == Some(1) => Outcome::Refused {
                stage: if what == "load" { "load" } else { "other" },
                reason: reason.to_owned(),
            },
            _ => Outcome::Wrong(format!("{what} ends badly ({}): {text}", output.status)),
        }))
    }
}

/// From which code to which a command brings the program, and where it computes meanwhile.
struct Passage<'a> {
    place: Place,
    from: &'a Answer,
    to: &'a Answer,
}

impl Passage<'_> {
    /// Whether the answers, of which equal ones do not follow each other, are the old one and
    /// then the new one. A process may be switched between two calls of a function within one
    /// computation, which then has an answer of its own; a child stays what it was born as.
    fn is_orderly(&self, answers: &[Option<Answer>]) -> bool {
        let answers = match answers {
            [Some(first), rest @ ..] if first == self.from => rest,
            all => all,
        };
        let mixed = match answers {
            [rest @ .., Some(last)] if last == self.to => rest,
            all => all,
        };
        match (self.place, mixed) {
            (_, []) => true,
            (Place::Here, [Some(one)]) => one.is_checksum(),
            _ => false,
        }
    }
}

/// Whether the program computes what it should now.
fn check(
    process: &mut Process,
    places: &[Place],
    expected: &Answer,
    when: &str,
) -> Result<Result<(), String>, Failure> {
    for place in places {
        let answer = process.ask(*place)?;
        if answer.as_ref() != Some(expected) {
            let answer = answer.map_or("nothing, it has ended".to_owned(), |answer| answer.0);
            return Ok(Err(format!(
                "{when} ({place:?}): {answer} instead of {}",
                expected.0
            )));
        }
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::{Answer, Passage, Place};

    #[test]
    fn only_a_process_may_be_switched_within_a_computation() {
        let [old, new, mixed] = ["1", "2", "3"].map(|text| Answer(format!("checksum = {text}")));
        let orderly = |place: Place, answers: &[Option<&Answer>]| {
            let passage = Passage {
                place,
                from: &old,
                to: &new,
            };
            let answers: Vec<_> = answers.iter().map(|answer| answer.cloned()).collect();
            passage.is_orderly(&answers)
        };
        let [one, two, three] = [Some(&old), Some(&new), Some(&mixed)];
        for place in [Place::Here, Place::Child] {
            assert!(orderly(place, &[]));
            assert!(orderly(place, &[one]));
            assert!(orderly(place, &[one, two]));
            assert!(!orderly(place, &[two, one]));
            assert!(!orderly(place, &[one, two, one]));
            assert!(!orderly(place, &[one, None]));
        }
        assert!(orderly(Place::Here, &[one, three, two]));
        assert!(!orderly(Place::Here, &[one, three, one]));
        assert!(!orderly(Place::Child, &[one, three, two]));
    }
}
