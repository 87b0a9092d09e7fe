//! Debugging information of objects (DWARF 2 to 5), relocated.

mod attributes;
mod functions;
mod lines;
mod types;
mod units;

use std::collections::HashMap;

use gimli::{Dwarf, EndianSlice, LittleEndian};
use object::LittleEndian as LE;
use object::SymbolIndex;
use object::elf::{self, FileHeader64, Rela64};
use object::read::elf::{FileHeader as _, SectionHeader as _, SymbolTable};

use crate::error::BuildError;
pub(crate) use attributes::Attributes;
pub(crate) use functions::{Functions, walk_functions};
pub(crate) use lines::Lines;
pub(crate) use types::{Kind, Member, Node, Place, Types};
pub(crate) use units::{ReadUnit, read_units};

/// Bytes of a section, as gimli reads them.
pub(crate) type Slice<'d> = EndianSlice<'d, LittleEndian>;

/// The sections that are read; what one object has several of (type units) is joined.
const SECTIONS: [&str; 10] = [
    ".debug_abbrev",
    ".debug_addr",
    ".debug_info",
    ".debug_line",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_str",
    ".debug_str_offsets",
    ".debug_types",
];

/// Addresses of sections lie this far apart, so that an address tells its section.
const SECTION_BITS: u32 = 32;

/// Debugging information of one object. An address in it names a section of the object and an
/// offset, see [`place_of`].
#[derive(Clone, Debug, Default)]
pub(crate) struct DebugInfo {
    sections: HashMap<&'static str, Vec<u8>>,
}

/// Section and offset that an address stands for.
#[must_use]
pub(crate) fn place_of(address: u64) -> (usize, u64) {
    let section = (address >> SECTION_BITS) as usize;
    (section, address & ((1 << SECTION_BITS) - 1))
}

fn address_of(section: usize, offset: u64) -> u64 {
    (section as u64) << SECTION_BITS | offset
}

type Symbols<'a> = SymbolTable<'a, FileHeader64<LE>>;

impl DebugInfo {
    /// Reads the debugging information of a relocatable object; `None` when it has none.
    ///
    /// # Errors
    ///
    /// When it is damaged, or of a kind that is not understood.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>, BuildError> {
        let header = FileHeader64::<LE>::parse(bytes)?;
        let table = header.sections(LE, bytes)?;
        let mut info = Self::default();
        let mut places: Vec<Option<(&'static str, usize)>> = vec![None; table.len()];
        let mut bases = vec![0; table.len()];
        for (index, header) in table.iter().enumerate() {
            let flags = header.sh_flags(LE).0;
            if flags & elf::SHF_ALLOC.0 != 0 {
                bases[index] = address_of(index, 0);
                continue;
            }
            let name = table.section_name(LE, header)?;
            let known = SECTIONS.iter().find(|known| known.as_bytes() == name);
            let (Some(known), elf::SHT_PROGBITS) = (known, header.sh_type.get(LE)) else {
                continue;
            };
            if flags & elf::SHF_COMPRESSED.0 != 0 {
                return Err(BuildError::new("its debugging information is compressed")
                    .with_help("compile with -gz=none"));
            }
            let joined = info.sections.entry(known).or_default();
            bases[index] = joined.len() as u64;
            places[index] = Some((known, joined.len()));
            joined.extend(header.data(LE, bytes)?);
        }
        if !info.sections.contains_key(".debug_info") {
            return Ok(None);
        }
        let symbols = table.symbols(LE, bytes, elf::SHT_SYMTAB)?;
        let values = list_values(&symbols, &bases)?;
        for header in table.iter() {
            let Some((entries, _)) = header.rela(LE, bytes)? else {
                continue;
            };
            let place = places.get(header.sh_info.get(LE) as usize);
            if let Some((name, start)) = place.copied().flatten()
                && let Some(section) = info.sections.get_mut(name)
            {
                relocate(&mut section[start..], entries, &values)?;
            }
        }
        Ok(Some(info))
    }

    /// The directory in which the compiler ran.
    #[must_use]
    pub(crate) fn directory(&self) -> Option<String> {
        let dwarf = self.dwarf();
        let header = dwarf.units().next().ok()??;
        let unit = dwarf.unit(header).ok()?;
        Some(unit.comp_dir?.to_string_lossy().into_owned())
    }

    /// For reading.
    #[must_use]
    pub(crate) fn dwarf(&self) -> Dwarf<Slice<'_>> {
        let section = |id: gimli::SectionId| {
            let bytes = self.sections.get(id.name()).map_or(&[][..], Vec::as_slice);
            EndianSlice::new(bytes, LittleEndian)
        };
        let Ok(dwarf) = Dwarf::load(|id| Ok::<_, std::convert::Infallible>(section(id)));
        dwarf
    }
}

/// Addresses of all symbols.
fn list_values(symbols: &Symbols<'_>, bases: &[u64]) -> Result<Vec<u64>, BuildError> {
    let value = |(index, symbol): (usize, &elf::Sym64<LE>)| {
        let section = symbols.symbol_section(LE, symbol, SymbolIndex(index))?;
        let base = section.and_then(|section| bases.get(section.0));
        Ok(base.map_or(0, |base| base.wrapping_add(symbol.st_value.get(LE))))
    };
    symbols.symbols().iter().enumerate().map(value).collect()
}

fn relocate(bytes: &mut [u8], entries: &[Rela64<LE>], values: &[u64]) -> Result<(), BuildError> {
    for entry in entries {
        let info = entry.r_info.get(LE);
        let symbol = values.get((info >> 32) as usize);
        let value = symbol.map(|value| value.wrapping_add_signed(entry.r_addend.get(LE)));
        let width = match info as u32 {
            // R_X86_64_NONE.
            0 => continue,
            // R_X86_64_64 and R_X86_64_DTPOFF64.
            1 | 17 => 8,
            // R_X86_64_32, R_X86_64_32S and R_X86_64_DTPOFF32.
            10 | 11 | 21 => 4,
            other => {
                let message = format!("its debugging information has relocations of type {other}");
                return Err(BuildError::new(message));
            }
        };
        let start = entry.r_offset.get(LE) as usize;
        let field = bytes.get_mut(start..start.saturating_add(width));
        let (Some(value), Some(field)) = (value, field) else {
            return Err(BuildError::new(
                "a relocation of its debugging information is out of range",
            ));
        };
        field.copy_from_slice(&value.to_le_bytes()[..width]);
    }
    Ok(())
}
