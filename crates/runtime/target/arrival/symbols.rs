//! Finds functions and data of an object that was just mapped, by the rules that the tool has
//! for objects that it meets (`SymbolTable` in the crate `elf`): the two must mean the same.
//!
//! The definitions of a name are those of the file's `.symtab` in table order, whatever their
//! binding, and behind them those of `.dynsym` that no entry of `.symtab` repeats with the same
//! name and address. Typed symbols hide labels, then default versions hide others.

use super::exported::read_exported;
use super::link_map::{Dynamic, LinkMap, bytes_of};
use super::mapped::Mapped;
use super::symbol_file::SymbolFile;
use super::table::{Kind, Symbol, Table, Wanted};

/// A definition that lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// First byte.
    pub(crate) address: u64,
    /// Bytes, 0 where the symbol does not say.
    pub(crate) size: u64,
}

/// Why a definition was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Nothing has the name.
    NotFound,
    /// The position is 0, and the name means several addresses.
    Ambiguous,
    /// Fewer definitions have the name.
    PositionNotFound,
    /// It is a function, but its symbol does not say how long it is.
    NoSize,
    /// What is called is one of several implementations.
    Ifunc,
    /// It is not in an executable segment.
    NotCode,
    /// Each thread has its own.
    ThreadLocal,
    /// It does not end inside the object.
    Unreadable,
}

/// Symbols of one object. Those of its file are copied into memory that belongs to this.
pub(crate) struct Symbols {
    mapped: Mapped,
    dynamic: Dynamic,
    exported: Table,
    file: Option<SymbolFile>,
}

impl Symbols {
    /// Reads the symbols of a shared object: from memory, and from its file if that is still the
    /// one that is mapped. `None` when the object's headers or tables cannot be trusted.
    ///
    /// # Safety
    /// The dynamic linker has mapped the object, and nobody unmaps it or writes to its symbols
    /// while the result is used.
    pub(crate) unsafe fn open(map: &LinkMap) -> Option<Self> {
        // SAFETY: the caller's contract.
        let mut symbols = unsafe { Self::open_exported(map) }?;
        // SAFETY: as above.
        symbols.file = unsafe { SymbolFile::read(map, &symbols.mapped) };
        Some(symbols)
    }

    /// As [`Symbols::open`], but from memory only: to ask for the soname.
    ///
    /// # Safety
    /// As for [`Symbols::open`].
    pub(crate) unsafe fn open_exported(map: &LinkMap) -> Option<Self> {
        // SAFETY: the caller's contract.
        let mapped = unsafe { Mapped::of(map) }?;
        let dynamic = Dynamic::read(map, &mapped)?;
        Some(Self {
            // SAFETY: the caller's contract.
            exported: unsafe { read_exported(&mapped, &dynamic) }?,
            mapped,
            dynamic,
            file: None,
        })
    }

    /// DT_SONAME as a C string inside the object, or null.
    pub(crate) fn soname(&self) -> *const u8 {
        self.dynamic.soname(&self.mapped)
    }

    /// Relocation is yet to change the object's code (DT_TEXTREL, DF_TEXTREL).
    pub(crate) fn relocates_text(&self) -> bool {
        self.dynamic.relocates_text
    }

    /// The file has a `.symtab`: local symbols are known, and positions mean what they mean in
    /// the file. Without, they count exported symbols only.
    pub(crate) fn is_complete(&self) -> bool {
        self.file.is_some()
    }

    /// The function meant by a name and a position: with 0 it must be the only one (several
    /// entries for one address count as one), with N it is the N-th of the name's definitions.
    ///
    /// # Safety
    /// `name` is a C string.
    pub(crate) unsafe fn find_function(
        &self,
        name: *const u8,
        position: u64,
    ) -> Result<Place, Missing> {
        // SAFETY: the caller's contract.
        let symbol = unsafe { self.resolve(name, position) }?;
        if symbol.kind == Kind::Ifunc {
            return Err(Missing::Ifunc);
        }
        if symbol.kind == Kind::ThreadLocal || !self.mapped.is_code(symbol.address) {
            return Err(Missing::NotCode);
        }
        if symbol.size == 0 {
            return Err(Missing::NoSize);
        }
        let end = symbol.address.checked_add(symbol.size);
        let inside = end.is_some_and(|end| Some(end) <= self.mapped.segment_end(symbol.address));
        inside.then_some(place(&symbol)).ok_or(Missing::Unreadable)
    }

    /// The function or variable meant by a name and a position, which count as for
    /// [`Symbols::find_function`].
    ///
    /// # Safety
    /// `name` is a C string.
    pub(crate) unsafe fn find(&self, name: *const u8, position: u64) -> Result<Place, Missing> {
        // SAFETY: the caller's contract.
        let symbol = unsafe { self.resolve(name, position) }?;
        match symbol.kind {
            Kind::Ifunc => Err(Missing::Ifunc),
            Kind::ThreadLocal => Err(Missing::ThreadLocal),
            Kind::Typed | Kind::Untyped => Ok(place(&symbol)),
        }
    }

    /// The lowest address above `address` at which a symbol starts, or where the segment that
    /// `address` lies in ends before that; `address` itself outside all segments.
    pub(crate) fn next_after(&self, address: u64) -> u64 {
        let Some(end) = self.mapped.segment_end(address) else {
            return address;
        };
        let starts = self
            .local()
            .definitions()
            .chain(self.exported.definitions());
        starts
            .filter(|symbol| symbol.address > address && symbol.has_address())
            .fold(end, |next, symbol| next.min(symbol.address))
    }

    /// # Safety
    /// `name` is a C string or null.
    unsafe fn resolve(&self, name: *const u8, position: u64) -> Result<Symbol, Missing> {
        // SAFETY: the caller's contract.
        let wanted = Wanted::parse(unsafe { bytes_of(name) }.unwrap_or_default());
        let all = || self.definitions(&wanted);
        // Tables are long, and names mostly unique: then this is the only look at them.
        let known = all().fold(Survey::default(), Survey::with);
        let mut found = all().filter(|symbol| known.prefers(symbol));
        let first = match known.only {
            Some(only) => only,
            None => found.next().ok_or(Missing::NotFound)?,
        };
        match position {
            0 | 1 if known.only.is_some() => Ok(first),
            _ if known.only.is_some() => Err(Missing::PositionNotFound),
            0 => {
                let same = |symbol: Symbol| {
                    symbol.address == first.address && symbol.is_offset() == first.is_offset()
                };
                found.all(same).then_some(first).ok_or(Missing::Ambiguous)
            }
            1 => Ok(first),
            _ => usize::try_from(position - 2)
                .ok()
                .and_then(|index| found.nth(index))
                .ok_or(Missing::PositionNotFound),
        }
    }

    /// The definitions of a name: those of the file, then what only memory has.
    fn definitions(&self, wanted: &Wanted<'_>) -> impl Iterator<Item = Symbol> {
        let only_here = |symbol: &Symbol| {
            let mut known = self.local().wanted(wanted);
            !known.any(|known| known.address == symbol.address)
        };
        let exported = self.exported.wanted(wanted).filter(only_here);
        let all = self.local().wanted(wanted).chain(exported);
        all.filter(|symbol| wanted.takes(symbol))
    }

    /// The bytes at `address`, if all of them can be read.
    pub(crate) fn bytes(&self, address: u64, length: u64) -> Option<&[u8]> {
        self.mapped.bytes(address, length)
    }

    /// The protection (mmap(2)) of the segment that `address` lies in.
    pub(crate) fn protection(&self, address: u64) -> Option<u64> {
        self.mapped.protection(address)
    }

    /// First byte of the object and the one behind its last.
    pub(crate) fn range(&self) -> (u64, u64) {
        self.mapped.range()
    }

    /// Tells the object's file from others ([`engraft_abi::identify`]); 0 without a build-id.
    pub(crate) fn identity(&self) -> u64 {
        self.mapped.build_id().map_or(0, engraft_abi::identify)
    }

    /// Whether bytes can be read, for [`super::linker`].
    pub(crate) fn holds(&self, address: u64, length: u64) -> bool {
        self.mapped.remaining(address) >= length
    }

    fn local(&self) -> &Table {
        self.file.as_ref().map_or(&Table::EMPTY, SymbolFile::table)
    }
}

/// What there is among the definitions of a name.
#[derive(Default)]
struct Survey {
    any: bool,
    /// The definition, while there is one.
    only: Option<Symbol>,
    typed: bool,
    default_version: bool,
    typed_default_version: bool,
}

impl Survey {
    fn with(self, symbol: Symbol) -> Self {
        let typed = symbol.kind != Kind::Untyped;
        Self {
            any: true,
            only: (!self.any).then_some(symbol),
            typed: self.typed || typed,
            default_version: self.default_version || !symbol.hidden,
            typed_default_version: self.typed_default_version || (typed && !symbol.hidden),
        }
    }

    /// Typed symbols hide labels; then default versions hide others.
    fn prefers(&self, symbol: &Symbol) -> bool {
        let default_only = match self.typed {
            true => self.typed_default_version,
            false => self.default_version,
        };
        (!self.typed || symbol.kind != Kind::Untyped) && (!default_only || !symbol.hidden)
    }
}

fn place(symbol: &Symbol) -> Place {
    Place {
        address: symbol.address,
        size: symbol.size,
    }
}
