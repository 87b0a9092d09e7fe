//! The table of what came of each fix, printed as it grows.

use super::trial::Outcome;
use crate::failure::Failure;

pub(super) struct Table {
    count: usize,
    failed: Vec<String>,
}

impl Table {
    pub(super) fn begin() -> Self {
        println!();
        println!(
            "{:<10} {:<58} {:>9} {:>7} {:>6}  result",
            "project", "fix", "functions", "build s", "diff s"
        );
        Self {
            count: 0,
            failed: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, project: &str, fix: &str, outcome: &Result<Outcome, Failure>) {
        self.count += 1;
        let fix = fix.replace(".patch", "");
        match outcome {
            Ok(outcome) => println!(
                "{project:<10} {fix:<58} {:>9} {:>7.1} {:>6.2}  {}",
                outcome.replaced,
                outcome.seconds.compiling,
                outcome.seconds.comparing,
                outcome.result
            ),
            Err(failure) => {
                println!(
                    "{project:<10} {fix:<58} {:>9} {:>7} {:>6}  FAILED: {failure}",
                    "-", "-", "-"
                );
                self.failed.push(format!("{project} {fix}"));
            }
        }
    }

    pub(super) fn finish(self) -> Result<String, Failure> {
        if self.failed.is_empty() {
            Ok(format!("{} trials, all as expected", self.count))
        } else {
            Err(Failure::new(format!(
                "{} of {} trials did not do what is expected of them: {}",
                self.failed.len(),
                self.count,
                self.failed.join(", ")
            )))
        }
    }
}
