//! Which lines of a text were edited.

use std::ops::{Range, RangeInclusive};

use similar::{Algorithm, DiffTag, capture_diff_slices};

/// Lines of a text that a new version removes or replaces, or before which it inserts some (an
/// empty range); counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edits(Vec<Range<u64>>);

impl Edits {
    pub(super) fn between(before: &[u8], after: &[u8]) -> Self {
        let old: Vec<&[u8]> = before.split(|byte| *byte == b'\n').collect();
        let new: Vec<&[u8]> = after.split(|byte| *byte == b'\n').collect();
        let operations = capture_diff_slices(Algorithm::Myers, &old, &new);
        let edits = operations.iter().map(similar::DiffOp::as_tag_tuple);
        let edits = edits.filter(|(tag, ..)| *tag != DiffTag::Equal);
        let number = |index: usize| index as u64 + 1;
        Self(
            edits
                .map(|(_, old, _)| number(old.start)..number(old.end))
                .collect(),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the lines is gone or has changed, or one was inserted between them.
    pub(super) fn touch(&self, lines: RangeInclusive<u64>) -> bool {
        let (first, last) = (*lines.start(), *lines.end());
        self.0.iter().any(|edit| match edit.is_empty() {
            true => edit.start > first && edit.start <= last,
            false => edit.start <= last && edit.end > first,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Edits;

    const OLD: &[u8] = b"one\ntwo\nthree\nfour\n";

    #[test]
    fn what_was_edited_is_told_by_line() {
        assert!(Edits::between(OLD, OLD).is_empty());
        let replaced = Edits::between(OLD, b"one\nTWO\nthree\nfour\n");
        assert!(replaced.touch(2..=2) && replaced.touch(1..=4));
        assert!(!replaced.touch(1..=1) && !replaced.touch(3..=9));
        let removed = Edits::between(OLD, b"one\nfour\n");
        assert!(removed.touch(2..=2) && removed.touch(3..=3));
        assert!(!removed.touch(1..=1) && !removed.touch(4..=4));
    }

    #[test]
    fn what_is_inserted_between_functions_is_in_neither() {
        let inserted = Edits::between(OLD, b"one\ntwo\nnew\nthree\nfour\n");
        assert!(inserted.touch(2..=3));
        assert!(!inserted.touch(1..=2) && !inserted.touch(3..=4));
    }
}
