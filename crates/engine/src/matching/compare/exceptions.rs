//! What exceptions do in a function: its table, compared by meaning. Bytes may differ, since
//! offsets do where the linker or assembler chose jumps of other lengths.

use engraft_arch::matching::Matched;
use engraft_module::PreSection;
use engraft_unwind::{Action, CallRange, ExceptionTable, TypeField, TypeReference};

use super::{Comparer, Use};
use crate::matching::pre::{SymbolId, relocations_in};
use crate::matching::program::RunningTable;
use crate::matching::reason::{Reason, TableDifference};

/// The two tables of one function.
struct Tables<'a> {
    section: &'a PreSection,
    /// Where the pre-patch table begins in its section.
    offset: u64,
    running: RunningTable,
}

impl Tables<'_> {
    fn differ(&self, difference: TableDifference) -> Reason {
        Reason::ExceptionTable {
            at: self.running.address,
            difference,
        }
    }

    fn expected_bytes(&self) -> &[u8] {
        &self.section.bytes[self.offset as usize..]
    }
}

impl Comparer<'_> {
    /// Compares the table of function `id` with that of what is at `address`.
    pub(super) fn compare_exceptions(
        &mut self,
        id: SymbolId,
        address: u64,
        matched: &Matched,
    ) -> Result<(), Reason> {
        let expected = self.pre.exception_table(id);
        let length = expected.map_or(0, |(section, offset)| section.bytes.len() - offset as usize);
        let running = self.program.exception_table(address, length)?;
        let (section, offset, running) = match (expected, running) {
            (None, None) => return Ok(()),
            (Some((section, offset)), Some(running)) => (section, offset, running),
            (Some(_), None) => return Err(Reason::NoExceptionTable(address)),
            (None, Some(running)) => {
                return Err(Reason::ExceptionTable {
                    at: running.address,
                    difference: TableDifference::Unexpected,
                });
            }
        };
        let tables = Tables {
            section,
            offset,
            running,
        };
        self.compare_tables(&tables, address, matched)
    }

    fn compare_tables(
        &mut self,
        tables: &Tables<'_>,
        address: u64,
        matched: &Matched,
    ) -> Result<(), Reason> {
        let parse = |bytes: &[u8]| {
            let parsed = ExceptionTable::parse(bytes);
            parsed.map_err(|error| tables.differ(TableDifference::Unreadable(error)))
        };
        let expected = parse(tables.expected_bytes())?.calls;
        let found = parse(&tables.running.bytes)?.calls;
        if expected.len() != found.len() {
            return Err(tables.differ(TableDifference::Calls {
                expected: expected.len(),
                found: found.len(),
            }));
        }
        for (expected, found) in expected.iter().zip(&found) {
            if !is_same_range(expected, found, address, matched) {
                return Err(tables.differ(TableDifference::Range {
                    expected: (expected.start, expected.landing_pad),
                    found: (found.start, found.landing_pad),
                }));
            }
            self.compare_actions(tables, expected, found)?;
        }
        Ok(())
    }

    fn compare_actions(
        &mut self,
        tables: &Tables<'_>,
        expected: &CallRange,
        found: &CallRange,
    ) -> Result<(), Reason> {
        let differ = || {
            tables.differ(TableDifference::Actions {
                offset: expected.start,
            })
        };
        if expected.actions.len() != found.actions.len() {
            return Err(differ());
        }
        for pair in expected.actions.iter().zip(&found.actions) {
            match pair {
                (Action::Cleanup, Action::Cleanup) => {}
                (Action::Catch(expected), Action::Catch(found)) => {
                    self.compare_type(tables, *expected, *found)?;
                }
                (Action::Unless(expected), Action::Unless(found))
                    if expected.len() == found.len() =>
                {
                    for (expected, found) in expected.iter().zip(found) {
                        self.compare_type(tables, *expected, *found)?;
                    }
                }
                _ => return Err(differ()),
            }
        }
        Ok(())
    }

    fn compare_type(
        &mut self,
        tables: &Tables<'_>,
        expected: TypeField,
        found: TypeField,
    ) -> Result<(), Reason> {
        let unreadable = |error| tables.differ(TableDifference::Unreadable(error));
        let start = tables.offset + expected.offset as u64;
        let end = start + expected.size().map_err(unreadable)? as u64;
        let found = found
            .read(&tables.running.bytes, tables.running.address)
            .map_err(unreadable)?;
        let relocation = relocations_in(tables.section, start, end).first();
        match (relocation, found) {
            (None, TypeReference::Any) => Ok(()),
            (Some(relocation), TypeReference::At(address)) => {
                let at = Use::of(tables.running.address);
                self.refer(relocation.symbol, relocation.addend, address, at)
            }
            (Some(relocation), TypeReference::Through(slot)) => {
                self.follow_pointer(relocation.symbol, relocation.addend, slot)
            }
            _ => Err(tables.differ(TableDifference::Type {
                expected: match relocation {
                    Some(relocation) => format!("'{}'", self.pre.symbol(relocation.symbol).name),
                    None => TypeReference::Any.to_string(),
                },
                found,
            })),
        }
    }
}

/// Whether the calls are the same, and lead to the same landing pad.
fn is_same_range(expected: &CallRange, found: &CallRange, address: u64, matched: &Matched) -> bool {
    let is_same = |expected: u64, found: u64| {
        u32::try_from(expected)
            .is_ok_and(|expected| matched.corresponds(expected, address.wrapping_add(found)))
    };
    let same_pad = match (expected.landing_pad, found.landing_pad) {
        (None, None) => true,
        (Some(expected), Some(found)) => is_same(expected, found),
        _ => false,
    };
    same_pad && is_same(expected.start, found.start) && is_same(expected.end, found.end)
}
