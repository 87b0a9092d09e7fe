//! `.dynsym` of a mapped object.

use super::link_map::Dynamic;
use super::mapped::Mapped;
use super::table::{SYMBOL_SIZE, Table};

const MAX_SYMBOLS: u32 = 1 << 22;

/// The dynamic symbol table; an empty one for an object without, `None` when it is damaged.
///
/// # Safety
/// The object stays mapped while the table is used.
pub(super) unsafe fn read_exported(mapped: &Mapped, dynamic: &Dynamic) -> Option<Table> {
    let Some(symbols) = dynamic.symbols else {
        return Some(Table::EMPTY);
    };
    let count = u64::from(count_symbols(mapped, dynamic)?);
    if count == 0 {
        return Some(Table::EMPTY);
    }
    let symbols = mapped.bytes(symbols, count * SYMBOL_SIZE as u64)?;
    let strings = mapped.bytes(dynamic.strings?, dynamic.strings_length?)?;
    let versions = match dynamic.versions {
        Some(address) => mapped.bytes(address, count * 2)?.as_ptr(),
        None => core::ptr::null(),
    };
    // SAFETY: the caller's contract; there are two bytes for each symbol where there are any.
    unsafe { Table::new(symbols, strings, versions.cast(), mapped.bias) }
}

/// No entry of the dynamic section says how many symbols there are; the hash tables imply it.
fn count_symbols(mapped: &Mapped, dynamic: &Dynamic) -> Option<u32> {
    let count = match (dynamic.hash, dynamic.gnu_hash) {
        // gABI, "Hash Table": nbucket, then nchain, which is the number of symbols.
        (Some(address), _) => mapped.read(address.checked_add(4)?)?,
        (None, Some(address)) => count_gnu_hash(mapped, address)?,
        // Nothing is exported.
        (None, None) => 0,
    };
    (count <= MAX_SYMBOLS).then_some(count)
}

/// One more than the index of the last symbol in a DT_GNU_HASH table; 0 when it is empty. The
/// table: numbers of buckets, of symbols left out and of 8-byte Bloom filter words, a shift, the
/// filter, the first symbol of each bucket, and a word for each symbol with a bit in the last of
/// a bucket.
fn count_gnu_hash(mapped: &Mapped, address: u64) -> Option<u32> {
    let word = |address: u64, index: u64| mapped.read::<u32>(address.checked_add(index * 4)?);
    let buckets = u64::from(word(address, 0)?);
    let first_symbol = word(address, 1)?;
    let filter = u64::from(word(address, 2)?);
    let start = address.checked_add(16 + filter * 8)?;
    let mut last = 0;
    for index in 0..buckets {
        last = last.max(word(start, index)?);
    }
    if last == 0 {
        return Some(0);
    }
    let chains = start.checked_add(buckets * 4)?;
    for index in last..MAX_SYMBOLS {
        let step = index.checked_sub(first_symbol)?;
        if word(chains, u64::from(step))? & 1 != 0 {
            return Some(index + 1);
        }
    }
    None
}
