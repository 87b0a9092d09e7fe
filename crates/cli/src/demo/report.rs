//! What the demo ends with.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::traffic::Counts;
use crate::failure::Verdict;
use crate::render;

/// Everything that was counted and measured.
#[derive(Default, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// System calls of the server's threads that returned EINTR.
    pub(super) interrupted_calls: u64,
    /// Longest gap of the spinning thread while nothing was done to the server: what the
    /// machine's scheduler costs.
    #[serde(rename = "quiet_gap_seconds", serialize_with = "as_seconds")]
    pub(super) quiet_gap: Duration,
    pub(super) steps: Vec<StepOutcome>,
}

/// One step as it went.
#[derive(Serialize)]
pub(super) struct StepOutcome {
    pub(super) title: &'static str,
    /// Threads moved to other code; else modules were unloaded only.
    pub(super) transition: bool,
    /// 0 when all threads moved in the first pass.
    pub(super) threads: u32,
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub(super) elapsed: Duration,
    /// Longest gap of the spinning thread meanwhile.
    #[serde(rename = "gap_seconds", serialize_with = "as_seconds")]
    pub(super) gap: Duration,
}

fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl StepOutcome {
    pub(super) fn describe(&self) -> String {
        let time = render::duration(self.elapsed);
        format!("  {:32} {time:>10}", self.title)
    }
}

impl Report {
    /// The promises that make the demo fail. A server that answered nothing proves nothing.
    pub(super) fn verdict(&self) -> Verdict {
        let Counts {
            requests,
            wrong,
            mixed,
            connection_errors,
        } = self.counts;
        if requests > 0 && wrong == 0 && mixed == 0 && connection_errors == 0 {
            Verdict::Done
        } else {
            Verdict::Failed
        }
    }

    fn longest_gap(&self) -> Duration {
        self.steps
            .iter()
            .map(|step| step.gap)
            .max()
            .unwrap_or_default()
    }

    pub(super) fn describe(&self) -> String {
        let counts = &self.counts;
        let row = |name: &str, value: String| format!("{name:42} {value:>10}");
        let gap = row(
            "longest gap in the spinning thread",
            render::duration(self.longest_gap()),
        );
        let quiet = render::duration(self.quiet_gap);
        let mut lines = vec![
            row("requests served", counts.requests.to_string()),
            row("wrong answers", counts.wrong.to_string()),
            row("mixed answers", counts.mixed.to_string()),
            row("connection errors", counts.connection_errors.to_string()),
            row("EINTRs seen", self.interrupted_calls.to_string()),
            format!("{gap}  (without patching: {quiet})"),
        ];
        let transitions = self.steps.iter().filter(|step| step.transition);
        lines.extend(transitions.map(|step| {
            row(
                &format!("transition: {}", step.title),
                render::duration(step.elapsed),
            )
        }));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let step = |title, transition, milliseconds| StepOutcome {
            title,
            transition,
            threads: 19,
            elapsed: Duration::from_millis(milliseconds),
            gap: Duration::from_micros(2_500),
        };
        Report {
            counts: Counts {
                requests: 123_456,
                wrong: 0,
                mixed: 0,
                connection_errors: 0,
            },
            interrupted_calls: 0,
            quiet_gap: Duration::from_millis(4),
            steps: vec![
                step("load fix 1", true, 312),
                step("unload fix 1", false, 2),
            ],
        }
    }

    #[test]
    fn the_table_has_every_figure() {
        assert_eq!(
            report().describe(),
            "\
requests served                                123456
wrong answers                                       0
mixed answers                                       0
connection errors                                   0
EINTRs seen                                         0
longest gap in the spinning thread             2.5 ms  (without patching: 4.0 ms)
transition: load fix 1                       312.0 ms"
        );
    }

    #[test]
    fn a_broken_promise_fails() {
        assert_eq!(report().verdict(), Verdict::Done);
        let breaks: [fn(&mut Counts); 4] = [
            |counts| counts.requests = 0,
            |counts| counts.wrong = 1,
            |counts| counts.mixed = 1,
            |counts| counts.connection_errors = 1,
        ];
        for break_promise in breaks {
            let mut report = report();
            break_promise(&mut report.counts);
            assert_eq!(report.verdict(), Verdict::Failed);
        }
    }
}
