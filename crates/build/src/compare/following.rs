//! What must follow a change although it is the same itself.

use super::{Comparison, Reason, VariableChange, VariableDifference, hot_part};
use crate::object::{ObjectFile, Section, SectionKind, Target};

/// Size of an address in a table.
const WORD: u64 = 8;

impl Comparison {
    /// Adds what refers to something that differs until nothing more does.
    pub(super) fn follow_changes(&mut self, after: &ObjectFile) {
        loop {
            let before = (self.changed.len(), self.constants.len());
            self.follow_labels(after);
            self.follow_constants(after);
            self.join_cold_parts(after);
            if before == (self.changed.len(), self.constants.len()) {
                return;
            }
        }
    }

    /// Addresses of labels in a changed function (`&&label`) lead into the old one. A table of
    /// nothing else can hold nothing else while the program runs, so the new function gets one of
    /// its own.
    fn follow_labels(&mut self, after: &ObjectFile) {
        for (index, section) in after.sections.iter().enumerate() {
            let named = after.first_symbol(index).is_some() && self.pairs.section(index).is_some();
            let labels = self.count_labels(after, section);
            if !named || labels == 0 || self.constants.contains(&index) {
                continue;
            }
            match section.kind {
                SectionKind::ReadOnly | SectionKind::RelocatedReadOnly => {
                    self.constants.push(index)
                }
                SectionKind::Data if labels * WORD == section.size => self.constants.push(index),
                SectionKind::Data => {
                    self.refuse(after.title(index), VariableDifference::Label);
                }
                _ => {}
            }
        }
    }

    /// How many addresses in a section are those of labels in changed functions.
    fn count_labels(&self, after: &ObjectFile, section: &Section) -> u64 {
        let leads_inside = |(target, offset): (usize, i64)| {
            self.changed.contains_key(&target)
                && after
                    .symbol_at(target, offset)
                    .is_some_and(|(_, distance)| distance != 0)
        };
        let targets =
            section
                .relocations
                .iter()
                .filter_map(|relocation| match after.target(relocation) {
                    Target::Place { section, offset } => Some((section, offset)),
                    Target::Symbol { .. } => None,
                });
        targets.filter(|place| leads_inside(*place)).count() as u64
    }

    /// Code that refers to a changed constant must refer to the new one. So must constants.
    fn follow_constants(&mut self, after: &ObjectFile) {
        let mut next = 0;
        while let Some(&constant) = self.constants.get(next) {
            next += 1;
            let name = after.title(constant).to_owned();
            for (index, section) in after.sections.iter().enumerate() {
                let refers = section.relocations.iter().any(|relocation| {
                    matches!(after.target(relocation),
                        Target::Place { section, .. } if section == constant)
                });
                if !refers || self.pairs.section(index).is_none() {
                    continue;
                }
                match section.kind {
                    SectionKind::Code => {
                        let reason = Reason::Constant(name.clone());
                        self.changed.entry(index).or_insert(reason);
                    }
                    SectionKind::ReadOnly | SectionKind::RelocatedReadOnly => {
                        if !self.constants.contains(&index) {
                            self.constants.push(index);
                        }
                    }
                    // The variable keeps pointing to the old constant.
                    _ => self.refuse(after.title(index), VariableDifference::InitialValue),
                }
            }
        }
    }

    fn refuse(&mut self, variable: &str, what: VariableDifference) {
        if !self.variables.iter().any(|known| known.name == variable) {
            let name = variable.to_owned();
            self.variables.push(VariableChange { name, what });
        }
    }

    /// A function and the part that was split off go together.
    fn join_cold_parts(&mut self, after: &ObjectFile) {
        for index in 0..after.sections.len() {
            let Some(hot) = hot_part(after, index) else {
                continue;
            };
            if self.changed.contains_key(&hot) {
                self.changed.entry(index).or_insert(Reason::Changed);
            } else if self.pairs.section(hot).is_some()
                && (self.changed.contains_key(&index) || self.added.contains(&index))
            {
                self.changed.insert(hot, Reason::ColdPart);
            }
        }
    }
}
