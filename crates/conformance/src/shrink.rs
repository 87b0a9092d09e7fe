//! Smaller scenarios that still show a difference.

use engraft_guest::{Failure, Step};

/// Leaves out steps and parameters for as long as `differs` holds; the result is minimal in the
/// sense that nothing single can be left out.
///
/// # Errors
///
/// Those of `differs`.
pub fn shrink(
    mut steps: Vec<Step>,
    differs: &mut dyn FnMut(&[Step]) -> Result<bool, Failure>,
) -> Result<Vec<Step>, Failure> {
    loop {
        let mut smaller = None;
        for candidate in candidates(&steps) {
            if differs(&candidate)? {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(candidate) => steps = candidate,
            None => return Ok(steps),
        }
    }
}

/// Everything that is one step or parameter smaller.
fn candidates(steps: &[Step]) -> impl Iterator<Item = Vec<Step>> {
    let without_step = (0..steps.len()).rev().map(|index| {
        let mut fewer = steps.to_vec();
        fewer.remove(index);
        fewer
    });
    let places = steps.iter().enumerate().flat_map(|(index, step)| {
        let count = match step {
            Step::Load { parameters, .. } => parameters.len(),
            _ => 0,
        };
        (0..count).map(move |parameter| (index, parameter))
    });
    let without_parameter = places.map(|(index, parameter)| {
        let mut fewer = steps.to_vec();
        if let Step::Load { parameters, .. } = &mut fewer[index] {
            parameters.remove(parameter);
        }
        fewer
    });
    without_step.chain(without_parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_left() {
        let steps = vec![
            Step::load("p0", "version=2 replace=1"),
            Step::Target("call a1".to_owned()),
            Step::load("p1", "replace=1"),
            Step::Disable("p1".to_owned()),
        ];
        let mut differs = |steps: &[Step]| {
            Ok(steps.iter().any(|step| {
                matches!(step, Step::Load { module, parameters }
                    if module == "p0" && parameters.iter().any(|p| p == "replace=1"))
            }))
        };
        let smallest = shrink(steps, &mut differs).expect("no failure");
        assert_eq!(smallest, [Step::load("p0", "replace=1")]);
    }
}
