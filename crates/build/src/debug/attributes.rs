//! Attributes of the entries of debugging information.

use gimli::{AttributeValue, DwAt, EntriesRaw, constants as dw};

use super::Slice;
use super::types::{Place, Reference};
use super::units::ReadUnit;
use crate::error::BuildError;

/// Attributes that matter here.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'d> {
    pub(crate) name: Option<AttributeValue<Slice<'d>>>,
    pub(crate) linkage_name: Option<AttributeValue<Slice<'d>>>,
    pub(crate) size: Option<u64>,
    pub(crate) bit_size: Option<u64>,
    pub(crate) bit_offset: Option<u64>,
    pub(crate) data_bit_offset: Option<u64>,
    pub(crate) place: Option<Place<'d>>,
    pub(super) target: Reference,
    /// Specification or abstract origin.
    pub(super) origin: Reference,
    pub(crate) count: Option<u64>,
    pub(crate) declaration: bool,
    pub(crate) external: bool,
    pub(crate) float: bool,
    pub(crate) file: u64,
    pub(crate) line: Option<u64>,
    pub(crate) discriminator: Option<u64>,
    pub(crate) address: Option<u64>,
    pub(crate) low_pc: Option<AttributeValue<Slice<'d>>>,
    pub(crate) ranges: Option<AttributeValue<Slice<'d>>>,
}

impl<'d> Attributes<'d> {
    /// Reads the attributes of an entry.
    pub(crate) fn read(
        entries: &mut EntriesRaw<'_, Slice<'d>>,
        specifications: &[gimli::AttributeSpecification],
        unit: &ReadUnit<'d>,
        dwarf: &gimli::Dwarf<Slice<'d>>,
    ) -> Result<Self, BuildError> {
        let mut read = Self {
            name: None,
            linkage_name: None,
            size: None,
            bit_size: None,
            bit_offset: None,
            data_bit_offset: None,
            place: None,
            target: Reference::None,
            origin: Reference::None,
            count: None,
            declaration: false,
            external: false,
            float: false,
            file: 0,
            line: None,
            discriminator: None,
            address: None,
            low_pc: None,
            ranges: None,
        };
        for specification in specifications {
            let attribute = entries.read_attribute(*specification)?;
            read.note(attribute.name(), &attribute, unit, dwarf);
        }
        Ok(read)
    }

    fn note(
        &mut self,
        name: DwAt,
        attribute: &gimli::Attribute<Slice<'d>>,
        unit: &ReadUnit<'d>,
        dwarf: &gimli::Dwarf<Slice<'d>>,
    ) {
        let raw = attribute.raw_value();
        let number = || attribute.udata_value();
        match name {
            dw::DW_AT_name => self.name = Some(raw),
            dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name => self.linkage_name = Some(raw),
            dw::DW_AT_byte_size => self.size = number(),
            dw::DW_AT_bit_size => self.bit_size = number(),
            dw::DW_AT_bit_offset => self.bit_offset = number(),
            dw::DW_AT_data_bit_offset => self.data_bit_offset = number(),
            dw::DW_AT_data_member_location => self.place = read_place(attribute, unit),
            dw::DW_AT_type => self.target = read_reference(raw, unit),
            dw::DW_AT_signature => self.target = read_reference(raw, unit),
            dw::DW_AT_specification | dw::DW_AT_abstract_origin => {
                self.origin = read_reference(raw, unit);
            }
            dw::DW_AT_count => self.count = number(),
            // Arrays begin at 0 in the languages that are compiled so; an empty one ends at -1.
            dw::DW_AT_upper_bound => self.count = number().and_then(|bound| bound.checked_add(1)),
            dw::DW_AT_declaration => self.declaration = true,
            dw::DW_AT_external => self.external = true,
            dw::DW_AT_encoding => {
                // Complex, real, imaginary and decimal floating-point numbers.
                self.float = matches!(number(), Some(3 | 4 | 9 | 15));
            }
            dw::DW_AT_decl_file => self.file = number().unwrap_or_default(),
            dw::DW_AT_decl_line => self.line = number(),
            dw::DW_AT_discr_value => self.discriminator = number(),
            dw::DW_AT_location => self.address = read_address(attribute, unit, dwarf),
            dw::DW_AT_low_pc => self.low_pc = Some(attribute.value()),
            dw::DW_AT_ranges => self.ranges = Some(attribute.value()),
            _ => {}
        }
    }

    /// Offset of the entry's type.
    pub(crate) fn target_offset(&self) -> Option<usize> {
        match self.target {
            Reference::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Where the code of a function begins, if it has any.
    pub(crate) fn begin(
        &self,
        dwarf: &gimli::Dwarf<Slice<'d>>,
        unit: &ReadUnit<'d>,
    ) -> Result<Option<u64>, BuildError> {
        if let Some(value) = self.low_pc {
            return Ok(dwarf.attr_address(&unit.unit, value)?);
        }
        let Some(value) = self.ranges else {
            return Ok(None);
        };
        let Some(mut ranges) = dwarf.attr_ranges(&unit.unit, value)? else {
            return Ok(None);
        };
        Ok(ranges.next()?.map(|range| range.begin))
    }

    /// Offset of the entry that says the rest.
    pub(crate) fn origin_offset(&self) -> Option<usize> {
        match self.origin {
            Reference::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

fn read_reference(value: AttributeValue<Slice<'_>>, unit: &ReadUnit<'_>) -> Reference {
    match value {
        AttributeValue::UnitRef(offset) => Reference::Offset(unit.start + offset.0),
        AttributeValue::DebugInfoRef(offset) => Reference::Offset(offset.0),
        AttributeValue::DebugTypesRef(signature) => Reference::Signature(signature.0),
        _ => Reference::None,
    }
}

fn read_place<'d>(
    attribute: &gimli::Attribute<Slice<'d>>,
    unit: &ReadUnit<'d>,
) -> Option<Place<'d>> {
    if let Some(bytes) = attribute.udata_value() {
        return Some(Place::Fixed(bytes.wrapping_mul(8)));
    }
    let expression = attribute.exprloc_value()?;
    Some(match read_operand(attribute, unit) {
        Some(bytes) => Place::Fixed(bytes.wrapping_mul(8)),
        None => Place::Expression(expression.0.slice()),
    })
}

/// The number that an expression adds or is.
fn read_operand(attribute: &gimli::Attribute<Slice<'_>>, unit: &ReadUnit<'_>) -> Option<u64> {
    let mut operations = attribute.exprloc_value()?.operations(unit.unit.encoding());
    let first = operations.next().ok()??;
    let only = matches!(operations.next(), Ok(None));
    match first {
        gimli::Operation::PlusConstant { value } if only => Some(value),
        gimli::Operation::UnsignedConstant { value } if only => Some(value),
        _ => None,
    }
}

/// The address that a variable is always at.
fn read_address(
    attribute: &gimli::Attribute<Slice<'_>>,
    unit: &ReadUnit<'_>,
    dwarf: &gimli::Dwarf<Slice<'_>>,
) -> Option<u64> {
    let mut operations = attribute.exprloc_value()?.operations(unit.unit.encoding());
    match operations.next().ok()?? {
        gimli::Operation::Address { address } => Some(address),
        gimli::Operation::AddressIndex { index } | gimli::Operation::ConstantIndex { index } => {
            dwarf.address(&unit.unit, index).ok()
        }
        // Of a thread-local variable, before its distance is taken from the thread's pointer.
        gimli::Operation::UnsignedConstant { value } => match operations.next().ok()?? {
            gimli::Operation::TLS => Some(value),
            _ => None,
        },
        _ => None,
    }
}
