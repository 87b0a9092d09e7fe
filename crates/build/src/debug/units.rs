//! Units of debugging information.

use gimli::Unit;

use super::Slice;
use crate::error::BuildError;

/// Offsets in `.debug_types` are told from those in `.debug_info` by this.
const TYPES_SECTION: usize = 1 << 48;

/// A unit and where it begins.
pub(crate) struct ReadUnit<'d> {
    pub(crate) unit: Unit<Slice<'d>>,
    pub(crate) start: usize,
}

/// All units of an object.
pub(crate) fn read_units<'d>(
    dwarf: &gimli::Dwarf<Slice<'d>>,
) -> Result<Vec<ReadUnit<'d>>, BuildError> {
    let mut headers = Vec::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        headers.push(header);
    }
    let mut units = dwarf.type_units();
    while let Some(header) = units.next()? {
        headers.push(header);
    }
    let read = |header: gimli::UnitHeader<Slice<'d>>| {
        let start = match header.debug_types_offset() {
            Some(offset) => TYPES_SECTION + offset.0,
            None => header.offset().0,
        };
        let unit = dwarf.unit(header)?;
        if unit.dwo_name()?.is_some() {
            let error = BuildError::new("its debugging information is in another file");
            return Err(error.with_help("compile without -gsplit-dwarf"));
        }
        Ok(ReadUnit { unit, start })
    };
    headers.into_iter().map(read).collect()
}
