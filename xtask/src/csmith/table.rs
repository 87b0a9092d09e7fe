//! What came of all programs.

use std::collections::BTreeMap;

use super::generate::Useless;
use super::options::Options;
use super::trial::Outcome;

#[derive(Default)]
pub(super) struct Table {
    rows: BTreeMap<(&'static str, &'static str), Row>,
    /// Refusals by their reason without names, with an example.
    refused: BTreeMap<String, (u32, String)>,
    /// Programs that were thrown away before anything was tried with them.
    pub(super) useless: Vec<Useless>,
    /// What must not be, each with its seed.
    pub(super) wrong: Vec<String>,
}

#[derive(Default)]
struct Row {
    programs: u32,
    followed: u32,
    replaced: usize,
    refused: u32,
    wrong: u32,
}

impl Table {
    /// `about` names the case.
    pub(super) fn add(&mut self, options: &Options, about: &str, outcome: Outcome) {
        let row = self
            .rows
            .entry((options.compiler, options.level))
            .or_default();
        row.programs += 1;
        match outcome {
            Outcome::Followed { replaced } => {
                row.followed += 1;
                row.replaced += replaced;
            }
            Outcome::Refused { stage, reason } => {
                row.refused += 1;
                println!("refused: {about}: {stage}: {reason}");
                let key = format!("{stage}: {}", leave_out_names(&reason));
                let entry = self.refused.entry(key).or_insert((0, about.to_owned()));
                entry.0 += 1;
            }
            Outcome::Wrong(what) => {
                row.wrong += 1;
                println!("WRONG: {about}: {what}");
                self.wrong.push(format!("{about}: {what}"));
            }
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{:<8}{:<6}{:>9}{:>10}{:>10}{:>9}{:>7}",
            "", "", "programs", "followed", "replaced", "refused", "wrong"
        )];
        for ((compiler, level), row) in &self.rows {
            lines.push(format!(
                "{compiler:<8}{level:<6}{:>9}{:>10}{:>10}{:>9}{:>7}",
                row.programs, row.followed, row.replaced, row.refused, row.wrong
            ));
        }
        for (reason, (count, example)) in &self.refused {
            lines.push(format!("{count:>5} refused: {reason}; such as {example}"));
        }
        let mut useless: BTreeMap<Useless, u32> = BTreeMap::new();
        for reason in &self.useless {
            *useless.entry(*reason).or_default() += 1;
        }
        for (reason, count) in useless {
            lines.push(format!("{count:>5} skipped: {}", reason.describe()));
        }
        lines
    }

    pub(super) fn summary(&self) -> String {
        let sum = |count: fn(&Row) -> u32| self.rows.values().map(count).sum::<u32>();
        format!(
            "{} programs: {} followed, {} refused, {} wrong",
            sum(|row| row.programs),
            sum(|row| row.followed),
            sum(|row| row.refused),
            sum(|row| row.wrong)
        )
    }
}

/// Two refusals of the same kind become equal: quoted names and numbers are left out.
fn leave_out_names(reason: &str) -> String {
    let mut result = String::new();
    for (index, part) in reason.split('\'').enumerate() {
        match index % 2 {
            0 => result.extend(part.chars().filter(|letter| !letter.is_ascii_digit())),
            _ => result.push_str("'...'"),
        }
    }
    result.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::leave_out_names;

    #[test]
    fn names_and_numbers_are_no_part_of_a_reason() {
        assert_eq!(
            leave_out_names("'func_1' has 5 bytes, 'x' more"),
            leave_out_names("'func_22' has 17 bytes, 'yz' more")
        );
        assert_ne!(
            leave_out_names("'a' is gone"),
            leave_out_names("'a' is new")
        );
    }
}
