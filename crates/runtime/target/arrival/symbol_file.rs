//! `.symtab` from the file of a mapped object, if the file is still the one that is mapped.
//!
//! Everything in the file may be wrong, and may change while it is read. So tables are copied
//! into memory of our own and checked there: a mapping of the file would raise SIGBUS when the
//! file is cut off, and what was checked could be something else when it is used.

use core::mem::MaybeUninit;

use super::link_map::LinkMap;
use super::mapped::{FileHeader, Mapped, PT_NOTE, Plain, ProgramHeader};
use super::table::{SYMBOL_SIZE, Table};
use crate::syscall::{self, OpenFile, PAGE};

const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const NT_GNU_BUILD_ID: u32 = 3;

/// Bytes of a table that is not believed.
const MAX_TABLE: u64 = 1 << 28;
const MAX_NOTES: u64 = 1 << 16;

/// Elf64_Shdr (gABI, "Section Header Table").
#[repr(C)]
#[derive(Clone, Copy)]
struct SectionHeader {
    sh_name: u32,
    sh_type: u32,
    sh_flags: u64,
    sh_addr: u64,
    sh_offset: u64,
    sh_size: u64,
    sh_link: u32,
    sh_info: u32,
    sh_addralign: u64,
    sh_entsize: u64,
}

// SAFETY: integers without padding.
unsafe impl Plain for SectionHeader {}

/// A copy of a file's `.symtab` and its strings.
pub(super) struct SymbolFile {
    memory: *mut u8,
    length: usize,
    table: Table,
}

impl SymbolFile {
    /// Reads the file that the object was loaded from; `None` when it has no `.symtab`, is
    /// damaged, or is another file by now.
    ///
    /// # Safety
    /// `map` is the object that `mapped` was made of.
    pub(super) unsafe fn read(map: &LinkMap, mapped: &Mapped) -> Option<Self> {
        // SAFETY: the dynamic linker's path is a C string.
        let file = File(unsafe { OpenFile::open(map.l_name) }?);
        if !file.is_mapped_as(mapped)? {
            return None;
        }
        let (symbols, strings) = file.find_tables()?;
        Self::copy(&file, &symbols, &strings, mapped.bias)
    }

    fn copy(
        file: &File,
        symbols: &SectionHeader,
        strings: &SectionHeader,
        bias: u64,
    ) -> Option<Self> {
        let (first, second) = (symbols.sh_size as usize, strings.sh_size as usize);
        let length = (first + second).next_multiple_of(PAGE);
        let memory = syscall::map(length);
        if memory.is_null() {
            return None;
        }
        // From here on, dropping it gives the memory back.
        let mut copied = Self {
            memory,
            length,
            table: Table::EMPTY,
        };
        // SAFETY: the memory is as long as both tables, and nobody else knows it.
        copied.table = unsafe {
            let behind = memory.add(first);
            let complete = file.0.read_at(memory, first, symbols.sh_offset)
                && file.0.read_at(behind, second, strings.sh_offset);
            let symbols = core::slice::from_raw_parts(memory, first);
            let strings = core::slice::from_raw_parts(behind, second);
            let table = Table::new(symbols, strings, core::ptr::null(), bias)?;
            complete.then_some(table)?
        };
        Some(copied)
    }

    /// The symbols.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

impl Drop for SymbolFile {
    fn drop(&mut self) {
        // SAFETY: made by `copy`; the table goes with it.
        unsafe { syscall::unmap(self.memory, self.length) };
    }
}

struct File(OpenFile);

impl File {
    /// Whether this is the file that is mapped: the headers are the same and so is the build-id,
    /// or where there is none, all that the object maps and does not change.
    fn is_mapped_as(&self, mapped: &Mapped) -> Option<bool> {
        let header: FileHeader = self.read(0)?;
        let same_headers = self.holds(0, mapped.bias, size_of::<FileHeader>() as u64)
            && self.holds(header.e_phoff, mapped.headers, mapped.headers_length());
        if !same_headers {
            return Some(false);
        }
        let mut identified = false;
        for header in mapped.headers().filter(|header| header.p_type == PT_NOTE) {
            let address = header.p_vaddr.wrapping_add(mapped.bias);
            // Linker scripts may leave notes out of every segment: then they are not in memory.
            let notes = mapped.bytes(address, header.p_filesz);
            let Some(notes) = notes.filter(|_| header.p_filesz <= MAX_NOTES) else {
                continue;
            };
            if !self.holds(header.p_offset, address, header.p_filesz) {
                return Some(false);
            }
            identified |= has_build_id(notes, header.p_align);
        }
        let unchanged = |header: ProgramHeader| {
            let address = header.p_vaddr.wrapping_add(mapped.bias);
            header.p_filesz <= mapped.remaining(address)
                && self.holds(header.p_offset, address, header.p_filesz)
        };
        let mut constant = mapped.headers().filter(ProgramHeader::is_constant);
        Some(identified || constant.all(unchanged))
    }

    /// Whether the file has at `offset` what memory has at `address`, `length` readable bytes.
    fn holds(&self, offset: u64, address: u64, length: u64) -> bool {
        const WINDOW: usize = 512;
        let mut window = MaybeUninit::<[u8; WINDOW]>::uninit();
        let place = window.as_mut_ptr().cast::<u8>();
        let mut done = 0;
        while done < length {
            let part = (length - done).min(WINDOW as u64) as usize;
            // SAFETY: the window has room for the part, which is looked at only when it was
            // filled. The bytes in memory are readable: the caller has asked the segments.
            let same = unsafe {
                self.0.read_at(place, part, offset.wrapping_add(done))
                    && core::slice::from_raw_parts(place, part)
                        == core::slice::from_raw_parts((address + done) as *const u8, part)
            };
            if !same {
                return false;
            }
            done += part as u64;
        }
        true
    }

    /// The first symbol table and its strings.
    fn find_tables(&self) -> Option<(SectionHeader, SectionHeader)> {
        let header: FileHeader = self.read(0)?;
        if usize::from(header.e_shentsize) != size_of::<SectionHeader>() || header.e_shoff == 0 {
            return None;
        }
        let section = |index: u64| {
            let offset = index.checked_mul(size_of::<SectionHeader>() as u64)?;
            self.read::<SectionHeader>(header.e_shoff.checked_add(offset)?)
        };
        // Where there are too many sections for a halfword, the first says how many.
        let count = match header.e_shnum {
            0 => section(0)?.sh_size.min(u64::from(u32::MAX)),
            count => u64::from(count),
        };
        let mut index = 0;
        let symbols = loop {
            let header = (index < count).then(|| section(index))??;
            if header.sh_type == SHT_SYMTAB {
                break header;
            }
            index += 1;
        };
        let link = u64::from(symbols.sh_link);
        let strings = (link != 0 && link < count).then(|| section(link))??;
        let aligned = symbols.sh_size.is_multiple_of(SYMBOL_SIZE as u64);
        let sound = aligned && self.has(&symbols)? && self.has(&strings)?;
        sound.then_some((symbols, strings))
    }

    /// Whether the contents of a section lie in the file.
    fn has(&self, section: &SectionHeader) -> Option<bool> {
        let end = section.sh_offset.checked_add(section.sh_size)?;
        let inside = end <= self.0.length()? && section.sh_size <= MAX_TABLE;
        Some(inside && section.sh_type != SHT_NOBITS)
    }

    fn read<T: Plain>(&self, offset: u64) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: there is room for a value, and any bytes are one.
        unsafe {
            let place = value.as_mut_ptr().cast();
            let complete = self.0.read_at(place, size_of::<T>(), offset);
            complete.then(|| value.assume_init())
        }
    }
}

/// Whether a GNU build-id is among `notes` (gABI, "Note Section").
fn has_build_id(notes: &[u8], alignment: u64) -> bool {
    let alignment = if alignment == 8 { 8 } else { 4 };
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*word))
    };
    let mut rest = notes;
    // Each round takes at least the twelve bytes of a note's header away.
    let mut step = || {
        let (name, length) = (word(rest, 0)? as usize, word(rest, 4)? as usize);
        let is_build_id =
            word(rest, 8)? == NT_GNU_BUILD_ID && length > 0 && rest.get(12..12 + name)? == b"GNU\0";
        let start = (12 + name).next_multiple_of(alignment);
        rest = rest.get((start + length).next_multiple_of(alignment)..)?;
        Some(is_build_id)
    };
    while let Some(is_build_id) = step() {
        if is_build_id {
            return true;
        }
    }
    false
}
