//! What glibc's dynamic linker keeps about one object beyond the public part: the table of
//! entries of its dynamic section by tag (`l_info`). With entries of our own in it the linker
//! itself says when it runs constructors and destructors, and refuses a load.
//!
//! Where the table lies is not promised, so it is looked for, and used only if it says what the
//! dynamic section says. musl has none.

use engraft_abi::LibraryStatus;

use super::link_map::LinkMap;
use super::plan::Library;
use super::redirects::{Redirects, STUB};
use super::symbols::Symbols;

const DT_PLTRELSZ: usize = 2;
const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;
const DT_RELA: u64 = 7;
const DT_INIT: usize = 12;
const DT_FINI: usize = 13;
const DT_PLTREL: usize = 20;
const DT_JMPREL: usize = 23;

/// Where the table may begin, in bytes from the start of the structure.
const FIRST: u64 = 0x28;
const LAST: u64 = 0x80;

/// A relocation of a type that does not exist: the linker gives up the load over it.
static REFUSED: [u64; 3] = [0, 0xdead, 0];

/// Entries that make the linker come across it; the address is filled in when it is known.
static mut REFUSING: [[u64; 2]; 3] = [
    [DT_JMPREL as u64, 0],
    [DT_PLTRELSZ as u64, 24],
    [DT_PLTREL as u64, DT_RELA],
];

/// Entries of the dynamic section that stand for the library's own.
pub(super) struct Marks {
    init: u64,
    fini: u64,
}

/// The linker's table for one object.
pub(super) struct Table {
    first: *mut u64,
    bias: u64,
}

impl Table {
    /// Finds the table of an object.
    pub(super) fn find(map: &LinkMap, symbols: &Symbols) -> Option<Self> {
        let start = core::ptr::from_ref(map) as u64;
        let is_entry = |place: u64, tag: usize| {
            let inside = place >= map.l_ld && symbols.holds(place, 16);
            // SAFETY: the address lies in the object, as its program headers describe it.
            inside && unsafe { (place as *const u64).read_unaligned() } == tag as u64
        };
        let mut places = (FIRST..=LAST)
            .step_by(8)
            .map(|offset| (start + offset) as *mut u64);
        let first = places.find(|first| {
            let entry = |tag: usize| first.wrapping_add(tag);
            // SAFETY: glibc's structure is far longer than this; musl's, which holds no such
            // table, too.
            let (strings, names) = unsafe {
                (
                    entry(DT_STRTAB).read_volatile(),
                    entry(DT_SYMTAB).read_volatile(),
                )
            };
            is_entry(strings, DT_STRTAB) && is_entry(names, DT_SYMTAB)
        })?;
        Some(Self {
            first,
            bias: map.l_addr,
        })
    }

    /// Whether the linker notes already when it has run the destructors of this load.
    pub(super) fn is_marked(&self, status: &LibraryStatus) -> bool {
        // SAFETY: `find` has made sure of the table.
        let entry = unsafe { self.first.add(DT_FINI).read_volatile() };
        entry.wrapping_sub(status.memory) < status.memory_length
    }

    /// Writes what lets the linker note when it runs the library's constructors and when it has
    /// run its destructors. The redirects' memory is open.
    pub(super) fn write_marks(&self, library: Library, redirects: &Redirects) -> Marks {
        let (started, finished) = library.marks();
        let write = |index: usize, tag: usize, place: u64| {
            // SAFETY: `find` has made sure of the table.
            let old = unsafe { (self.first.add(tag).read_volatile() as *const [u64; 2]).as_ref() };
            let old = old.map(|[_, value]| self.bias.wrapping_add(*value));
            let stub = redirects.stub(index as u64);
            write_stub(stub, place, old);
            redirects.set_entry(index, [tag as u64, stub.wrapping_sub(self.bias)])
        };
        Marks {
            init: write(0, DT_INIT, started),
            fini: write(1, DT_FINI, finished),
        }
    }

    /// Puts the marks in force. Their memory is closed: another thread may be about to run the
    /// destructors.
    pub(super) fn set_marks(&self, marks: &Marks) {
        for (tag, entry) in [(DT_INIT, marks.init), (DT_FINI, marks.fini)] {
            // SAFETY: `find` has made sure of the table; the linker reads one entry or the other.
            unsafe { self.first.add(tag).write_volatile(entry) };
        }
    }

    /// Makes the linker give up the load, which it does when it relocates the object: dlopen
    /// then fails with "unexpected PLT reloc type".
    pub(super) fn refuse(&self) {
        // SAFETY: only the thread that has the turn gets here; `find` has made sure of the table.
        unsafe {
            let entries = (&raw mut REFUSING).cast::<[u64; 2]>();
            (*entries)[1] = REFUSED.as_ptr() as u64;
            for (index, tag) in [DT_JMPREL, DT_PLTRELSZ, DT_PLTREL].into_iter().enumerate() {
                self.first
                    .add(tag)
                    .write_volatile(entries.add(index) as u64);
            }
        }
    }
}

/// `movabs $place, %rax; movb $1, (%rax)`, then on to `next` or back.
fn write_stub(stub: u64, place: u64, next: Option<u64>) {
    let mut code = [0xcc_u8; STUB];
    let note = [0x48, 0xb8]
        .into_iter()
        .chain(place.to_le_bytes())
        .chain([0xc6, 0, 1]);
    let jump = [0x48, 0xb8]
        .into_iter()
        .chain(next.unwrap_or(0).to_le_bytes())
        .chain([0xff, 0xe0]);
    let go_on = jump.take(if next.is_some() { 12 } else { 0 });
    let back = [0xc3].into_iter().take(if next.is_some() { 0 } else { 1 });
    let bytes = note.chain(go_on).chain(back);
    code.iter_mut()
        .zip(bytes)
        .for_each(|(place, byte)| *place = byte);
    // SAFETY: the memory is open and has STUB bytes there.
    unsafe { (stub as *mut [u8; STUB]).write(code) };
}
