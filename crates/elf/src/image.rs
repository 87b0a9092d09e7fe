//! One loaded object, as it is mapped in memory.

use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::pod::Pod;

use crate::dynamic::{self, Dynamic, DynamicRelocation, RelocationTable};
use crate::{BuildId, ImageError, ImageErrorKind, ReadMemory, Symbol};

use ImageErrorKind::Malformed;

const PAGE: u64 = 4096;
const MAX_PROGRAM_HEADERS: u16 = 1024;
const MAX_NOTES: u64 = 1 << 20;

/// A loaded object. Everything is read from memory, nothing from disk: the file may have
/// been upgraded or deleted since.
#[derive(Clone, Debug)]
pub struct Image {
    /// Address of the ELF header.
    pub header_address: u64,
    /// What is added to link-time addresses (modulo 2^64).
    pub bias: u64,
    /// ET_EXEC: linked to a fixed address, bias 0.
    pub fixed_position: bool,
    /// Entry point, absolute; `None` when the object has none.
    pub entry: Option<u64>,
    /// PT_LOAD segments in file order.
    pub segments: Vec<Segment>,
    /// The build-id, where the object has one.
    pub build_id: Option<BuildId>,
    /// DT_SONAME.
    pub soname: Option<String>,
    /// DT_NEEDED, in order.
    pub needed: Vec<String>,
    /// Address of the dynamic linker's `struct r_debug` (DT_DEBUG), 0 before the dynamic linker
    /// has stored it; `None` for an object that asks for no dynamic linker (PT_INTERP) or has
    /// no such entry.
    pub debug: Option<u64>,
    /// The dynamic symbol table; the position is the symbol's index, 0 is the null symbol.
    pub dynamic_symbols: Vec<Symbol>,
    /// DT_RELA and DT_JMPREL.
    pub relocation_tables: Vec<RelocationTable>,
    /// Addresses of the .eh_frame_hdr section (PT_GNU_EH_FRAME).
    pub eh_frame_hdr: Option<Range<u64>>,
    /// The thread-local storage segment (PT_TLS).
    pub tls: Option<Tls>,
}

/// One PT_LOAD segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address, absolute.
    pub address: u64,
    /// Length in memory in bytes.
    pub size: u64,
    /// Where its contents start in the file.
    pub file_offset: u64,
    /// How much of it comes from the file; the rest is zero-initialised.
    pub file_size: u64,
    /// PF_R.
    pub readable: bool,
    /// PF_W.
    pub writable: bool,
    /// PF_X.
    pub executable: bool,
}

impl Segment {
    /// The addresses of the segment.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.address..self.address + self.size
    }
}

/// The thread-local storage segment of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Address of the initialisation image, absolute.
    pub address: u64,
    /// Length of the initialisation image in bytes.
    pub file_size: u64,
    /// Length of the block of each thread in bytes.
    pub size: u64,
    /// Alignment of the block, a power of two.
    pub alignment: u64,
}

impl Tls {
    /// Distance from the thread pointer (%fs base) to a variable of the main executable whose
    /// symbol has the value `offset`: its block ends at the thread pointer (ELF Handling For
    /// Thread-Local Storage, variant II). Not valid for libraries.
    #[must_use]
    pub fn executable_offset(&self, offset: u64) -> i64 {
        let block = self.size.next_multiple_of(self.alignment);
        offset.wrapping_sub(block).cast_signed()
    }
}

impl Image {
    /// Reads the object whose ELF header is mapped at `header_address`.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the memory is not a loaded 64-bit x86-64 object, when parts of it
    /// that the headers promise cannot be read, or when its tables contradict each other.
    pub fn from_memory(memory: &dyn ReadMemory, header_address: u64) -> Result<Self, ImageError> {
        let fail = |kind| ImageError {
            address: header_address,
            kind,
        };
        read_image(memory, header_address).map_err(fail)
    }

    /// Whether `address` lies in one of the segments.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        self.segment_at(address).is_some()
    }

    /// The segment that covers `address`.
    #[must_use]
    pub fn segment_at(&self, address: u64) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|segment| segment.range().contains(&address))
    }

    /// Reads the entries of all relocation tables, DT_JMPREL last.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when a table cannot be read.
    pub fn read_relocations(
        &self,
        memory: &dyn ReadMemory,
    ) -> Result<Vec<DynamicRelocation>, ImageError> {
        let mapped = Mapped {
            memory,
            segments: &self.segments,
            bias: self.bias,
        };
        dynamic::read_relocations(&mapped, &self.relocation_tables).map_err(|kind| ImageError {
            address: self.header_address,
            kind,
        })
    }
}

/// Memory of one object: reads stay inside its segments.
pub(crate) struct Mapped<'a> {
    pub(crate) memory: &'a dyn ReadMemory,
    pub(crate) segments: &'a [Segment],
    pub(crate) bias: u64,
}

impl Mapped<'_> {
    /// The segment bytes that remain from `address` on; 0 outside all segments.
    pub(crate) fn remaining(&self, address: u64) -> u64 {
        let inside = |segment: &&Segment| segment.range().contains(&address);
        let segment = self.segments.iter().find(inside);
        segment.map_or(0, |segment| segment.range().end - address)
    }

    /// Reads `length` bytes in pieces, so that a false length fails before it costs memory.
    pub(crate) fn read(&self, address: u64, length: u64) -> Result<Vec<u8>, ImageErrorKind> {
        const PIECE: usize = 1 << 20;
        if length > self.remaining(address) {
            return Err(Malformed("a table leaves its segment"));
        }
        let length = usize::try_from(length).map_err(|_| Malformed("a table is too long"))?;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let start = bytes.len();
            bytes.resize(length.min(start + PIECE), 0);
            self.memory
                .read(address + start as u64, &mut bytes[start..])?;
        }
        Ok(bytes)
    }
}

fn read_image(memory: &dyn ReadMemory, address: u64) -> Result<Image, ImageErrorKind> {
    let header = read_header(memory, address)?;
    let headers = read_program_headers(memory, address, &header)?;
    let bias = find_bias(address, &headers)?;
    let fixed_position = header.e_type.get(LE) == elf::ET_EXEC;
    if fixed_position && bias != 0 {
        return Err(Malformed(
            "an executable linked to a fixed address is mapped elsewhere",
        ));
    }
    let segments = collect_segments(&headers, bias)?;
    let mapped = Mapped {
        memory,
        segments: &segments,
        bias,
    };
    let dynamic = match of_type(&headers, elf::PT_DYNAMIC).next() {
        Some(header) => Dynamic::read(&mapped, relocate(header, bias), header.p_memsz.get(LE))?,
        None => Dynamic::default(),
    };
    let interpreter = of_type(&headers, elf::PT_INTERP).next();
    let entry = header.e_entry.get(LE);
    Ok(Image {
        header_address: address,
        bias,
        fixed_position,
        entry: (entry != 0).then(|| entry.wrapping_add(bias)),
        build_id: read_build_id(&mapped, &headers)?,
        soname: dynamic.soname,
        needed: dynamic.needed,
        debug: interpreter.and(dynamic.debug),
        dynamic_symbols: dynamic.symbols,
        relocation_tables: dynamic.relocation_tables,
        eh_frame_hdr: find_eh_frame_hdr(&mapped, &headers)?,
        tls: find_tls(&headers, bias)?,
        segments,
    })
}

fn read_header(memory: &dyn ReadMemory, address: u64) -> Result<FileHeader64<LE>, ImageErrorKind> {
    let mut bytes = [0; size_of::<FileHeader64<LE>>()];
    memory.read(address, &mut bytes)?;
    let header: FileHeader64<LE> = decode(&bytes);
    if header.e_ident.magic != elf::ELFMAG {
        return Err(ImageErrorKind::NotElf);
    }
    if header.e_ident.class == elf::ELFCLASS32 {
        return Err(ImageErrorKind::ThirtyTwoBit);
    }
    let machine = header.e_machine.get(LE);
    if header.e_ident.data != elf::ELFDATA2LSB || machine != elf::EM_X86_64 {
        return Err(ImageErrorKind::ForeignMachine(machine.0));
    }
    let kind = header.e_type.get(LE);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(ImageErrorKind::NotLoadable(kind.0));
    }
    Ok(header)
}

fn read_program_headers(
    memory: &dyn ReadMemory,
    address: u64,
    header: &FileHeader64<LE>,
) -> Result<Vec<ProgramHeader64<LE>>, ImageErrorKind> {
    let size = size_of::<ProgramHeader64<LE>>();
    let count = header.e_phnum.get(LE);
    if count == 0 || count > MAX_PROGRAM_HEADERS {
        return Err(Malformed("number of program headers"));
    }
    if usize::from(header.e_phentsize.get(LE)) != size {
        return Err(Malformed("size of program headers"));
    }
    let start = address
        .checked_add(header.e_phoff.get(LE))
        .ok_or(Malformed("position of program headers"))?;
    let mut bytes = vec![0; usize::from(count) * size];
    memory.read(start, &mut bytes)?;
    Ok(bytes.chunks_exact(size).map(decode).collect())
}

/// The ELF header is the start of the file, so it is mapped by the segment that starts there.
fn find_bias(address: u64, headers: &[ProgramHeader64<LE>]) -> Result<u64, ImageErrorKind> {
    let first = of_type(headers, elf::PT_LOAD)
        .find(|header| header.p_offset.get(LE) < PAGE)
        .ok_or(Malformed("no segment maps the ELF header"))?;
    let linked = first.p_vaddr.get(LE).wrapping_sub(first.p_offset.get(LE));
    Ok(address.wrapping_sub(linked))
}

fn collect_segments(
    headers: &[ProgramHeader64<LE>],
    bias: u64,
) -> Result<Vec<Segment>, ImageErrorKind> {
    let to_segment = |header: &ProgramHeader64<LE>| {
        let flags = header.p_flags.get(LE);
        let segment = Segment {
            address: relocate(header, bias),
            size: header.p_memsz.get(LE),
            file_offset: header.p_offset.get(LE),
            file_size: header.p_filesz.get(LE),
            readable: flags.0 & elf::PF_R.0 != 0,
            writable: flags.0 & elf::PF_W.0 != 0,
            executable: flags.0 & elf::PF_X.0 != 0,
        };
        segment
            .address
            .checked_add(segment.size)
            .filter(|_| segment.file_size <= segment.size)
            .map(|_| segment)
            .ok_or(Malformed("extent of a segment"))
    };
    of_type(headers, elf::PT_LOAD).map(to_segment).collect()
}

fn read_build_id(
    mapped: &Mapped<'_>,
    headers: &[ProgramHeader64<LE>],
) -> Result<Option<BuildId>, ImageErrorKind> {
    for header in of_type(headers, elf::PT_NOTE) {
        let address = relocate(header, mapped.bias);
        let length = header.p_filesz.get(LE);
        // Linker scripts may leave notes out of every segment: then they are not in memory.
        if length > MAX_NOTES || length > mapped.remaining(address) {
            continue;
        }
        let notes = mapped.read(address, length)?;
        if let Some(id) = BuildId::find_in_notes(&notes, header.p_align.get(LE)) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn find_eh_frame_hdr(
    mapped: &Mapped<'_>,
    headers: &[ProgramHeader64<LE>],
) -> Result<Option<Range<u64>>, ImageErrorKind> {
    let Some(header) = of_type(headers, elf::PT_GNU_EH_FRAME).next() else {
        return Ok(None);
    };
    let address = relocate(header, mapped.bias);
    let length = header.p_memsz.get(LE);
    if length > mapped.remaining(address) {
        return Err(Malformed("extent of .eh_frame_hdr"));
    }
    Ok(Some(address..address + length))
}

fn find_tls(headers: &[ProgramHeader64<LE>], bias: u64) -> Result<Option<Tls>, ImageErrorKind> {
    const MAX_SIZE: u64 = 1 << 40;
    let Some(header) = of_type(headers, elf::PT_TLS).next() else {
        return Ok(None);
    };
    let tls = Tls {
        address: relocate(header, bias),
        file_size: header.p_filesz.get(LE),
        size: header.p_memsz.get(LE),
        alignment: header.p_align.get(LE).max(1),
    };
    if !tls.alignment.is_power_of_two()
        || tls.alignment > MAX_SIZE
        || tls.size > MAX_SIZE
        || tls.file_size > tls.size
    {
        return Err(Malformed("extent of the thread-local storage"));
    }
    Ok(Some(tls))
}

fn of_type(
    headers: &[ProgramHeader64<LE>],
    kind: elf::ProgramType,
) -> impl Iterator<Item = &ProgramHeader64<LE>> {
    headers
        .iter()
        .filter(move |header| header.p_type.get(LE) == kind)
}

fn relocate(header: &ProgramHeader64<LE>, bias: u64) -> u64 {
    header.p_vaddr.get(LE).wrapping_add(bias)
}

/// Decodes `bytes`, which must be exactly as long as `T`.
pub(crate) fn decode<T: Pod>(bytes: &[u8]) -> T {
    let (value, _) = object::pod::from_bytes(bytes).expect("the caller sized the bytes");
    *value
}
