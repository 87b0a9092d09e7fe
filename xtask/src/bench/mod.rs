//! `cargo xtask bench`: what engraft costs, as ratios within one run wherever that is possible.

mod building;
mod measurement;
mod running;
mod subject;

use serde_json::json;

use crate::failure::Failure;
use crate::shell::{self, Log};
use crate::workspace::Workspace;
use measurement::Measurement;

type Benchmark = fn(&Workspace, &Log) -> Result<Vec<Measurement>, Failure>;

const BENCHMARKS: &[Benchmark] = &[
    building::measure_share,
    building::measure_tree,
    running::measure_calls,
    running::measure_transitions,
    running::measure_loads,
];

/// Measures everything and prints a table, or a list in JSON; a missed goal is a failure.
pub(crate) fn run(workspace: &Workspace, as_json: bool) -> Result<(), Failure> {
    let log = Log::file(workspace.scratch("")?.join("bench.log"))?;
    let build = ["build", "--release", "--package", "engraft"];
    shell::run(&mut workspace.cargo(&build), &log)?;
    let mut measurements = Vec::new();
    for benchmark in BENCHMARKS {
        let measured = benchmark(workspace, &log)?;
        if !as_json {
            measured.iter().for_each(|it| println!("{}", it.line()));
        }
        measurements.extend(measured);
    }
    if as_json {
        let list: Vec<_> = measurements.iter().map(Measurement::json).collect();
        println!("{}", json!({ "measurements": list }));
    }
    let missed: Vec<&str> = measurements
        .iter()
        .filter(|it| !it.is_met())
        .map(|it| &*it.what)
        .collect();
    if missed.is_empty() {
        Ok(())
    } else {
        let list = missed.join("; ");
        Err(Failure::new(format!("goals that are not met: {list}")))
    }
}
