//! What a patch costs a running program: per call, per transition, per load.

use super::measurement::Measurement;
use super::subject::{Subject, size_of};
use crate::failure::Failure;
use crate::shell::Log;
use crate::workspace::Workspace;

const THREADS: [u32; 4] = [1, 8, 64, 512];
const FUNCTIONS: [u32; 4] = [1, 10, 100, 1000];
/// The median of so many counts.
const REPETITIONS: usize = 7;

/// A call of a patched function against one of an unpatched one.
pub(super) fn measure_calls(workspace: &Workspace, log: &Log) -> Result<Vec<Measurement>, Failure> {
    let subject = Subject::build(workspace, 1, log)?;
    let mut running = subject.start(1)?;
    let before = running.time_calls()?;
    running.load()?;
    let patched = running.time_calls()?;
    running.take_out()?;
    let after = running.time_calls()?;
    let results = [before, patched, after].map(|calls| calls.result);
    if results != [4, 5, 4] {
        return Err(Failure::new(format!("the function returns {results:?}")));
    }
    Ok(vec![
        Measurement::new(
            "call of a patched function / of an unpatched one",
            patched.changed / patched.unchanged,
            "x",
        ),
        Measurement::new(
            "call of an unpatched function, patch loaded / not loaded",
            patched.unchanged / before.unchanged,
            "x",
        ),
        Measurement::new(
            "call of a function after disable / before load",
            after.changed / before.changed,
            "x",
        ),
    ])
}

/// The time of a transition with more and more sleeping threads.
pub(super) fn measure_transitions(
    workspace: &Workspace,
    log: &Log,
) -> Result<Vec<Measurement>, Failure> {
    let subject = Subject::build(workspace, 1, log)?;
    let mut measurements = Vec::new();
    let mut first = None;
    for threads in THREADS {
        let running = subject.start(threads)?;
        let mut times = Vec::new();
        for _ in 0..REPETITIONS {
            let (seconds, _) = running.load()?;
            times.push(seconds);
            running.take_out()?;
        }
        let time = median(times);
        let first = *first.get_or_insert(time);
        measurements.push(Measurement::new(
            format!("transition of {threads} threads / of 1 thread"),
            time / first,
            "x",
        ));
    }
    Ok(measurements)
}

/// The time of `engraft load` with larger and larger modules.
pub(super) fn measure_loads(workspace: &Workspace, log: &Log) -> Result<Vec<Measurement>, Failure> {
    let mut measurements = Vec::new();
    let mut first = None;
    for functions in FUNCTIONS {
        let subject = Subject::build(workspace, functions, log)?;
        let running = subject.start(1)?;
        let mut times = Vec::new();
        for _ in 0..REPETITIONS {
            let (_, whole) = running.load()?;
            times.push(whole.as_secs_f64());
            running.take_out()?;
        }
        let time = median(times);
        let first = *first.get_or_insert(time);
        let size = size_of(&subject.module)?.div_ceil(1024);
        measurements.push(Measurement::new(
            format!("load of {functions} functions ({size} KiB) / of 1 function"),
            time / first,
            "x",
        ));
    }
    Ok(measurements)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
