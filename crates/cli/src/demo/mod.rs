//! The demo: a bundled server changes its code under load, patch by patch.
//!
//! It uses the engine exactly as the other commands do; the server is an ordinary program
//! that does not know of it.

mod fixes;
mod receipts;
mod report;
mod server;
mod story;
mod traffic;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use engraft_engine::LogLine;

use crate::failure::{Failure, Verdict};
use crate::output::Output;
use fixes::FIXES;
use report::Report;
use server::Server;
use story::{FIRST_REPLACE, STORY, Stage};
use traffic::Traffic;

/// How long the load runs before the first step, and after each transition.
const QUIET_TIME: Duration = Duration::from_secs(3);

/// `timeline` is where to draw the first replace.
pub(crate) fn run(timeline: Option<&Path>, output: &Output) -> Result<Verdict, Failure> {
    let directory = tempfile::Builder::new()
        .prefix("engraft-demo-")
        .tempdir()
        .map_err(|error| Failure::new(format!("cannot create a temporary directory: {error}")))?;
    let program = build_all(directory.path(), output)?;
    let server = Server::start(&program)?;
    let traffic = Traffic::start(server.port())
        .map_err(|error| Failure::new(format!("cannot start the load generator: {error}")))?;
    say(
        output,
        &format!("server runs as process {}, under load", server.pid()),
    );

    let mut report = Report::default();
    let stage = Stage {
        directory: directory.path(),
        server: &server,
        traffic: &traffic,
        quiet: output.json,
    };
    let told = tell(&stage, timeline, &mut report, output);
    let log = engraft_engine::read_log(server.pid());
    let finished = finish(server, traffic, &mut report);
    show(output, &report, log.as_deref().unwrap_or_default());
    finished?;
    told?;
    log?;
    Ok(report.verdict())
}

/// Builds the server, and the patch modules from diffs of its source.
fn build_all(directory: &Path, output: &Output) -> Result<PathBuf, Failure> {
    let (running, source) = (directory.join("running"), directory.join("source"));
    server::write_source(&running)
        .and_then(|()| server::write_source(&source))
        .and_then(|()| fixes::write_diffs(directory))
        .map_err(|error| Failure::new(format!("cannot write the demo's sources: {error}")))?;
    say(
        output,
        "building the server, and three patch modules from two diffs of its source",
    );
    let program = server::build(&running)?;
    for fix in FIXES {
        fix.build(&source, directory, output.json)?;
        say(output, &format!("  {}", fix.describe()));
    }
    Ok(program)
}

/// Plays the steps one after the other.
fn tell(
    stage: &Stage<'_>,
    timeline: Option<&Path>,
    report: &mut Report,
    output: &Output,
) -> Result<(), Failure> {
    run_quietly(stage.server, report)?;
    for (index, step) in STORY.iter().enumerate() {
        let outcome = step.play(stage, timeline.filter(|_| index == FIRST_REPLACE))?;
        say(output, &outcome.describe());
        report.steps.push(outcome);
        if step.has_transition() {
            run_quietly(stage.server, report)?;
        }
    }
    Ok(())
}

fn run_quietly(server: &Server, report: &mut Report) -> Result<(), Failure> {
    server.take_longest_gap()?;
    thread::sleep(QUIET_TIME);
    report.quiet_gap = report.quiet_gap.max(server.take_longest_gap()?);
    Ok(())
}

/// Ends load and server. A server that crashed is the worst that can be reported.
fn finish(server: Server, traffic: Traffic, report: &mut Report) -> Result<(), Failure> {
    report.counts = traffic.stop();
    let interrupted_calls = server.interrupted_calls();
    let status = server
        .stop()
        .map_err(|error| Failure::new(format!("the server cannot be waited for: {error}")))?;
    if !status.success() {
        return Err(Failure::new(format!(
            "the server did not survive: {status}"
        )));
    }
    report.interrupted_calls = interrupted_calls?;
    Ok(())
}

fn show(output: &Output, report: &Report, log: &[LogLine]) {
    if output.json {
        output.object(report);
        return;
    }
    output.heading("\nlivepatch log of the server");
    for line in log.iter().filter(|line| line.level < crate::log::DEBUG) {
        output.line(&crate::log::describe(line));
    }
    output.heading("\nwhat happened");
    output.line(&report.describe());
}

fn say(output: &Output, text: &str) {
    if !output.json {
        output.line(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traffic::Counts;

    /// The server and the load generator agree, and an unpatched server passes all checks.
    #[test]
    fn an_unpatched_server_answers_right_and_sees_no_eintr() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("running");
        server::write_source(&place).unwrap();
        let server = Server::start(&server::build(&place).unwrap()).unwrap();
        let traffic = Traffic::start(server.port()).unwrap();
        thread::sleep(Duration::from_millis(1_000));
        let gap = server.take_longest_gap().unwrap();
        assert!(
            gap > Duration::ZERO && gap < Duration::from_secs(1),
            "{gap:?}"
        );
        let mut report = Report::default();
        finish(server, traffic, &mut report).unwrap();
        let counts = report.counts;
        assert!(counts.requests > 500, "{counts:?}");
        assert_eq!(
            counts,
            Counts {
                requests: counts.requests,
                ..Counts::default()
            }
        );
        assert_eq!(report.interrupted_calls, 0);
    }
}
