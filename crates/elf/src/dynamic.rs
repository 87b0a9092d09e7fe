//! The dynamic section and the tables it leads to (gABI, "Dynamic Section").

use object::LittleEndian as LE;
use object::elf::{self, Dyn64, Rela64, Sym64};

use crate::image::{Mapped, decode};
use crate::symbol::{NameBudget, string_at};
use crate::{ImageErrorKind, Symbol};

use ImageErrorKind::Malformed;

const MAX_ENTRIES: u64 = 4096;
const MAX_SYMBOLS: u32 = 1 << 22;
const MAX_STRINGS: u64 = 1 << 28;
const MAX_RELOCATIONS: u64 = 1 << 24;
const SYMBOL_SIZE: u64 = size_of::<Sym64<LE>>() as u64;
const RELOCATION_SIZE: u64 = size_of::<Rela64<LE>>() as u64;
const HIDDEN_VERSION: u16 = 0x8000;

/// Place of a table of Elf64_Rela entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelocationTable {
    /// Address of the first entry.
    pub address: u64,
    /// Number of entries.
    pub count: u64,
    /// DT_JMPREL: these may be applied lazily.
    pub jump_slots: bool,
}

/// One entry of a relocation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DynamicRelocation {
    /// Address that is relocated, absolute.
    pub address: u64,
    /// `R_X86_64_*`.
    pub kind: u32,
    /// Index into [`crate::Image::dynamic_symbols`]; `None` without a symbol.
    pub symbol: Option<u32>,
    /// Addend.
    pub addend: i64,
}

/// What the dynamic section says.
#[derive(Default)]
pub(crate) struct Dynamic {
    pub(crate) soname: Option<String>,
    pub(crate) needed: Vec<String>,
    pub(crate) debug: Option<u64>,
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) relocation_tables: Vec<RelocationTable>,
}

impl Dynamic {
    pub(crate) fn read(
        mapped: &Mapped<'_>,
        address: u64,
        length: u64,
    ) -> Result<Self, ImageErrorKind> {
        let entries = Entries::read(mapped, address, length)?;
        let relocation_tables = entries.relocation_tables(mapped)?;
        let strings = entries.strings(mapped)?;
        let text = |offset: u64| {
            usize::try_from(offset)
                .ok()
                .and_then(|offset| string_at(&strings, offset))
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                .ok_or(Malformed("a name lies outside the dynamic string table"))
        };
        Ok(Self {
            soname: entries.value(elf::DT_SONAME).map(text).transpose()?,
            needed: entries
                .values(elf::DT_NEEDED)
                .map(text)
                .collect::<Result<_, _>>()?,
            debug: entries.value(elf::DT_DEBUG),
            symbols: read_symbols(mapped, &entries, &strings, &relocation_tables)?,
            relocation_tables,
        })
    }
}

struct Entries(Vec<(i64, u64)>);

impl Entries {
    fn read(mapped: &Mapped<'_>, address: u64, length: u64) -> Result<Self, ImageErrorKind> {
        let size = size_of::<Dyn64<LE>>();
        if length > MAX_ENTRIES * size as u64 {
            return Err(Malformed("size of the dynamic section"));
        }
        let bytes = mapped.read(address, length)?;
        let entries = bytes
            .chunks_exact(size)
            .map(decode::<Dyn64<LE>>)
            .map(|entry| (entry.d_tag.get(LE).0, entry.d_val.get(LE)))
            .take_while(|(tag, _)| *tag != elf::DT_NULL.0);
        Ok(Self(entries.collect()))
    }

    fn values(&self, tag: elf::DynamicTag) -> impl Iterator<Item = u64> {
        let wanted = move |entry: &&(i64, u64)| entry.0 == tag.0;
        self.0.iter().filter(wanted).map(|entry| entry.1)
    }

    fn value(&self, tag: elf::DynamicTag) -> Option<u64> {
        self.values(tag).next()
    }

    /// The absolute address of a table. Some dynamic linkers (glibc) store absolute addresses
    /// into the section, others (musl, the kernel for the vDSO) leave the link-time ones.
    fn address(
        &self,
        mapped: &Mapped<'_>,
        tag: elf::DynamicTag,
    ) -> Result<Option<u64>, ImageErrorKind> {
        let Some(value) = self.value(tag) else {
            return Ok(None);
        };
        let relocated = value.wrapping_add(mapped.bias);
        match (mapped.remaining(value) > 0, mapped.remaining(relocated) > 0) {
            (true, true) if mapped.bias != 0 => Err(Malformed(
                "a dynamic entry can be read as absolute and as relative",
            )),
            (true, _) => Ok(Some(value)),
            (false, true) => Ok(Some(relocated)),
            (false, false) => Err(Malformed("a dynamic entry leads outside the object")),
        }
    }

    fn strings(&self, mapped: &Mapped<'_>) -> Result<Vec<u8>, ImageErrorKind> {
        let Some(address) = self.address(mapped, elf::DT_STRTAB)? else {
            return Ok(Vec::new());
        };
        let length = self
            .value(elf::DT_STRSZ)
            .filter(|length| *length <= MAX_STRINGS)
            .ok_or(Malformed("size of the dynamic string table"))?;
        mapped.read(address, length)
    }

    fn relocation_tables(
        &self,
        mapped: &Mapped<'_>,
    ) -> Result<Vec<RelocationTable>, ImageErrorKind> {
        let mut tables = Vec::new();
        if self
            .value(elf::DT_PLTREL)
            .is_some_and(|kind| kind != elf::DT_RELA.0.cast_unsigned())
        {
            return Err(Malformed("jump slot relocations without addends"));
        }
        for (start, size, jump_slots) in [
            (elf::DT_RELA, elf::DT_RELASZ, false),
            (elf::DT_JMPREL, elf::DT_PLTRELSZ, true),
        ] {
            let length = self.value(size).unwrap_or(0);
            if length == 0 {
                continue;
            }
            let address = self
                .address(mapped, start)?
                .ok_or(Malformed("size of a relocation table without its address"))?;
            let count = length / RELOCATION_SIZE;
            if count > MAX_RELOCATIONS || length > mapped.remaining(address) {
                return Err(Malformed("size of a relocation table"));
            }
            tables.push(RelocationTable {
                address,
                count,
                jump_slots,
            });
        }
        Ok(tables)
    }
}

pub(crate) fn read_relocations(
    mapped: &Mapped<'_>,
    tables: &[RelocationTable],
) -> Result<Vec<DynamicRelocation>, ImageErrorKind> {
    let mut relocations = Vec::new();
    for table in tables {
        let length = table
            .count
            .checked_mul(RELOCATION_SIZE)
            .ok_or(Malformed("size of a relocation table"))?;
        let bytes = mapped.read(table.address, length)?;
        relocations.extend(bytes.chunks_exact(RELOCATION_SIZE as usize).map(|chunk| {
            let raw: Rela64<LE> = decode(chunk);
            let info = raw.r_info.get(LE);
            let symbol = (info >> 32) as u32;
            DynamicRelocation {
                address: raw.r_offset.get(LE).wrapping_add(mapped.bias),
                kind: info as u32,
                symbol: (symbol != 0).then_some(symbol),
                addend: raw.r_addend.get(LE),
            }
        }));
    }
    Ok(relocations)
}

fn read_symbols(
    mapped: &Mapped<'_>,
    entries: &Entries,
    strings: &[u8],
    relocation_tables: &[RelocationTable],
) -> Result<Vec<Symbol>, ImageErrorKind> {
    let Some(table) = entries.address(mapped, elf::DT_SYMTAB)? else {
        return Ok(Vec::new());
    };
    let count = count_symbols(mapped, entries, relocation_tables)?;
    if count > MAX_SYMBOLS {
        return Err(Malformed("number of dynamic symbols"));
    }
    let bytes = mapped.read(table, u64::from(count) * SYMBOL_SIZE)?;
    let versions = match entries.address(mapped, elf::DT_VERSYM)? {
        Some(address) => mapped.read(address, u64::from(count) * 2)?,
        None => Vec::new(),
    };
    let mut budget = NameBudget::new(count as usize, strings.len());
    let mut symbols = Vec::with_capacity(count as usize);
    for (index, chunk) in bytes.chunks_exact(SYMBOL_SIZE as usize).enumerate() {
        let raw: Sym64<LE> = decode(chunk);
        let name = string_at(strings, raw.st_name.get(LE) as usize).ok_or(Malformed(
            "a symbol's name lies outside the dynamic string table",
        ))?;
        budget
            .take(name)
            .ok_or(Malformed("the names of symbols are too long"))?;
        let mut symbol = Symbol::decode(&raw, name).unwrap_or_else(placeholder);
        symbol.hidden_version |= versions
            .get(index * 2..index * 2 + 2)
            .is_some_and(|v| u16::from_le_bytes([v[0], v[1]]) & HIDDEN_VERSION != 0);
        symbol.relocate(mapped.bias);
        symbols.push(symbol);
    }
    Ok(symbols)
}

/// Keeps the indexes of the others right where a symbol is of a kind without meaning here.
fn placeholder() -> Symbol {
    Symbol::decode(&decode(&[0; SYMBOL_SIZE as usize]), b"").expect("a null symbol is untyped")
}

/// No entry of the dynamic section says how many symbols there are; the hash tables imply it.
fn count_symbols(
    mapped: &Mapped<'_>,
    entries: &Entries,
    relocation_tables: &[RelocationTable],
) -> Result<u32, ImageErrorKind> {
    if let Some(address) = entries.address(mapped, elf::DT_HASH)? {
        return read_word(mapped, address.saturating_add(4));
    }
    let hashed = match entries.address(mapped, elf::DT_GNU_HASH)? {
        Some(address) => count_gnu_hash(mapped, address)?,
        None => 0,
    };
    if hashed > 0 {
        return Ok(hashed);
    }
    // Nothing is exported, so only relocations know how many symbols are imported.
    let relocations = read_relocations(mapped, relocation_tables)?;
    let highest = relocations.iter().filter_map(|r| r.symbol).max();
    Ok(highest.map_or(1, |index| index.saturating_add(1)))
}

/// One more than the index of the last symbol in a DT_GNU_HASH table; 0 when it is empty.
fn count_gnu_hash(mapped: &Mapped<'_>, address: u64) -> Result<u32, ImageErrorKind> {
    let buckets = read_word(mapped, address)?;
    let first_symbol = read_word(mapped, address.saturating_add(4))?;
    let bloom_words = read_word(mapped, address.saturating_add(8))?;
    let start = address.saturating_add(16 + u64::from(bloom_words) * 8);
    let chains = start.saturating_add(u64::from(buckets) * 4);
    let bytes = mapped.read(start, u64::from(buckets) * 4)?;
    let words = bytes.chunks_exact(4).map(decode_word);
    let Some(last) = words.max().filter(|last| *last != 0) else {
        return Ok(0);
    };
    let mut index = last;
    let mut position = last
        .checked_sub(first_symbol)
        .map(|step| chains.saturating_add(u64::from(step) * 4))
        .ok_or(Malformed("a bucket of the hash table"))?;
    // The lowest bit marks the end of a chain; reading in pieces keeps long chains cheap.
    while index < MAX_SYMBOLS {
        let length = mapped.remaining(position).min(1024) & !3;
        if length == 0 {
            break;
        }
        for word in mapped.read(position, length)?.chunks_exact(4) {
            index += 1;
            if decode_word(word) & 1 != 0 {
                return Ok(index);
            }
        }
        position += length;
    }
    Err(Malformed("a chain of the hash table does not end"))
}

fn read_word(mapped: &Mapped<'_>, address: u64) -> Result<u32, ImageErrorKind> {
    Ok(decode_word(&mapped.read(address, 4)?))
}

fn decode_word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
