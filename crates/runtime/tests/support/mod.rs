//! A linker of a hundred lines that puts the runtime into the test's own process.
#![allow(dead_code)] // every test file uses a part of this

pub(crate) mod random;
pub(crate) mod session;
pub(crate) mod tracee;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::mem::{offset_of, size_of};

use engraft_abi::{MAX_PATCHES, PatchTable, RING_BYTES, RecordHeader, RingHeader, RuntimeConfig};
use object::read::elf::ElfFile64;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget,
    SectionFlags, SymbolIndex, elf,
};

/// One copy of the runtime with memory, log and patch table of its own. Never unmapped.
pub(crate) struct Runtime {
    symbols: HashMap<String, u64>,
    ring: *mut RingHeader,
    table: *mut PatchTable,
}

// SAFETY: the pointers are to leaked memory that is used by one test at a time.
unsafe impl Send for Runtime {}
// SAFETY: as above; what is called through the runtime is made for many threads.
unsafe impl Sync for Runtime {}

struct Image {
    base: *mut u8,
    sections: HashMap<usize, u64>,
    got: u64,
    got_used: HashMap<SymbolIndex, u64>,
}

const SPACE: usize = 1 << 20;

fn map(length: usize) -> *mut u8 {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping where the kernel likes.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    assert_ne!(place, libc::MAP_FAILED);
    place.cast()
}

impl Runtime {
    /// Links the runtime with 64 KiB of configured heap.
    pub(crate) fn load() -> Self {
        let file = ElfFile64::<object::Endianness>::parse(engraft_runtime::OBJECT).unwrap();
        let base = map(SPACE);
        let mut image = Image {
            base,
            sections: HashMap::new(),
            got: base as u64 + SPACE as u64 - 4096,
            got_used: HashMap::new(),
        };
        // Read-only and writable parts first, then the code, so that one mprotect does.
        let code_at = SPACE / 2;
        image.place(&file, 0, false);
        let code_end = image.place(&file, code_at, true);
        image.relocate(&file);
        let symbols = file
            .symbols()
            .filter(|symbol| symbol.is_global() && symbol.is_definition())
            .map(|symbol| {
                (
                    symbol.name().unwrap().to_owned(),
                    image.address(&file, symbol.index()),
                )
            })
            .collect();
        let mut runtime = Self {
            symbols,
            ring: map(size_of::<RingHeader>() + RING_BYTES).cast(),
            table: map(size_of::<PatchTable>()).cast(),
        };
        runtime.configure();
        // SAFETY: the code lies between the two places, in the mapping made above.
        let done = unsafe {
            libc::mprotect(
                base.add(code_at).cast(),
                (code_end - code_at).next_multiple_of(4096),
                libc::PROT_READ | libc::PROT_EXEC,
            )
        };
        assert_eq!(done, 0);
        runtime
    }

    fn configure(&mut self) {
        let heap_length = 64 * 1024;
        let config = RuntimeConfig {
            patch_table: self.table as u64,
            ring: self.ring as u64,
            heap: map(heap_length) as u64,
            heap_length: heap_length as u64,
            // SAFETY: the processor has xgetbv when it has AVX, which the tests need anyway.
            xsave_mask: unsafe { xcr0() },
            tsc_allowed: 1,
            debug: 0,
            plan: 0,
        };
        let place = self.symbol(engraft_runtime::SYM_CONFIG) as *mut RuntimeConfig;
        // SAFETY: the place is the runtime's configuration in the mapping made above.
        unsafe { place.write(config) };
        self.set_patches(&[], u32::MAX);
    }

    /// Address of a global symbol.
    pub(crate) fn symbol(&self, name: &str) -> u64 {
        *self
            .symbols
            .get(name)
            .unwrap_or_else(|| panic!("the runtime has no {name}"))
    }

    /// Address of the log ring.
    pub(crate) fn ring(&self) -> u64 {
        self.ring as u64
    }

    /// A function of the runtime as a function pointer of type `F`.
    ///
    /// # Safety
    /// `F` is a function pointer type that fits the function.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &str) -> F {
        assert_eq!(size_of::<F>(), 8);
        let address = self.symbol(name);
        // SAFETY: the caller's contract.
        unsafe { std::mem::transmute_copy(&address) }
    }

    /// Fills in the patch table.
    pub(crate) fn set_patches(&self, patches: &[u64], transition: u32) {
        let mut table = PatchTable {
            count: patches.len() as u32,
            transition,
            patches: [0; MAX_PATCHES],
        };
        table.patches[..patches.len()].copy_from_slice(patches);
        // SAFETY: the table is this runtime's, and no call is under way.
        unsafe { self.table.write(table) };
    }

    /// The records of the log from `position` on: (level, text), and the position behind.
    pub(crate) fn read_log(&self, mut position: u64) -> (Vec<(u32, String)>, u64) {
        let mut records = Vec::new();
        // SAFETY: the ring is this runtime's.
        let head = unsafe { (&raw const (*self.ring).head).read_volatile() };
        while position < head {
            let header = self.ring_bytes(position, size_of::<RecordHeader>());
            let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
            let half = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
            assert_eq!(word(offset_of!(RecordHeader, position)), position);
            assert_ne!(word(offset_of!(RecordHeader, tsc)), 0);
            let length = half(offset_of!(RecordHeader, length)) as usize;
            let level = half(offset_of!(RecordHeader, level));
            let text = self.ring_bytes(position + header.len() as u64, length);
            records.push((level, String::from_utf8(text).unwrap()));
            position += (header.len() + length).next_multiple_of(8) as u64;
        }
        assert_eq!(position, head);
        (records, position)
    }

    /// The whole log.
    pub(crate) fn log(&self) -> Vec<(u32, String)> {
        self.read_log(0).0
    }

    fn ring_bytes(&self, position: u64, length: usize) -> Vec<u8> {
        // SAFETY: RING_BYTES bytes follow the header.
        let bytes = unsafe { std::slice::from_raw_parts(self.ring.add(1).cast(), RING_BYTES) };
        (position..)
            .take(length)
            .map(|at: u64| bytes[(at % RING_BYTES as u64) as usize])
            .collect()
    }
}

/// # Safety
/// The processor has the instruction.
unsafe fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's contract.
    unsafe { std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}

impl Image {
    fn place(&mut self, file: &ElfFile64<'_>, mut at: usize, code: bool) -> usize {
        for section in file.sections() {
            let SectionFlags::Elf {
                sh_flags: flags, ..
            } = section.flags()
            else {
                panic!("not ELF")
            };
            if !flags.contains(elf::SHF_ALLOC) || flags.contains(elf::SHF_EXECINSTR) != code {
                continue;
            }
            at = at.next_multiple_of(section.align() as usize);
            let data = section.data().unwrap();
            assert!(at + section.size() as usize <= SPACE - 4096);
            // SAFETY: inside the mapping.
            unsafe {
                self.base
                    .add(at)
                    .copy_from_nonoverlapping(data.as_ptr(), data.len())
            };
            self.sections
                .insert(section.index().0, self.base as u64 + at as u64);
            at += section.size() as usize;
        }
        at
    }

    fn address(&self, file: &ElfFile64<'_>, symbol: SymbolIndex) -> u64 {
        let symbol = file.symbol_by_index(symbol).unwrap();
        self.sections[&symbol.section_index().unwrap().0] + symbol.address()
    }

    fn got_entry(&mut self, file: &ElfFile64<'_>, symbol: SymbolIndex) -> u64 {
        let next = self.got + 8 * self.got_used.len() as u64;
        let entry = *self.got_used.entry(symbol).or_insert(next);
        let address = self.address(file, symbol);
        // SAFETY: the last page of the mapping is the table.
        unsafe { (entry as *mut u64).write(address) };
        entry
    }

    fn relocate(&mut self, file: &ElfFile64<'_>) {
        for section in file.sections() {
            let Some(&start) = self.sections.get(&section.index().0) else {
                continue;
            };
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(symbol) = relocation.target() else {
                    panic!("relocation without symbol")
                };
                let RelocationFlags::Elf { r_type } = relocation.flags() else {
                    panic!("not ELF")
                };
                let place = start + offset;
                let value = match r_type {
                    elf::R_X86_64_GOTPCREL
                    | elf::R_X86_64_GOTPCRELX
                    | elf::R_X86_64_REX_GOTPCRELX => self.got_entry(file, symbol),
                    _ => self.address(file, symbol),
                };
                let value = value.wrapping_add_signed(relocation.addend());
                // SAFETY: the place is inside a section of the image.
                unsafe {
                    match r_type {
                        elf::R_X86_64_64 => (place as *mut u64).write_unaligned(value),
                        _ => (place as *mut i32)
                            .write_unaligned(value.wrapping_sub(place) as i64 as i32),
                    }
                }
            }
        }
    }
}

/// A C string for a call.
pub(crate) fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// A Rust string from C.
///
/// # Safety
/// `text` is a C string.
pub(crate) unsafe fn rust(text: *const libc::c_char) -> String {
    // SAFETY: the caller's contract.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}
