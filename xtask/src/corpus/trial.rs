//! One fix: built, loaded into the running program, disabled, unloaded and loaded again.

use std::path::{Path, PathBuf};

use super::base::Base;
use super::engraft::{Answer, Engraft, Request, Seconds};
use super::entries::{Entry, Expected, Hook, Stayer};
use super::load::Load;
use super::running::Running;
use super::trigger::{State, Trigger};
use crate::failure::Failure;

/// What came of a fix.
pub(super) struct Outcome {
    pub(super) replaced: usize,
    pub(super) seconds: Seconds,
    pub(super) result: String,
}

pub(super) struct Trial<'a> {
    pub(super) base: &'a Base,
    pub(super) engraft: &'a Engraft<'a>,
    pub(super) entry: &'static Entry,
}

/// The name of every module here.
const NAME: &str = "corpus_fix";

impl Trial<'_> {
    pub(super) fn run(&self) -> Result<Outcome, Failure> {
        let (answer, result) = self.build_expected()?;
        let result = match result {
            Some(result) => result,
            None => self.try_on_program()?,
        };
        let result = match self.entry.expected {
            Expected::InVain(_) => format!("perhaps in vain, and says so; {result}"),
            _ => result,
        };
        Ok(Outcome {
            replaced: answer.replaced.len(),
            seconds: answer.seconds,
            result,
        })
    }

    /// The same with a hook, which makes it possible.
    pub(super) fn run_hooked(&self, hook: &Hook, hooks: &Path) -> Result<Outcome, Failure> {
        let source = &self.base.source;
        let patches = match hook.patch {
            Some(patch) => vec![hooks.join(patch)],
            None => self.entry.patch_files(self.base),
        };
        let code = (hooks.join(hook.source), source.join(hook.include));
        let answer = self.build(patches, Some(code))?;
        if !answer.refusals.is_empty() || answer.replaced.is_empty() {
            return Err(unexpected("it is refused although it has a hook", &answer));
        }
        Ok(Outcome {
            replaced: answer.replaced.len(),
            seconds: answer.seconds,
            result: self.try_on_program()?,
        })
    }

    fn module(&self) -> PathBuf {
        self.base.directory.join(NAME).with_extension("lp")
    }

    fn build(
        &self,
        patches: Vec<PathBuf>,
        hook: Option<(PathBuf, PathBuf)>,
    ) -> Result<Answer, Failure> {
        self.engraft.build(&Request {
            source: &self.base.source,
            patches,
            hook,
            target: self.base.project.target,
            module: &self.module(),
            build: self.base.project.build,
        })
    }

    /// Builds it; the result, if it ends with that.
    fn build_expected(&self) -> Result<(Answer, Option<String>), Failure> {
        let answer = self.build(self.entry.patch_files(self.base), None)?;
        let written = self.module().exists();
        let result = match &self.entry.expected {
            Expected::Nothing => {
                if written || !answer.replaced.is_empty() || !answer.refusals.is_empty() {
                    return Err(unexpected("it changes something", &answer));
                }
                Some("no effect on this build".to_owned())
            }
            Expected::Refused(text) => {
                if written || !answer.refusals.iter().any(|refusal| refusal.contains(text)) {
                    return Err(unexpected("it is not refused as it should be", &answer));
                }
                Some(format!("refused: {text}"))
            }
            Expected::Replaced(expected) | Expected::InVain(expected) => {
                let mut expected = expected.to_vec();
                expected.sort_unstable();
                if answer.replaced != expected {
                    return Err(unexpected("other functions are replaced", &answer));
                }
                let in_vain = matches!(self.entry.expected, Expected::InVain(_));
                if in_vain && answer.in_vain != expected {
                    return Err(unexpected("it is not said to be in vain", &answer));
                }
                None
            }
            Expected::Few(expected, most) => {
                let missing = expected
                    .iter()
                    .any(|name| !answer.replaced.iter().any(|found| found == name));
                if missing || answer.replaced.is_empty() || answer.replaced.len() > *most {
                    return Err(unexpected("other functions are replaced", &answer));
                }
                None
            }
        };
        Ok((answer, result))
    }

    fn try_on_program(&self) -> Result<String, Failure> {
        let mut running = self.base.start()?;
        if let Some((who, function)) = self.entry.stays_in {
            self.refuse_to_leave(&running, who, function)?;
        }
        let states = [State::Vulnerable, State::Fixed];
        let trigger = self.entry.trigger;
        let answers = go_up_and_down(
            self.engraft,
            &mut running,
            (NAME, &self.module()),
            trigger,
            states,
        )?;
        Ok(match trigger {
            Some(_) => format!("loads and leaves; vulnerable, fixed and back; {answers} answers"),
            None => format!("loads and leaves; {answers} answers"),
        })
    }

    /// A process that never leaves a function cannot be patched in it, and the load says so.
    fn refuse_to_leave(
        &self,
        running: &Running,
        who: Stayer,
        function: &str,
    ) -> Result<(), Failure> {
        let said = match who {
            Stayer::Child => {
                let child = running.first_child()?;
                self.engraft.load_in_vain(&self.module(), child)?
            }
            Stayer::Other(program) => {
                let mut other = self.base.start_as(program)?;
                other.await_output("begun")?;
                self.engraft.load_in_vain(&self.module(), other.pid())?
            }
        };
        if said.contains(function) {
            Ok(())
        } else {
            let message = format!("the load that cannot complete does not name {function}: {said}");
            Err(Failure::new(message))
        }
    }
}

/// Loads a module under load, disables and unloads it, and loads it again; the program does as
/// it does in the first state without and in the second one with it. How many answers it gave
/// meanwhile.
pub(super) fn go_up_and_down(
    engraft: &Engraft<'_>,
    running: &mut Running,
    (name, module): (&str, &Path),
    trigger: Option<&Trigger>,
    [without, with]: [State; 2],
) -> Result<usize, Failure> {
    let expect = |running: &mut Running, state| match trigger {
        Some(trigger) => trigger.expect(running, state),
        None => Ok(()),
    };
    let module = module.to_string_lossy();
    let mut answers = 0;
    expect(running, without)?;
    for (command, operand, state) in [
        ("load", &*module, with),
        ("disable", name, without),
        ("unload", name, without),
        ("load", &module, with),
    ] {
        let load = Load::start(running);
        let acted = engraft.act(command, operand, running.pid());
        let answered = load.finish();
        running.check_alive()?;
        acted?;
        answers += answered?;
        expect(running, state)?;
    }
    Ok(answers)
}

fn unexpected(what: &str, answer: &Answer) -> Failure {
    Failure::new(format!("{what}: {}", answer.report))
}
