//! Real security fixes of Debian's source packages, built into patch modules from their
//! patch files and tried on the running programs.

mod entries;
mod projects;
mod running;
mod trial;

use std::time::Instant;

use crate::failure::Failure;
use crate::shell::{self, Log};
use crate::workspace::Workspace;

pub(crate) use entries::ENTRIES;
use trial::Trial;

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
    let chosen = ENTRIES.iter().filter(|entry| {
        let named = filter.is_none_or(|text| {
            entry.project.name.contains(text)
                || entry.patches.iter().any(|patch| patch.contains(text))
        });
        named && (!quick || entry.quick)
    });
    let mut failed = Vec::new();
    let mut count = 0;
    println!();
    println!(
        "{:<10} {:<58} {:>7} {:>8}  result",
        "project", "fix", "seconds", "replaced"
    );
    for entry in chosen {
        count += 1;
        let started = Instant::now();
        let outcome = Trial::new(workspace, entry, log).run();
        let seconds = started.elapsed().as_secs_f64();
        let fix = entry.patches.join(" + ");
        let (replaced, result) = match &outcome {
            Ok(outcome) => (outcome.replaced.to_string(), outcome.result.clone()),
            Err(failure) => ("-".to_owned(), format!("FAILED: {failure}")),
        };
        println!(
            "{:<10} {fix:<58} {seconds:>7.1} {replaced:>8}  {result}",
            entry.project.name
        );
        if outcome.is_err() {
            failed.push(fix);
        }
    }
    if count == 0 {
        return Err(Failure::new("no entry of the corpus goes by that name"));
    }
    if failed.is_empty() {
        Ok(format!("{count} fixes, all as expected"))
    } else {
        Err(Failure::new(format!(
            "{} of {count} fixes did not do what is expected of them: {}",
            failed.len(),
            failed.join(", ")
        )))
    }
}
