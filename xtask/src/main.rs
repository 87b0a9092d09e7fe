//! Development tasks: `cargo xtask test` and its parts.
//!
//! It knows the repository's layout, the machine's package manager and the `engraft`
//! command. It must not know the crates of the workspace: whatever it tests, it tests
//! through cargo or through the binary that a user runs.
#![forbid(unsafe_code)]

mod bench;
mod conformance;
mod corpus;
mod csmith;
mod debian;
mod example;
mod excerpt;
mod failure;
mod memcached;
mod packages;
mod random;
mod shell;
mod simulate;
mod steps;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::shell::Log;
use crate::steps::Steps;
use crate::workspace::Workspace;

/// Development tasks of engraft.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything CI checks: packages, format, clippy, tidy, tests, simulator, conformance, memcached,
    /// corpus, demo
    Test,
    /// The repository's own rules: sizes, headers, dependency directions, links
    Tidy,
    /// Random scenarios of the livepatch rules, on the simulator
    Simulate {
        /// How many scenarios
        #[arg(long, default_value_t = simulate::DEFAULT_COUNT)]
        count: u64,
        /// Seed of the first scenario, as a failed run printed it
        #[arg(long)]
        seed: Option<u64>,
    },
    /// A cumulative series of livepatches on Debian's memcached, under a checked load
    Memcached {
        /// How often to go up and down the series
        #[arg(long, default_value_t = memcached::DEFAULT_ROUNDS)]
        rounds: u32,
    },
    /// Real fixes, built from Debian's source packages and tried on the running programs
    Corpus {
        /// Only entries whose project or patch file contains this; `stripped` for Debian's own
        /// programs
        filter: Option<String>,
        /// Only the few that CI runs
        #[arg(long)]
        quick: bool,
    },
    /// The same livepatches on Debian's kernels, in QEMU, and on a process
    Conformance {
        /// How many random scenarios with each kernel
        #[arg(long, default_value_t = conformance::DEFAULT_COUNT)]
        count: u64,
        /// Seed of the first random scenario, as a run printed it
        #[arg(long)]
        seed: Option<u64>,
        /// Only what CI runs
        #[arg(long)]
        quick: bool,
    },
    /// What engraft costs: building, loading, calls, transitions
    Bench {
        /// A JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Random programs from csmith, patched to a changed version while they run
    Csmith {
        /// How many programs
        #[arg(long, default_value_t = csmith::DEFAULT_COUNT)]
        count: u64,
        /// Seed of the first program, as a run printed it
        #[arg(long)]
        seed: Option<u64>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<(), Failure> {
    let workspace = Workspace::locate()?;
    match task {
        Task::Test => test::run(&workspace),
        Task::Tidy => {
            println!("{}", tidy::run(&workspace)?);
            Ok(())
        }
        Task::Simulate { count, seed } => {
            let mut steps = Steps::new(&workspace);
            steps.run("simulator", &|log| {
                simulate::run(&workspace, *count, *seed, log)
            })?;
            steps.finish()
        }
        Task::Memcached { rounds } => {
            let mut steps = Steps::new(&workspace);
            if steps.run("packages", &packages::install)? {
                steps.run("memcached", &|log| memcached::run(&workspace, *rounds, log))?;
            }
            steps.finish()
        }
        Task::Corpus { filter, quick } => {
            let mut steps = Steps::new(&workspace);
            if steps.run("packages", &packages::install_for_corpus)? {
                steps.run("corpus", &|log| {
                    corpus::run(&workspace, filter.as_deref(), *quick, log)
                })?;
                if filter.is_none() {
                    let (count, seed) = csmith::extent(*quick);
                    steps.run("csmith", &|log| csmith::run(&workspace, count, seed, log))?;
                }
            }
            steps.finish()
        }
        Task::Conformance { count, seed, quick } => {
            let mut steps = Steps::new(&workspace);
            let install = if *quick {
                packages::install
            } else {
                packages::install_for_conformance
            };
            if steps.run("packages", &install)? {
                let extent = match quick {
                    true => conformance::Extent::quick(),
                    false => conformance::Extent::whole(*count, *seed),
                };
                steps.run("conformance", &|log| {
                    conformance::run(&workspace, &extent, log)
                })?;
            }
            steps.finish()
        }
        Task::Bench { json } => {
            packages::install(&Log::discard())?;
            bench::run(&workspace, *json)
        }
        Task::Csmith { count, seed } => {
            let mut steps = Steps::new(&workspace);
            if steps.run("packages", &packages::install)? {
                steps.run("csmith", &|log| csmith::run(&workspace, *count, *seed, log))?;
            }
            steps.finish()
        }
    }
}
