//! Whether both sides do the same.

use std::fmt::{self, Debug};

use crate::side::{REFUSED, Side};
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

/// The first difference between what both sides did at these steps.
#[must_use]
pub fn compare(steps: &[Step], kernel: &[Outcome], process: &[Outcome]) -> Option<Difference> {
    let both = steps.iter().zip(kernel.iter().zip(process)).enumerate();
    let mut differences = both.flat_map(|(number, (step, (kernel, process)))| {
        let process = with_what_the_kernel_shows(process, kernel);
        let errno = error_shown(step, kernel);
        let step = number;
        [
            differ(step, "the error", &errno, &process.errno),
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

/// The error that the process can show, too: it knows of an object that a patch refuses that it is
/// refused, not why.
fn error_shown(step: &Step, kernel: &Outcome) -> i32 {
    let is_refusal = |line: &String| line.contains(", refusing to load module '");
    match step {
        Step::Insmod(_) if kernel.errno != 0 && kernel.log.iter().any(is_refusal) => REFUSED,
        _ => kernel.errno,
    }
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

    fn steps(count: usize) -> Vec<Step> {
        vec![Step::Disable("p".to_owned()); count]
    }

    #[test]
    fn a_refused_library_has_no_number() {
        let refused = |errno| Outcome {
            errno,
            log: vec![
                "livepatch: patch 'p' failed for module 'o', refusing to load module 'o'".into(),
            ],
            ..Outcome::default()
        };
        let insmod = [Step::Insmod("o".to_owned())];
        assert_eq!(compare(&insmod, &[refused(19)], &[refused(REFUSED)]), None);
        assert!(compare(&insmod, &[refused(19)], &[refused(0)]).is_some());
        assert!(compare(&insmod, &[refused(0)], &[refused(REFUSED)]).is_some());
        assert!(compare(&steps(1), &[refused(19)], &[refused(REFUSED)]).is_some());
        let silent = [outcome(None, 17)];
        assert!(compare(&insmod, &silent, &[outcome(None, REFUSED)]).is_some());
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
        let difference = compare(&steps(3), &kernel, &process).expect("one");
        assert_eq!((difference.step, difference.what), (1, "the error"));
        assert_eq!(compare(&steps(3), &kernel, &kernel), None);
    }

    #[test]
    fn what_the_kernel_does_not_show_is_not_compared() {
        assert_eq!(
            compare(&steps(1), &[outcome(None, 0)], &[outcome(Some(true), 0)]),
            None
        );
        let kernel = [outcome(Some(false), 0)];
        assert!(compare(&steps(1), &kernel, &[outcome(Some(true), 0)]).is_some());
    }
}
