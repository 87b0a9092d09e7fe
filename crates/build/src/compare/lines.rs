//! What a compilation leaves in code and data about itself: line numbers, the directory that
//! it ran in, and the time. Versions that differ in nothing else do the same.

use std::cell::OnceCell;
use std::collections::HashMap;

use engraft_arch::immediate::immediate_changes;
use serde::Serialize;

use crate::debug::{DebugInfo, Lines, Types, place_of, read_units};
use crate::program::Program;

/// What differs without consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trace {
    /// Lines in the source (`__LINE__`).
    LineNumbers,
    /// The source tree's directory (`__FILE__`).
    Directory,
    /// When it was compiled (`__DATE__`, `__TIME__`).
    Time,
}

/// Lines of a statement; its instructions are ascribed to the first one.
const LONGEST_STATEMENT: u64 = 16;

/// How two versions of an object were compiled, read when it is first asked for.
pub(super) struct Compilation<'a> {
    program: &'a Program,
    object: usize,
    info: OnceCell<Option<[DebugInfo; 2]>>,
    lines: OnceCell<Option<[Lines; 2]>>,
    roots: OnceCell<Option<[String; 2]>>,
}

impl<'a> Compilation<'a> {
    pub(super) fn of(program: &'a Program, object: usize) -> Self {
        Self {
            program,
            object,
            info: OnceCell::new(),
            lines: OnceCell::new(),
            roots: OnceCell::new(),
        }
    }

    fn info(&self) -> Option<&[DebugInfo; 2]> {
        let read = || {
            let before = self.program.debug_before(self.object).ok()??;
            let after = self.program.debug_after(self.object).ok()??;
            Some([before, after])
        };
        self.info.get_or_init(read).as_ref()
    }

    /// Whether two versions of the code in a section differ in nothing but numbers that are
    /// the lines of their instructions, or the same line of the statements that begin there.
    pub(super) fn differ_in_lines(&self, before: (usize, &[u8]), after: (usize, &[u8])) -> bool {
        let Some(changes) = immediate_changes(before.1, after.1) else {
            return false;
        };
        let read = || {
            let [before, after] = self.info()?;
            Some([Lines::read(before).ok()?, Lines::read(after).ok()?])
        };
        let Some([old, new]) = self.lines.get_or_init(read) else {
            return false;
        };
        changes.iter().all(|change| {
            let within = |number: u64, lines: &mut dyn Iterator<Item = u64>| {
                let distances = lines.filter_map(|line| number.checked_sub(line));
                distances
                    .filter(|distance| *distance < LONGEST_STATEMENT)
                    .collect::<Vec<u64>>()
            };
            let before = within(change.before, &mut old.at(before.0, change.offset));
            let after = within(change.after, &mut new.at(after.0, change.offset));
            before.iter().any(|distance| after.contains(distance))
        })
    }

    /// Names of both versions' variables with those of the functions that they are in, by
    /// section and offset.
    pub(super) fn variable_names(&self) -> Option<[HashMap<(usize, u64), String>; 2]> {
        let read = |info: &DebugInfo| {
            let dwarf = info.dwarf();
            let types = Types::read(&dwarf, &read_units(&dwarf).ok()?).ok()?;
            let names = types.variable_names().into_iter();
            Some(
                names
                    .map(|(address, name)| (place_of(address), name))
                    .collect(),
            )
        };
        let [before, after] = self.info()?;
        Some([read(before)?, read(after)?])
    }

    /// What two texts differ in, if it is the directory or the time of compilation.
    pub(super) fn differ_in_origin(&self, before: &[u8], after: &[u8]) -> Option<Trace> {
        let timeless = (mask_times(before), mask_times(after));
        if timeless.0 == timeless.1 {
            return Some(Trace::Time);
        }
        let [old, new] = self.roots()?;
        let rest = (
            before.strip_prefix(old.as_bytes())?,
            after.strip_prefix(new.as_bytes())?,
        );
        (rest.0 == rest.1 && rest.0.starts_with(b"/")).then_some(Trace::Directory)
    }

    /// The trees' directories, if they were compiled in different ones.
    fn roots(&self) -> Option<&[String; 2]> {
        let read = || {
            let [before, after] = self.info()?;
            split_roots(&before.directory()?, &after.directory()?)
        };
        self.roots.get_or_init(read).as_ref()
    }
}

/// The parts in which two directories differ: both without the components that they end with
/// in common.
fn split_roots(before: &str, after: &str) -> Option<[String; 2]> {
    let (mut before, mut after) = (before, after);
    while let (Some(old), Some(new)) = (before.rsplit_once('/'), after.rsplit_once('/')) {
        if old.1 != new.1 {
            return Some([before.to_owned(), after.to_owned()]);
        }
        (before, after) = (old.0, new.0);
    }
    None
}

/// A text with a blank for each `__DATE__` ("Jan  1 2024") and `__TIME__` ("12:34:56").
fn mask_times(text: &[u8]) -> Vec<u8> {
    const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    // 9 stands for a digit, a for a letter, and _ for a digit or a space.
    let matches = |text: &[u8], pattern: &[u8]| {
        text.len() >= pattern.len()
            && text.iter().zip(pattern).all(|(byte, kind)| match kind {
                b'9' => byte.is_ascii_digit(),
                b'a' => byte.is_ascii_alphabetic(),
                b'_' => byte.is_ascii_digit() || *byte == b' ',
                _ => byte == kind,
            })
    };
    let mut masked = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, next)) = rest.split_first() {
        let date = matches(rest, b"aaa _9 9999") && MONTHS.chunks(3).any(|m| rest.starts_with(m));
        if date {
            masked.push(b' ');
            rest = &rest[11..];
        } else if matches(rest, b"99:99:99") {
            masked.push(b' ');
            rest = &rest[8..];
        } else {
            masked.push(*first);
            rest = next;
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_what_comes_before_the_common_end() {
        let roots = |before, after| split_roots(before, after).map(|roots| roots.join(" "));
        assert_eq!(
            roots("/a/pre/src", "/a/post/src"),
            Some("/a/pre /a/post".into())
        );
        assert_eq!(roots("/a/one", "/b/one"), Some("/a /b".into()));
        assert_eq!(roots("/a/one", "/a/one"), None);
    }

    #[test]
    fn times_are_masked() {
        let same =
            |one: &str, other: &str| mask_times(one.as_bytes()) == mask_times(other.as_bytes());
        assert!(same(
            "built Jan  1 2024 12:00:01",
            "built Dec 31 2025 09:30:00"
        ));
        assert!(!same("built Jan  1 2024", "made Jan  1 2024"));
        assert!(!same("Jan  1 204", "Jan  2 204"));
        assert!(!same("Abc  1 2024", "Abc  2 2024"));
        assert!(!same("1:00:01", "2:00:01"));
    }
}
