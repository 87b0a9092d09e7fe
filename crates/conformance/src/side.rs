//! What both sides have in common.

use engraft_guest::{Failure, Outcome, Step};

/// In place of the number of an error: a library was refused. A program learns from dlopen that it
/// was, not why.
pub(crate) const REFUSED: i32 = -1;

/// One side: a target and a way to change it.
pub trait Side {
    /// Takes a step and waits until nothing moves any more.
    ///
    /// # Errors
    ///
    /// When the side itself fails; what the step leads to is no error but an outcome.
    fn take(&mut self, step: &Step) -> Result<Outcome, Failure>;

    /// Brings the target back to where it was before the first step.
    ///
    /// # Errors
    ///
    /// As [`Side::take`].
    fn reset(&mut self) -> Result<(), Failure>;
}
