//! All fixes of a project together: one, then all in its place, then the one again.

use std::path::PathBuf;

use super::base::Base;
use super::engraft::{Engraft, Request, Seconds};
use super::entries::Entry;
use super::load::Load;
use super::running::Running;
use super::trial::Outcome;
use super::trigger::State;
use crate::failure::Failure;

/// A project with several fixes that can be loaded.
pub(super) struct Cumulative<'a> {
    pub(super) base: &'a Base,
    pub(super) engraft: &'a Engraft<'a>,
    /// The first one comes first.
    pub(super) entries: Vec<&'static Entry>,
}

const FIRST: &str = "corpus_first";
const ALL: &str = "corpus_all";

/// Commands with their operands, the patches that are enabled then, and how many of the fixes
/// the program has.
type Step<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], usize);

impl Cumulative<'_> {
    pub(super) fn run(&self) -> Result<Outcome, Failure> {
        let (first, _, _) = self.build(FIRST, &self.entries[..1])?;
        let (all, replaced, seconds) = self.build(ALL, &self.entries)?;
        let [first, all] = [first, all].map(|path| path.to_string_lossy().into_owned());
        let mut running = self.base.start()?;
        let before = self.expect(&mut running, 0)?;
        let steps: [Step<'_>; 5] = [
            (&[("load", &first)], &[FIRST], 1),
            (&[("load", &all)], &[ALL], self.entries.len()),
            (&[("unload", FIRST), ("load", &first)], &[FIRST], 1),
            (
                &[("unload", ALL), ("load", &all)],
                &[ALL],
                self.entries.len(),
            ),
            (&[("disable", ALL), ("unload", ALL)], &[], 0),
        ];
        for (actions, enabled, fixed) in steps {
            let load = Load::start(&running);
            let acted = actions
                .iter()
                .try_for_each(|(command, name)| self.engraft.act(command, name, running.pid()));
            let answered = load.finish();
            running.check_alive()?;
            acted?;
            answered?;
            let found = self.engraft.enabled(running.pid())?;
            if found != enabled {
                let message = format!("after {actions:?}, enabled is {found:?}");
                return Err(Failure::new(message));
            }
            self.expect(&mut running, fixed)?;
        }
        Ok(Outcome {
            replaced,
            seconds,
            result: format!("one, all, one, all, none; {before} of them shown each time"),
        })
    }

    fn build(&self, name: &str, entries: &[&Entry]) -> Result<(PathBuf, usize, Seconds), Failure> {
        let module = self.base.directory.join(name).with_extension("lp");
        let patches = entries
            .iter()
            .flat_map(|entry| entry.patch_files(self.base));
        let answer = self.engraft.build(&Request {
            source: &self.base.source,
            patches: self.base.in_order(patches.collect())?,
            hook: None,
            target: self.base.project.target,
            module: &module,
            build: self.base.project.build,
        })?;
        if !answer.refusals.is_empty() || answer.replaced.is_empty() {
            let message = format!("{name} is not built: {}", answer.report);
            return Err(Failure::new(message));
        }
        Ok((module, answer.replaced.len(), answer.seconds))
    }

    /// The first so many are fixed and the others are not; how many of them show it.
    fn expect(&self, running: &mut Running, fixed: usize) -> Result<usize, Failure> {
        let mut shown = 0;
        for (position, entry) in self.entries.iter().enumerate() {
            if let Some(trigger) = entry.trigger {
                let state = match position < fixed {
                    true => State::Fixed,
                    false => State::Vulnerable,
                };
                trigger.expect(running, state)?;
                shown += 1;
            }
        }
        Ok(shown)
    }
}
