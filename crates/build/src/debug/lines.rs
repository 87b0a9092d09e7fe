//! Source lines of instructions.

use std::ops::Range;

use gimli::constants as dw;
use gimli::{AttributeValue, Dwarf, Unit};

use super::{DebugInfo, Slice, address_of};
use crate::error::BuildError;

/// Source lines of an object's code.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    /// First address and line of instructions, by address; line 0 behind the last one.
    rows: Vec<(u64, u64)>,
    /// Code of inlined functions, and the lines of their calls.
    calls: Vec<(Range<u64>, u64)>,
}

impl Lines {
    /// Reads the lines of an object's code.
    ///
    /// # Errors
    ///
    /// When the debugging information is damaged.
    pub(crate) fn read(info: &DebugInfo) -> Result<Self, BuildError> {
        let dwarf = info.dwarf();
        let mut lines = Self::default();
        let mut units = dwarf.units();
        while let Some(header) = units.next()? {
            let unit = dwarf.unit(header)?;
            lines.read_rows(&unit)?;
            lines.read_calls(&dwarf, &unit)?;
        }
        lines.rows.sort_unstable();
        Ok(lines)
    }

    fn read_rows(&mut self, unit: &Unit<Slice<'_>>) -> Result<(), BuildError> {
        let Some(program) = unit.line_program.clone() else {
            return Ok(());
        };
        let mut rows = program.rows();
        while let Some((_, row)) = rows.next_row()? {
            let line = row.line().filter(|_| !row.end_sequence());
            let line = line.map_or(0, std::num::NonZeroU64::get);
            self.rows.push((row.address(), line));
        }
        Ok(())
    }

    fn read_calls<'d>(
        &mut self,
        dwarf: &Dwarf<Slice<'d>>,
        unit: &Unit<Slice<'d>>,
    ) -> Result<(), BuildError> {
        let mut entries = unit.entries_raw(None)?;
        let mut entry = gimli::DebuggingInformationEntry::null();
        while !entries.is_empty() {
            if !entries.read_entry(&mut entry)? || entry.tag() != dw::DW_TAG_inlined_subroutine {
                continue;
            }
            let line = entry.attr_value(dw::DW_AT_call_line);
            let Some(line) = line.as_ref().and_then(AttributeValue::udata_value) else {
                continue;
            };
            let mut ranges = dwarf.die_ranges(unit, &entry)?;
            while let Some(range) = ranges.next()? {
                self.calls.push((range.begin..range.end, line));
            }
        }
        Ok(())
    }

    /// The lines that an instruction of a section belongs to: its own, and those of the calls
    /// by which inlined code has come there.
    pub(crate) fn at(&self, section: usize, offset: u64) -> impl Iterator<Item = u64> {
        let address = address_of(section, offset);
        let next = self.rows.partition_point(|row| row.0 <= address);
        let start = next.checked_sub(1).map(|last| self.rows[last].0);
        let rows = self.rows[..next].iter().rev();
        let own = rows.take_while(move |row| Some(row.0) == start);
        let calls = self
            .calls
            .iter()
            .filter(move |call| call.0.contains(&address));
        own.map(|row| row.1).chain(calls.map(|call| call.1))
    }
}
