//! What exceptions do in a function: its table, compared by meaning. Bytes may differ, since
//! offsets do where the linker or assembler chose jumps of other lengths.

use engraft_arch::matching::Matched;
use engraft_module::{PreExceptionTable, PreSection};
use engraft_unwind::{Action, CallRange, ExceptionTable, Place, TypeField};

use super::{Comparer, Use};
use crate::matching::pre::{SymbolId, relocations_in};
use crate::matching::program::RunningTable;
use crate::matching::reason::{Reason, TableDifference};

/// The two tables of one function.
struct Tables<'a> {
    section: &'a PreSection,
    expected: &'a PreExceptionTable,
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
        &self.section.bytes[self.expected.offset as usize..]
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
        let length = expected.map_or(0, |(table, section)| {
            section.bytes.len() - table.offset as usize
        });
        let running = self.program.exception_table(address, length)?;
        let (expected, section, running) = match (expected, running) {
            (None, None) => return Ok(()),
            (Some((expected, section)), Some(running)) => (expected, section, running),
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
            expected,
            running,
        };
        self.compare_personality(&tables)?;
        self.compare_tables(&tables, address, matched)
    }

    fn compare_personality(&mut self, tables: &Tables<'_>) -> Result<(), Reason> {
        match tables.running.personality {
            Some(place) => self.refer_through(tables, tables.expected.personality, 0, place),
            None => Err(tables.differ(TableDifference::NoPersonality)),
        }
    }

    /// A reference from a table, or from beside it, that may go through a pointer.
    fn refer_through(
        &mut self,
        tables: &Tables<'_>,
        symbol: SymbolId,
        addend: i64,
        place: Place,
    ) -> Result<(), Reason> {
        match place {
            Place::At(address) => {
                self.refer(symbol, addend, address, Use::of(tables.running.address))
            }
            Place::Through(slot) => self.follow_pointer(symbol, addend, slot),
        }
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
        let start = tables.expected.offset + expected.offset as u64;
        let end = start + expected.size().map_err(unreadable)? as u64;
        let found = found
            .read(&tables.running.bytes, tables.running.address)
            .map_err(unreadable)?;
        let relocation = relocations_in(tables.section, start, end).first();
        match (relocation, found) {
            (None, None) => Ok(()),
            (Some(relocation), Some(place)) => {
                self.refer_through(tables, relocation.symbol, relocation.addend, place)
            }
            _ => Err(tables.differ(TableDifference::Type {
                expected: relocation
                    .map(|relocation| self.pre.symbol(relocation.symbol).name.clone()),
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
