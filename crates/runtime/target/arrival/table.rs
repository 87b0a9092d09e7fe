//! One symbol table with its strings, in memory that can be read (gABI, "Symbol Table").

use super::link_map::bytes_of;
use super::mapped::Plain;

/// Bytes of one entry.
pub(super) const SYMBOL_SIZE: usize = size_of::<RawSymbol>();

const SHN_ABS: u16 = 0xfff1;
/// The bit of a DT_VERSYM entry that says that new programs do not bind to the version.
const HIDDEN_VERSION: u16 = 0x8000;

/// Elf64_Sym.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawSymbol {
    st_name: u32,
    st_info: u8,
    st_other: u8,
    st_shndx: u16,
    st_value: u64,
    st_size: u64,
}

// SAFETY: integers without padding.
unsafe impl Plain for RawSymbol {}

/// What a symbol stands for (`st_info`, type).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// STT_FUNC, STT_OBJECT or STT_COMMON.
    Typed,
    /// STT_NOTYPE: assembly labels, linker-defined names.
    Untyped,
    /// STT_GNU_IFUNC: the address is that of the resolver.
    Ifunc,
    /// STT_TLS: the address is an offset.
    ThreadLocal,
}

/// One definition.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    name: *const u8,
    pub(super) kind: Kind,
    pub(super) address: u64,
    pub(super) size: u64,
    /// The address does not move with the object (SHN_ABS).
    absolute: bool,
    /// The version is not the default one (`versym` hidden bit, or a single `@`).
    pub(super) hidden: bool,
}

/// What a name asks for: `name`, or `name@version`.
pub(super) struct Wanted<'a> {
    base: &'a [u8],
    version: Option<&'a [u8]>,
}

impl<'a> Wanted<'a> {
    /// Takes a name apart at its first `@`, unless nothing comes before it.
    pub(super) fn parse(name: &'a [u8]) -> Self {
        let at = name.iter().position(|&byte| byte == b'@');
        match at.and_then(|at| name.split_at_checked(at)) {
            Some((base, mut version)) if !base.is_empty() => {
                while let [b'@', rest @ ..] = version {
                    version = rest;
                }
                Self {
                    base,
                    version: Some(version),
                }
            }
            _ => Self {
                base: name,
                version: None,
            },
        }
    }

    /// Whether the symbol has the version, where one is asked for.
    pub(super) fn takes(&self, symbol: &Symbol) -> bool {
        self.version.is_none() || symbol.version(self.base.len()) == self.version
    }
}

impl Symbol {
    /// It has a name and a place in the address space.
    pub(super) fn has_address(&self) -> bool {
        // SAFETY: every name in a table ends with a zero.
        let named = unsafe { self.name.read() } != 0;
        named && !self.absolute && self.kind != Kind::ThreadLocal
    }

    /// Its address is an offset into each thread's own storage.
    pub(super) fn is_offset(&self) -> bool {
        self.kind == Kind::ThreadLocal
    }

    /// Whether this is its name before the version.
    fn is_named(&self, base: &[u8]) -> bool {
        for (index, &byte) in base.iter().enumerate() {
            // SAFETY: every name in a table ends with a zero, and no byte of `base` is one, so
            // nothing behind the zero is looked at.
            if unsafe { self.name.add(index).read() } != byte {
                return false;
            }
        }
        // SAFETY: the bytes before were equal to those of `base`, none of which is a zero.
        let end = unsafe { self.name.add(base.len()).read() };
        match base.first() {
            None => false,
            Some(b'@') => end == 0,
            Some(_) => end == 0 || end == b'@',
        }
    }

    /// The version that its name spells out behind the first `length` bytes.
    fn version(&self, length: usize) -> Option<&[u8]> {
        // SAFETY: the name has at least `length` bytes before its zero: they were compared.
        let rest = unsafe { bytes_of(self.name.add(length)) }?;
        let version = rest.strip_prefix(b"@")?;
        Some(version.strip_prefix(b"@").unwrap_or(version))
    }

    /// Tells a default version (`name@@version`) from another (`name@version`).
    fn spells_hidden_version(&self, length: usize) -> bool {
        // SAFETY: as in `version`; what follows an `@` is still inside the name or its zero.
        unsafe {
            let end = self.name.add(length);
            end.read() == b'@' && end.add(1).read() != b'@'
        }
    }
}

/// A symbol table all of whose names are known to lie in its strings.
pub(super) struct Table {
    symbols: *const RawSymbol,
    count: usize,
    strings: *const u8,
    /// DT_VERSYM, or null.
    versions: *const u16,
    bias: u64,
}

impl Table {
    /// A table without symbols.
    pub(super) const EMPTY: Self = Self {
        symbols: core::ptr::null(),
        count: 0,
        strings: core::ptr::null(),
        versions: core::ptr::null(),
        bias: 0,
    };

    /// The table of `symbols` with names in `strings`; `None` when a name leaves them.
    ///
    /// # Safety
    /// The bytes stay as they are while the table is used. `versions` is null or the first of as
    /// many halfwords as there are symbols.
    pub(super) unsafe fn new(
        symbols: &[u8],
        strings: &[u8],
        versions: *const u16,
        bias: u64,
    ) -> Option<Self> {
        let table = Self {
            symbols: symbols.as_ptr().cast(),
            count: symbols.len() / SYMBOL_SIZE,
            strings: strings.as_ptr(),
            versions,
            bias,
        };
        let inside = |raw: RawSymbol| (raw.st_name as usize) < strings.len();
        let ended = strings.last() == Some(&0);
        (ended && table.entries().all(|(_, raw)| inside(raw))).then_some(table)
    }

    /// The definitions called `base`, in table order.
    pub(super) fn named(&self, base: &[u8]) -> impl Iterator<Item = Symbol> {
        let named = self.definitions().filter(|symbol| symbol.is_named(base));
        named.map(|mut symbol| {
            symbol.hidden |= symbol.spells_hidden_version(base.len());
            symbol
        })
    }

    /// The definitions that [`Wanted`] names, whatever their version.
    pub(super) fn wanted(&self, wanted: &Wanted<'_>) -> impl Iterator<Item = Symbol> {
        self.named(wanted.base)
    }

    /// All definitions in table order. Sections, source files and unknown types are none.
    pub(super) fn definitions(&self) -> impl Iterator<Item = Symbol> {
        self.entries()
            .filter_map(|(index, raw)| self.decode(index, &raw))
    }

    /// The entries but for the first, which is reserved.
    fn entries(&self) -> impl Iterator<Item = (usize, RawSymbol)> {
        let first = self.symbols;
        // SAFETY: the table has `count` entries; they may begin anywhere.
        (1..self.count).map(move |index| (index, unsafe { first.add(index).read_unaligned() }))
    }

    fn decode(&self, index: usize, raw: &RawSymbol) -> Option<Symbol> {
        let kind = match raw.st_info & 0xf {
            1 | 2 | 5 => Kind::Typed,
            0 => Kind::Untyped,
            6 => Kind::ThreadLocal,
            10 => Kind::Ifunc,
            _ => return None,
        };
        let absolute = raw.st_shndx == SHN_ABS;
        let moves = !absolute && kind != Kind::ThreadLocal;
        (raw.st_shndx != 0).then(|| Symbol {
            // SAFETY: `new` has made sure that the name begins inside the strings.
            name: unsafe { self.strings.add(raw.st_name as usize) },
            kind,
            address: raw.st_value.wrapping_add(if moves { self.bias } else { 0 }),
            size: raw.st_size,
            absolute,
            hidden: self.is_hidden(index),
        })
    }

    fn is_hidden(&self, index: usize) -> bool {
        // SAFETY: not null, so there is a halfword for each symbol.
        !self.versions.is_null()
            && unsafe { self.versions.add(index).read_unaligned() } & HIDDEN_VERSION != 0
    }
}
