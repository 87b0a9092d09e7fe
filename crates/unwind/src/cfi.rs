//! Call frame information of one object, as mapped.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use engraft_elf::{ReadMemory, Unreadable};
use gimli::{
    BaseAddresses, EhFrame, EhFrameHdr, EhFrameOffset, EndianSlice, FrameDescriptionEntry,
    LittleEndian, Pointer, UnwindSection,
};

use crate::exception_table::Place;
use crate::frame_table::{HeaderTable, LinearIndex};

pub(crate) type Bytes<'a> = EndianSlice<'a, LittleEndian>;
pub(crate) type Description<'a> = FrameDescriptionEntry<Bytes<'a>>;

/// No real `.eh_frame` comes near: Chromium's has about 20 MiB.
const MAX_SECTION: u64 = 512 << 20;

/// Bytes of a section and where they are mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Address of the first byte.
    pub address: u64,
    /// The contents.
    pub bytes: Arc<[u8]>,
}

/// Call frame information that could not be taken from memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("call frame information at {header:#x}: {kind}")]
pub struct CfiError {
    /// Address of `.eh_frame_hdr`.
    pub header: u64,
    /// What was wrong.
    pub kind: CfiErrorKind,
}

/// What was wrong with call frame information.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CfiErrorKind {
    /// Part of it could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The header cannot be parsed.
    #[error("malformed header ({0})")]
    MalformedHeader(gimli::Error),
    /// A description cannot be parsed.
    #[error("malformed frame description ({0})")]
    Malformed(gimli::Error),
    /// The header points outside the mapping that should hold the section.
    #[error("the section would be at {0:#x}, outside the mapping of the header")]
    OutsideMapping(u64),
    /// The section or header is unbelievably long.
    #[error("{0} bytes are too many")]
    TooLong(u64),
}

/// Where it is said what exceptions do in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionHandling {
    /// Address of the function.
    pub start: u64,
    /// Address of its table.
    pub table: u64,
    /// The routine that reads the table.
    pub personality: Option<Place>,
}

/// Call frame information of one object: its `.eh_frame` and a way to search it.
///
/// Immutable and position bound; share it by [`Arc`] between maps of one address space.
#[derive(Debug)]
pub struct Cfi {
    eh_frame: Section,
    table: Option<HeaderTable>,
    linear: OnceLock<LinearIndex>,
}

impl Cfi {
    /// Takes `.eh_frame`, with `.eh_frame_hdr` where there is one. Without a search table in
    /// the usual encoding the section is indexed at the first lookup.
    #[must_use]
    pub fn new(eh_frame: Section, header: Option<&Section>) -> Self {
        Self {
            eh_frame,
            table: header.and_then(HeaderTable::parse),
            linear: OnceLock::new(),
        }
    }

    /// Reads the section that the `.eh_frame_hdr` at `header` (a `PT_GNU_EH_FRAME` program
    /// header, relocated) points to. `mapping` is the readable range that holds it: the
    /// section's own length is nowhere in memory, so everything up to its end is read.
    ///
    /// # Errors
    ///
    /// [`CfiError`] when either is unreadable, malformed, outside `mapping` or too long.
    pub fn read(
        memory: &dyn ReadMemory,
        header: Range<u64>,
        mapping: Range<u64>,
    ) -> Result<Self, CfiError> {
        let error = |kind| CfiError {
            header: header.start,
            kind,
        };
        let header_section = read_section(memory, header.clone()).map_err(error)?;
        let start = frame_pointer(&header_section)
            .map_err(|why| error(CfiErrorKind::MalformedHeader(why)))?;
        if !mapping.contains(&start) {
            return Err(error(CfiErrorKind::OutsideMapping(start)));
        }
        let eh_frame = read_section(memory, start..mapping.end).map_err(error)?;
        Ok(Self::new(eh_frame, Some(&header_section)))
    }

    /// The description that covers `pc`, or `None` when none does.
    pub(crate) fn find(&self, pc: u64) -> Result<Option<Description<'_>>, gimli::Error> {
        let Some(offset) = self.description_before(pc) else {
            return Ok(None);
        };
        let description = self.eh_frame.eh_frame().fde_from_offset(
            &base_addresses(&self.eh_frame),
            EhFrameOffset(offset),
            EhFrame::cie_from_offset,
        )?;
        // The table yields the nearest lower description, whether it reaches `pc` or not.
        let distance = pc.checked_sub(description.initial_address());
        Ok(distance
            .is_some_and(|distance| distance < description.len())
            .then_some(description))
    }

    /// The address ranges of all descriptions, sorted: one for each compiled function or part
    /// of one, named or not.
    #[must_use]
    pub fn functions(&self) -> Vec<Range<u64>> {
        let index = self
            .linear
            .get_or_init(|| LinearIndex::build(&self.eh_frame));
        index.ranges().collect()
    }

    /// The descriptions, by the addresses that they cover: range and address of each.
    #[must_use]
    pub fn descriptions(&self) -> Vec<(Range<u64>, u64)> {
        let index = self
            .linear
            .get_or_init(|| LinearIndex::build(&self.eh_frame));
        let address = |offset: usize| self.eh_frame.address + offset as u64;
        index
            .entries()
            .map(|(range, offset)| (range, address(offset)))
            .collect()
    }

    /// What exceptions do in the function that `pc` is in, if it has a table of that.
    ///
    /// # Errors
    ///
    /// [`CfiErrorKind::Malformed`] when its description cannot be read.
    pub fn exception_handling(&self, pc: u64) -> Result<Option<ExceptionHandling>, CfiErrorKind> {
        let Some(description) = self.find(pc).map_err(CfiErrorKind::Malformed)? else {
            return Ok(None);
        };
        let table = match description.lsda() {
            Some(Pointer::Direct(0)) | None => return Ok(None),
            Some(Pointer::Direct(address)) => address,
            Some(Pointer::Indirect(_)) => {
                let encoding = gimli::constants::DW_EH_PE_indirect;
                let error = gimli::Error::UnsupportedPointerEncoding(encoding);
                return Err(CfiErrorKind::Malformed(error));
            }
        };
        Ok(Some(ExceptionHandling {
            start: description.initial_address(),
            table,
            personality: description.personality().map(|pointer| match pointer {
                Pointer::Direct(address) => Place::At(address),
                Pointer::Indirect(slot) => Place::Through(slot),
            }),
        }))
    }

    pub(crate) fn section(&self) -> &Section {
        &self.eh_frame
    }

    fn description_before(&self, pc: u64) -> Option<usize> {
        match &self.table {
            Some(table) => {
                let address = table.description_before(pc)?;
                usize::try_from(address.checked_sub(self.eh_frame.address)?).ok()
            }
            None => self
                .linear
                .get_or_init(|| LinearIndex::build(&self.eh_frame))
                .description_before(pc),
        }
    }
}

impl Section {
    pub(crate) fn eh_frame(&self) -> EhFrame<Bytes<'_>> {
        let mut section = EhFrame::new(&self.bytes, LittleEndian);
        section.set_address_size(8);
        section
    }
}

pub(crate) fn base_addresses(eh_frame: &Section) -> BaseAddresses {
    BaseAddresses::default().set_eh_frame(eh_frame.address)
}

fn frame_pointer(header: &Section) -> Result<u64, gimli::Error> {
    let bases = BaseAddresses::default().set_eh_frame_hdr(header.address);
    let parsed = EhFrameHdr::new(&header.bytes, LittleEndian).parse(&bases, 8)?;
    match parsed.eh_frame_ptr() {
        Pointer::Direct(address) => Ok(address),
        Pointer::Indirect(_) => Err(gimli::Error::UnsupportedPointerEncoding(
            gimli::constants::DW_EH_PE_indirect,
        )),
    }
}

fn read_section(memory: &dyn ReadMemory, range: Range<u64>) -> Result<Section, CfiErrorKind> {
    let length = range.end.saturating_sub(range.start);
    if length > MAX_SECTION {
        return Err(CfiErrorKind::TooLong(length));
    }
    let mut bytes = vec![0; length as usize];
    memory.read(range.start, &mut bytes)?;
    Ok(Section {
        address: range.start,
        bytes: bytes.into(),
    })
}
