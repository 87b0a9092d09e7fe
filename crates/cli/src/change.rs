//! What is said about one process after its stack of patches was changed.

use engraft_engine::{Direction, TransitionStatus};
use serde::Serialize;

use crate::failure::{Failure, Verdict};
use crate::output::{Output, tag_process};
use crate::render;
use crate::wait::{Ending, Passage};

/// What a command did to one process.
#[derive(Serialize)]
struct Change<'a> {
    patch: &'a str,
    result: &'static str,
    /// Threads there were at the last pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transition: Option<&'a TransitionStatus>,
    #[serde(flatten)]
    failure: Option<Failure>,
}

/// Reports a change that moves no threads.
pub(crate) fn report_plain(
    output: &Output,
    pid: Option<i32>,
    patch: &str,
    result: &'static str,
) -> Verdict {
    let change = Change {
        patch,
        result,
        threads: None,
        seconds: None,
        transition: None,
        failure: None,
    };
    if output.json {
        output.object(&tag_process(pid, &change));
    } else {
        output.line(&format!(
            "{}: '{}' is {result}",
            render::subject(pid),
            render::printable(patch)
        ));
    }
    Verdict::Done
}

/// Reports how a transition ended; `done` says what the patch is after a completed one.
pub(crate) fn report(
    output: &Output,
    pid: Option<i32>,
    patch: &str,
    done: &'static str,
    passage: &Passage,
) -> Verdict {
    let (result, transition) = match &passage.ending {
        Ending::Completed => (done, None),
        Ending::Running(status) => ("running", Some(status)),
        Ending::Left(status) => ("left", Some(status)),
        Ending::Forced => ("forced", None),
        Ending::Reversed(status) => ("reversed", Some(status)),
        Ending::Reversing(back) => ("reversing", Some(back)),
    };
    let failure = describe_timeout(patch, passage);
    let verdict = failure
        .as_ref()
        .map_or(Verdict::Done, |failure| failure.verdict);
    if output.json {
        let seconds = Some(passage.elapsed.as_secs_f64());
        let threads = Some(passage.threads);
        let change = Change {
            patch,
            result,
            threads,
            seconds,
            transition,
            failure,
        };
        output.object(&tag_process(pid, &change));
    } else if let Some(failure) = failure {
        output.failure(pid, &failure);
    } else {
        output.line(&format!(
            "{}: {}",
            render::subject(pid),
            describe(patch, result, passage)
        ));
    }
    verdict
}

/// One line about a transition that needs no excuse.
fn describe(patch: &str, result: &str, passage: &Passage) -> String {
    let patch = render::printable(patch);
    if let Ending::Running(status) = &passage.ending {
        return format!(
            "'{patch}' is in transition to {}, {} of {} threads switched",
            render::direction(status.target),
            status.switched,
            status.total
        );
    }
    let time = render::duration(passage.elapsed);
    match passage.threads {
        1 => format!("'{patch}' is {result} (1 thread, {time})"),
        threads => format!("'{patch}' is {result} ({threads} threads, {time})"),
    }
}

/// The failure that a transition is which did not complete in time.
pub(crate) fn describe_timeout(patch: &str, passage: &Passage) -> Option<Failure> {
    let (held_up, what, help) = match &passage.ending {
        Ending::Completed | Ending::Running(_) | Ending::Forced => return None,
        Ending::Reversed(status) => (
            status,
            "was reversed; every thread runs the code from before",
            match status.target {
                Direction::Patched => {
                    "the patch stays loaded: 'enable' it when these threads are elsewhere, or allow more time with --timeout"
                }
                Direction::Unpatched => {
                    "the patch stays enabled: 'disable' it when these threads are elsewhere, or allow more time with --timeout"
                }
            },
        ),
        Ending::Left(status) => (
            status,
            "was left unfinished",
            "go on with it by the same 'enable' or 'disable' command, reverse it by the opposite one, or use 'force'",
        ),
        Ending::Reversing(back) => (
            back,
            "was reversed, but the reversal did not complete either",
            "go on with it by 'disable' or 'enable', or use 'force'",
        ),
    };
    let time = render::duration(passage.elapsed);
    let mut failure = Failure::new(format!(
        "the transition of '{patch}' did not complete in time ({time}) and {what}"
    ))
    .with_help(help);
    failure.verdict = Verdict::NotInTime;
    failure.details = held_up.blockers.iter().map(render::blocker).collect();
    Some(failure)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engraft_engine::BlockerStatus;

    use super::*;

    fn status() -> TransitionStatus {
        let blocker = BlockerStatus {
            tid: 11,
            comm: "worker".to_owned(),
            state: 'S',
            reason: "is sleeping on function".to_owned(),
            function: Some("serve".to_owned()),
            stack: Vec::new(),
        };
        TransitionStatus {
            patch: "fix".to_owned(),
            target: Direction::Patched,
            total: 4,
            switched: 3,
            attempts: 70,
            blockers: vec![blocker],
        }
    }

    fn passage(ending: Ending) -> Passage {
        Passage {
            ending,
            threads: 4,
            elapsed: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_reversed_transition_names_threads_and_functions() {
        let failure = describe_timeout("fix", &passage(Ending::Reversed(status()))).unwrap();
        assert_eq!(failure.verdict, Verdict::NotInTime);
        assert_eq!(
            failure.message,
            "the transition of 'fix' did not complete in time (60.0 s) and was reversed; every thread runs the code from before"
        );
        assert_eq!(
            failure.details,
            ["thread 11 (worker, S): is sleeping on function serve"]
        );
    }

    #[test]
    fn a_left_transition_says_so() {
        let failure = describe_timeout("fix", &passage(Ending::Left(status()))).unwrap();
        assert!(failure.message.ends_with("was left unfinished"));
        assert!(!failure.message.contains("reversed"));
        assert_eq!(failure.details.len(), 1);
    }

    #[test]
    fn transitions_in_time_are_no_failures() {
        for ending in [Ending::Completed, Ending::Running(status()), Ending::Forced] {
            assert!(describe_timeout("fix", &passage(ending)).is_none());
        }
        assert_eq!(
            describe("fix", "enabled", &passage(Ending::Completed)),
            "'fix' is enabled (4 threads, 60.0 s)"
        );
        assert_eq!(
            describe("fix", "running", &passage(Ending::Running(status()))),
            "'fix' is in transition to patched, 3 of 4 threads switched"
        );
    }
}
