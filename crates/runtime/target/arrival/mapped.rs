//! One object as the dynamic linker has just mapped it: which of its bytes can be read.

use super::link_map::LinkMap;
use crate::syscall::{PAGE, is_readable};

pub(super) const PT_LOAD: u32 = 1;
pub(super) const PT_NOTE: u32 = 4;

const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// The first 16 bytes of a 64-bit little-endian file, as far as they are always the same.
const IDENT: [u8; 7] = *b"\x7fELF\x02\x01\x01";
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;

/// Values that any bytes of their size are.
///
/// # Safety
/// The type consists of integers only and has no padding.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: integers without padding, as the gABI lays them out.
unsafe impl Plain for FileHeader {}
// SAFETY: integers without padding, as the gABI lays them out.
unsafe impl Plain for ProgramHeader {}

/// Elf64_Ehdr (gABI, "ELF Header").
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct FileHeader {
    pub(super) e_ident: [u8; 16],
    pub(super) e_type: u16,
    pub(super) e_machine: u16,
    pub(super) e_version: u32,
    pub(super) e_entry: u64,
    pub(super) e_phoff: u64,
    pub(super) e_shoff: u64,
    pub(super) e_flags: u32,
    pub(super) e_ehsize: u16,
    pub(super) e_phentsize: u16,
    pub(super) e_phnum: u16,
    pub(super) e_shentsize: u16,
    pub(super) e_shnum: u16,
    pub(super) e_shstrndx: u16,
}

/// Elf64_Phdr (gABI, "Program Header").
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ProgramHeader {
    pub(super) p_type: u32,
    pub(super) p_flags: u32,
    pub(super) p_offset: u64,
    pub(super) p_vaddr: u64,
    pub(super) p_paddr: u64,
    pub(super) p_filesz: u64,
    pub(super) p_memsz: u64,
    pub(super) p_align: u64,
}

impl ProgramHeader {
    /// A segment with contents from the file that nobody has written to.
    pub(super) fn is_constant(&self) -> bool {
        self.p_type == PT_LOAD && self.p_flags & (PF_R | PF_W) == PF_R
    }

    /// The segment puts these bytes of the file where the load bias alone says.
    fn holds(&self, offset: u64, length: u64) -> bool {
        let inside = offset
            .checked_sub(self.p_offset)
            .and_then(|distance| self.p_filesz.checked_sub(distance));
        self.p_type == PT_LOAD
            && self.p_flags & PF_R != 0
            && self.p_vaddr == self.p_offset
            && inside.is_some_and(|rest| length <= rest)
    }
}

/// The readable memory of one object, by its program headers.
pub(super) struct Mapped {
    /// What is added to link-time addresses, and the address of the ELF header.
    pub(super) bias: u64,
    /// Address of the program headers.
    pub(super) headers: u64,
    count: u16,
}

impl Mapped {
    /// Finds the headers of the object. `link_map` does not say where they are: they are looked
    /// for where every linker puts those of a shared object, at the load bias, and believed only
    /// if they say so themselves.
    ///
    /// # Safety
    /// `map` is a shared object that the dynamic linker has mapped and that stays mapped while
    /// the result is used.
    pub(super) unsafe fn of(map: &LinkMap) -> Option<Self> {
        let bias = map.l_addr;
        if !bias.is_multiple_of(PAGE as u64) || !is_readable(bias) {
            return None;
        }
        // SAFETY: the page that starts there can be read.
        let header = unsafe { (bias as *const FileHeader).read_unaligned() };
        let known = header.e_ident.starts_with(&IDENT)
            && header.e_type == ET_DYN
            && header.e_machine == EM_X86_64
            && usize::from(header.e_phentsize) == size_of::<ProgramHeader>();
        let mapped = Self {
            bias,
            headers: bias.checked_add(header.e_phoff)?,
            count: header.e_phnum,
        };
        let length = mapped.headers_length();
        if !known || length == 0 || !is_range_readable(mapped.headers, length) {
            return None;
        }
        let holds = |offset, length| mapped.headers().any(|header| header.holds(offset, length));
        let honest = holds(0, size_of::<FileHeader>() as u64) && holds(header.e_phoff, length);
        honest.then_some(mapped)
    }

    /// Bytes of the program headers.
    pub(super) fn headers_length(&self) -> u64 {
        u64::from(self.count) * size_of::<ProgramHeader>() as u64
    }

    /// All program headers.
    pub(super) fn headers(&self) -> impl Iterator<Item = ProgramHeader> {
        let first = self.headers as *const ProgramHeader;
        // SAFETY: `of` has made sure that `count` headers can be read.
        (0..usize::from(self.count)).map(move |index| unsafe { first.add(index).read_unaligned() })
    }

    /// How many bytes can be read from `address` on; 0 outside all segments.
    pub(super) fn remaining(&self, address: u64) -> u64 {
        self.remaining_with(PF_R, address)
    }

    /// Whether `address` lies in an executable segment.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.remaining_with(PF_X, address) > 0
    }

    /// End of the segment that `address` lies in.
    pub(super) fn segment_end(&self, address: u64) -> Option<u64> {
        let rest = self.remaining_with(0, address);
        (rest > 0).then(|| address.wrapping_add(rest))
    }

    /// The build-id (NT_GNU_BUILD_ID, LSB "Note Sections").
    pub(super) fn build_id(&self) -> Option<&[u8]> {
        const OWNER: &[u8] = b"GNU\0";
        const BUILD_ID: u32 = 3;
        let notes = self.headers().filter(|header| header.p_type == PT_NOTE);
        notes.into_iter().find_map(|header| {
            let start = self.bias.checked_add(header.p_vaddr)?;
            let end = start.checked_add(header.p_memsz)?;
            let align = |length: u32| u64::from(length).wrapping_add(3) & !3;
            let mut at = start;
            while at < end {
                let [name, data, kind] =
                    [0, 4, 8].map(|offset| self.read::<u32>(at.wrapping_add(offset)));
                let (name, data, kind) = (name?, data?, kind?);
                let text = at.checked_add(12)?;
                let contents = text.checked_add(align(name))?;
                if kind == BUILD_ID && self.bytes(text, u64::from(name))? == OWNER {
                    return self.bytes(contents, u64::from(data));
                }
                at = contents.checked_add(align(data))?;
            }
            None
        })
    }

    /// The protection (mmap(2)) of the segment that `address` lies in.
    pub(super) fn protection(&self, address: u64) -> Option<u64> {
        let offset = address.wrapping_sub(self.bias);
        let mut segments = self.headers().filter(|header| header.p_type == PT_LOAD);
        let segment =
            segments.find(|header| offset.wrapping_sub(header.p_vaddr) < header.p_memsz)?;
        // PROT_READ is 1, PROT_WRITE 2, PROT_EXEC 4.
        let flags = [(PF_R, 1), (PF_W, 2), (PF_X, 4)];
        let set = flags.iter().filter(|(flag, _)| segment.p_flags & flag != 0);
        Some(set.fold(0, |all, (_, protection)| all | protection))
    }

    /// First byte of the object and the one behind its last.
    pub(super) fn range(&self) -> (u64, u64) {
        let segments = self.headers().filter(|header| header.p_type == PT_LOAD);
        let ends = segments.map(|header| header.p_vaddr.wrapping_add(header.p_memsz));
        (self.bias, self.bias.wrapping_add(ends.fold(0, u64::max)))
    }

    fn remaining_with(&self, flags: u32, address: u64) -> u64 {
        let offset = address.wrapping_sub(self.bias);
        let rest = |header: ProgramHeader| {
            let inside = offset.checked_sub(header.p_vaddr)?;
            let rest = header.p_memsz.checked_sub(inside)?;
            let fits = header.p_type == PT_LOAD && header.p_flags & flags == flags;
            (fits && rest > 0 && address.checked_add(rest).is_some()).then_some(rest)
        };
        self.headers().find_map(rest).unwrap_or(0)
    }

    /// The value at `address`, if all of it can be read.
    pub(super) fn read<T: Plain>(&self, address: u64) -> Option<T> {
        let readable = size_of::<T>() as u64 <= self.remaining(address);
        // SAFETY: the bytes lie in a segment that is mapped for reading.
        readable.then(|| unsafe { (address as *const T).read_unaligned() })
    }

    /// The bytes at `address`, if all of them can be read.
    pub(super) fn bytes(&self, address: u64, length: u64) -> Option<&[u8]> {
        let readable = length <= self.remaining(address);
        // SAFETY: the bytes lie in a segment that is mapped for reading; the caller of `of` has
        // promised that it stays so. Nobody writes to an object while it is being loaded.
        readable
            .then(|| unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) })
    }
}

/// Asks for every page of a range that is no longer than the longest table of headers.
fn is_range_readable(start: u64, length: u64) -> bool {
    let page = PAGE as u64;
    let Some(last) = start.checked_add(length).map(|end| (end - 1) / page) else {
        return false;
    };
    (start / page..=last).all(|number| is_readable(number * page))
}
