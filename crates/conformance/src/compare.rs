//! Whether both sides do the same.

use std::fmt::{self, Debug};

use crate::side::Side;
use engraft_guest::{Failure, Outcome, Patch, Step};

/// The first thing that is not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Position of the step after which it was seen.
    pub step: usize,
    what: &'static str,
    kernel: String,
    process: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            what,
            kernel,
            process,
        } = self;
        let step = step + 1;
        write!(
            f,
            "after step {step}, {what}:\n  kernel:  {kernel}\n  process: {process}"
        )
    }
}

/// Takes the steps on one side, from its beginning.
///
/// # Errors
///
/// When the side itself fails.
pub fn run(side: &mut dyn Side, steps: &[Step]) -> Result<Vec<Outcome>, Failure> {
    side.reset()?;
    steps.iter().map(|step| side.take(step)).collect()
}

/// The first difference between what both sides did.
#[must_use]
pub fn compare(kernel: &[Outcome], process: &[Outcome]) -> Option<Difference> {
    let both = kernel.iter().zip(process).enumerate();
    let mut differences = both.flat_map(|(step, (kernel, process))| {
        let process = with_what_the_kernel_shows(process, kernel);
        [
            differ(step, "the error", &kernel.errno, &process.errno),
            differ(step, "the answer", &kernel.answer, &process.answer),
            differ(
                step,
                "the log",
                &without_addresses(&kernel.log),
                &without_addresses(&process.log),
            ),
            differ(step, "the patches", &kernel.patches, &process.patches),
            differ(step, "who holds it up", &kernel.blockers, &process.blockers),
        ]
        .into_iter()
        .flatten()
    });
    differences.next()
}

/// The kernel shows no addresses: `<(____ptrval____), 1236>`.
fn without_addresses(log: &[String]) -> Vec<String> {
    let hide = |line: &String| match (line.find('<'), line.find(',')) {
        (Some(start), Some(end)) if start < end => {
            format!("{}<address{}", &line[..start], &line[end..])
        }
        _ => line.clone(),
    };
    log.iter().map(hide).collect()
}

/// Without what this kernel has no attribute for.
fn with_what_the_kernel_shows(process: &Outcome, kernel: &Outcome) -> Outcome {
    let mut shown = process.clone();
    for (name, patch) in &mut shown.patches {
        let hides = |patch: &Patch| patch.replace.is_none();
        if kernel.patches.get(name).is_some_and(hides) {
            patch.replace = None;
        }
    }
    shown
}

fn differ<T: PartialEq + Debug>(
    step: usize,
    what: &'static str,
    kernel: &T,
    process: &T,
) -> Option<Difference> {
    (kernel != process).then(|| Difference {
        step,
        what,
        kernel: format!("{kernel:?}"),
        process: format!("{process:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(replace: Option<bool>, errno: i32) -> Outcome {
        let patch = Patch {
            replace,
            ..Patch::default()
        };
        Outcome {
            errno,
            patches: [("p".to_owned(), patch)].into(),
            ..Outcome::default()
        }
    }

    #[test]
    fn the_first_difference_is_told() {
        let kernel = [
            outcome(Some(true), 0),
            outcome(Some(true), 1),
            outcome(Some(true), 2),
        ];
        let process = [
            outcome(Some(true), 0),
            outcome(Some(true), 9),
            outcome(Some(true), 9),
        ];
        let difference = compare(&kernel, &process).expect("one");
        assert_eq!((difference.step, difference.what), (1, "the error"));
        assert_eq!(compare(&kernel, &kernel), None);
    }

    #[test]
    fn what_the_kernel_does_not_show_is_not_compared() {
        assert_eq!(
            compare(&[outcome(None, 0)], &[outcome(Some(true), 0)]),
            None
        );
        assert!(compare(&[outcome(Some(false), 0)], &[outcome(Some(true), 0)]).is_some());
    }
}
