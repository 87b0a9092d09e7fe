//! The dynamic linker's list of objects, and the dynamic section of one of them.

use super::mapped::{Mapped, Plain};

/// Objects in one list; more are a list that does not end.
const MAX_OBJECTS: usize = 1 << 16;
const MAX_ENTRIES: u64 = 4096;

/// `struct link_map`, as far as it is the same in every C library (link.h).
#[repr(C)]
pub(crate) struct LinkMap {
    /// What is added to the object's link-time addresses.
    pub(crate) l_addr: u64,
    /// Path as the object was found by, a C string; empty for the executable.
    pub(crate) l_name: *const u8,
    /// Its dynamic section.
    pub(crate) l_ld: u64,
    pub(crate) l_next: *const LinkMap,
    pub(crate) l_prev: *const LinkMap,
}

/// `struct r_debug` (link.h).
#[repr(C)]
pub(crate) struct RDebug {
    pub(crate) r_version: i32,
    /// The first object.
    pub(crate) r_map: *const LinkMap,
    /// What the dynamic linker calls before and after it changes the list.
    pub(crate) r_brk: u64,
    /// RT_CONSISTENT (0) or what the list is being changed for.
    pub(crate) r_state: i32,
    pub(crate) r_ldbase: u64,
}

/// The objects from `first` on.
///
/// # Safety
/// `first` is null or an object of a list that does not change while it is walked.
pub(crate) unsafe fn objects<'a>(first: *const LinkMap) -> impl Iterator<Item = &'a LinkMap> {
    // SAFETY: the caller's contract: each link is null or leads to the next object.
    let next = |map: &&'a LinkMap| unsafe { map.l_next.as_ref() };
    // SAFETY: as above.
    core::iter::successors(unsafe { first.as_ref() }, next).take(MAX_OBJECTS)
}

/// Whether a patch's object name means an object: its file name, its soname, or either without
/// `.so` and what follows, `-` and `_` being the same there, as for modules.
///
/// # Safety
/// Each is a C string or null: an object without soname has null there.
pub(crate) unsafe fn is_called(l_name: *const u8, soname: *const u8, wanted: *const u8) -> bool {
    // SAFETY: the caller's contract.
    let (path, soname, wanted) = unsafe { (bytes_of(l_name), bytes_of(soname), bytes_of(wanted)) };
    let (Some(path), Some(wanted)) = (path, wanted) else {
        return false;
    };
    let file_name = path.rsplit(|&byte| byte == b'/').next();
    [file_name, soname]
        .into_iter()
        .flatten()
        .any(|own| own == wanted || is_same_stem(own, wanted))
}

fn is_same_stem(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'-' { b'_' } else { *byte };
    let (one, other) = (stem(one), stem(other));
    one.iter().map(plain).eq(other.iter().map(plain))
}

/// What comes before the first `.so`.
fn stem(name: &[u8]) -> &[u8] {
    let end = name.windows(3).position(|part| part == b".so");
    end.and_then(|end| name.get(..end)).unwrap_or(name)
}

/// The bytes of a C string without its zero; `None` for null.
///
/// # Safety
/// `text` is a C string, which lives as long as the result is used, or null.
pub(super) unsafe fn bytes_of<'a>(text: *const u8) -> Option<&'a [u8]> {
    if text.is_null() {
        return None;
    }
    let mut length = 0;
    // SAFETY: stops at the zero. Volatile, or else the compiler makes a call of strlen out of it.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    // SAFETY: the bytes before the zero.
    Some(unsafe { core::slice::from_raw_parts(text, length) })
}

/// Elf64_Dyn (gABI, "Dynamic Section").
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    d_tag: u64,
    d_val: u64,
}

// SAFETY: integers without padding.
unsafe impl Plain for Entry {}

/// What the dynamic section says about symbols; of repeated entries, the first. Addresses are
/// absolute.
#[derive(Default)]
pub(crate) struct Dynamic {
    /// DT_SYMTAB.
    pub(crate) symbols: Option<u64>,
    /// DT_STRTAB.
    pub(crate) strings: Option<u64>,
    /// DT_STRSZ.
    pub(crate) strings_length: Option<u64>,
    /// DT_HASH.
    pub(crate) hash: Option<u64>,
    /// DT_GNU_HASH.
    pub(crate) gnu_hash: Option<u64>,
    /// DT_VERSYM.
    pub(crate) versions: Option<u64>,
    /// DT_SONAME, an offset into the strings.
    soname: Option<u64>,
    /// DT_TEXTREL, or DF_TEXTREL in DT_FLAGS: relocation is yet to change code.
    pub(crate) relocates_text: bool,
}

impl Dynamic {
    /// Reads the dynamic section up to its end or that of its segment.
    pub(super) fn read(map: &LinkMap, mapped: &Mapped) -> Option<Self> {
        const DF_TEXTREL: u64 = 4;
        let mut dynamic = Self::default();
        for index in 0..MAX_ENTRIES {
            let place = map.l_ld.checked_add(index * size_of::<Entry>() as u64)?;
            let entry: Entry = mapped.read(place)?;
            let field = match entry.d_tag {
                0 => return Some(dynamic),
                4 => &mut dynamic.hash,
                5 => &mut dynamic.strings,
                6 => &mut dynamic.symbols,
                10 => &mut dynamic.strings_length,
                14 => &mut dynamic.soname,
                22 => {
                    dynamic.relocates_text = true;
                    continue;
                }
                30 => {
                    dynamic.relocates_text |= entry.d_val & DF_TEXTREL != 0;
                    continue;
                }
                0x6fff_fef5 => &mut dynamic.gnu_hash,
                0x6fff_fff0 => &mut dynamic.versions,
                _ => continue,
            };
            let is_number = matches!(entry.d_tag, 10 | 14);
            let value = match is_number {
                true => entry.d_val,
                false => relocate(entry.d_val, map.l_addr),
            };
            field.get_or_insert(value);
        }
        None
    }

    /// DT_SONAME as a C string in the object; null when it has none.
    pub(super) fn soname(&self, mapped: &Mapped) -> *const u8 {
        let text = || {
            let offset = self.soname?;
            let rest = self.strings_length?.checked_sub(offset)?;
            let bytes = mapped.bytes(self.strings?.checked_add(offset)?, rest)?;
            (bytes.last() == Some(&0)).then_some(bytes.as_ptr())
        };
        text().unwrap_or(core::ptr::null())
    }
}

/// Some dynamic linkers (glibc) store absolute addresses into the section while they load an
/// object, others (musl) leave the link-time ones, which are below the bias.
fn relocate(value: u64, bias: u64) -> u64 {
    if value < bias {
        value.wrapping_add(bias)
    } else {
        value
    }
}
