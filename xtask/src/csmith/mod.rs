//! Random programs from csmith, changed in one function, patched to the changed program while
//! they run, and compared with it.

mod bounded;
mod generate;
mod mutate;
mod options;
mod process;
mod statements;
mod table;
mod trial;

use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::Failure;
use crate::random::Random;
use crate::shell::{self, Log};
use crate::workspace::Workspace;
use generate::Workshop;
use options::Options;
use table::Table;
use trial::{Outcome, Trial};

/// What the corpus runs.
pub(crate) const DEFAULT_COUNT: u64 = 200;
/// What CI runs, always the same programs.
const QUICK_COUNT: u64 = 10;
const QUICK_SEED: u64 = 1000;

/// Count and first seed of what CI runs, or of what the corpus runs.
pub(crate) fn extent(quick: bool) -> (u64, Option<u64>) {
    match quick {
        true => (QUICK_COUNT, Some(QUICK_SEED)),
        false => (DEFAULT_COUNT, None),
    }
}

/// Tries `count` programs, the first of them with `seed`, which is taken from the clock
/// if none is given; case N of a run is the first one of a run with its seed.
pub(crate) fn run(
    workspace: &Workspace,
    count: u64,
    seed: Option<u64>,
    log: &Log,
) -> Result<String, Failure> {
    let build = ["build", "--release", "--package", "engraft"];
    shell::run(&mut workspace.cargo(&build), log)?;
    let seed = seed.unwrap_or_else(seed_from_clock);
    println!("seed {seed}");
    let mut table = Table::default();
    for seed in (0..count).map(|case| seed.wrapping_add(case)) {
        try_seed(workspace, seed, &mut table, log)?;
    }
    for line in table.lines() {
        println!("{line}");
    }
    let summary = format!("{} (first seed {seed})", table.summary());
    if table.wrong.is_empty() {
        Ok(summary)
    } else {
        Err(Failure::new(format!(
            "{summary}:\n{}",
            table.wrong.join("\n")
        )))
    }
}

fn try_seed(workspace: &Workspace, seed: u64, table: &mut Table, log: &Log) -> Result<(), Failure> {
    let mut random = Random::new(seed);
    let options = Options::choose(&mut random);
    let directory = workspace.scratch(&format!("csmith/{seed}"))?;
    let workshop = Workshop {
        directory: &directory,
        options: &options,
        log,
    };
    let pair = workshop.find_pair(&mut random, &mut table.useless)?;
    let trial = Trial {
        workshop: &workshop,
        pair: &pair,
        engraft: &workspace.engraft_binary(),
    };
    let outcome = trial.run()?;
    let about = format!(
        "seed {seed} ({}; {})",
        options.describe(),
        pair.mutant.description
    );
    // What went well needs no files.
    if matches!(outcome, Outcome::Followed { .. }) {
        std::fs::remove_dir_all(&directory).ok();
    }
    table.add(&options, &about, outcome);
    Ok(())
}

/// Small enough to be typed again.
fn seed_from_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| {
        u64::from(now.subsec_nanos()) ^ now.as_secs() & 0xffff_ffff
    })
}
