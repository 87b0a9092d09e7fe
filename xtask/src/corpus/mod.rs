//! Real security fixes of Debian's source packages, built into patch modules from their
//! patch files and tried on the running programs.

mod base;
mod cumulative;
mod engraft;
mod entries;
mod files;
mod load;
mod projects;
mod running;
mod stripped;
mod table;
mod trial;
mod trigger;
mod triggers;
mod upstream;

use crate::failure::Failure;
use crate::shell::{self, Log};
use crate::workspace::Workspace;

use base::Base;
use cumulative::Cumulative;
use engraft::{Engraft, Request};
use entries::{ENTRIES, Entry};
use stripped::STRIPPED;
use table::Table;
use trial::{Outcome, Trial};

/// Runs the entries whose project or patch file contains `filter` (all of them without one)
/// and prints a line for each.
pub(crate) fn run(
    workspace: &Workspace,
    filter: Option<&str>,
    quick: bool,
    log: &Log,
) -> Result<String, Failure> {
    let build = ["build", "--release", "--package", "engraft"];
    shell::run(&mut workspace.cargo(&build), log)?;
    let mut chosen: Vec<&'static Entry> = ENTRIES
        .iter()
        .filter(|entry| filter.is_none_or(|text| entry.is_called(text)) && (!quick || entry.quick))
        .collect();
    let shipped: Vec<_> = STRIPPED
        .iter()
        .filter(|it| !quick && filter.is_none_or(|text| it.is_called(text)))
        .collect();
    if chosen.is_empty() && shipped.is_empty() {
        return Err(Failure::new("no entry of the corpus goes by that name"));
    }
    let engraft = Engraft::new(workspace, log);
    let mut table = Table::begin();
    while let Some(first) = chosen.first() {
        let project = first.project;
        let (entries, rest): (Vec<_>, Vec<_>) = chosen
            .into_iter()
            .partition(|entry| entry.project.name == project.name);
        chosen = rest;
        let fixes: Vec<&str> = ENTRIES
            .iter()
            .filter(|entry| entry.project.name == project.name)
            .flat_map(|entry| entry.patches.iter().copied())
            .collect();
        match Base::prepare(workspace, project, &fixes, log) {
            Ok(base) => try_project(workspace, &base, &engraft, &entries, &mut table),
            Err(failure) => table.add(project.name, "its source", &Err(failure)),
        }
    }
    for stripped in shipped {
        let outcome = stripped.run(workspace, &engraft, log);
        table.add(stripped.project.name, &stripped.title(), &outcome);
    }
    table.finish()
}

fn try_project(
    workspace: &Workspace,
    base: &Base,
    engraft: &Engraft<'_>,
    entries: &[&'static Entry],
    table: &mut Table,
) {
    let project = base.project.name;
    table.add(project, "nothing", &build_nothing(base, engraft));
    for entry in entries {
        let trial = Trial {
            base,
            engraft,
            entry,
        };
        let fix = entry.patches.join(" + ");
        table.add(project, &fix, &trial.run());
        if let Some(hook) = entry.hook {
            let hooks = workspace.path("xtask/src/corpus/hooks");
            table.add(
                project,
                &format!("{fix} + hook"),
                &trial.run_hooked(&hook, &hooks),
            );
        }
    }
    let loadable: Vec<&Entry> = entries
        .iter()
        .copied()
        .filter(|entry| entry.is_loadable())
        .collect();
    if loadable.len() > 1 {
        let title = format!("{} fixes together", loadable.len());
        let cumulative = Cumulative {
            base,
            engraft,
            entries: loadable,
        };
        table.add(project, &title, &cumulative.run());
    }
}

/// A build without a patch finds no difference.
fn build_nothing(base: &Base, engraft: &Engraft<'_>) -> Result<Outcome, Failure> {
    let module = base.directory.join("corpus_nothing.lp");
    let answer = engraft.build(&Request {
        source: &base.source,
        patches: Vec::new(),
        hook: None,
        target: base.project.target,
        module: &module,
        build: base.project.build,
    })?;
    let differences = [
        "replaced", "added", "gone", "refusals", "handled", "ignored",
    ];
    let found = differences
        .iter()
        .find(|what| answer.report[**what] != serde_json::json!([]));
    match found {
        Some(what) => Err(Failure::new(format!(
            "a build without a patch differs ({what}): {}",
            answer.report
        ))),
        None => Ok(Outcome {
            replaced: 0,
            seconds: answer.seconds,
            result: "no changes".to_owned(),
        }),
    }
}
