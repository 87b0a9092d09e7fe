//! One symbol (gABI, "Symbol Table").

use std::fmt;
use std::sync::Arc;

use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::read::elf::Sym;

/// What a symbol stands for (`st_info`, type).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SymbolKind {
    /// STT_FUNC.
    Function,
    /// STT_OBJECT or STT_COMMON.
    Object,
    /// STT_GNU_IFUNC: the address is that of the resolver.
    Ifunc,
    /// STT_TLS: the address is an offset into the object's TLS segment.
    Tls,
    /// STT_NOTYPE: assembly labels, linker-defined names.
    Untyped,
}

impl fmt::Display for SymbolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Function => "function",
            Self::Object => "object",
            Self::Ifunc => "ifunc",
            Self::Tls => "thread-local variable",
            Self::Untyped => "label",
        })
    }
}

/// Linkage of a symbol (`st_info`, binding).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// Visible in its source file only.
    Local,
    /// Visible everywhere, also STB_GNU_UNIQUE.
    Global,
    /// Visible everywhere, overridable.
    Weak,
}

/// One symbol of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Name without version.
    pub name: Box<str>,
    /// Version, where the symbol table spells it out (`name@version`).
    pub version: Option<Box<str>>,
    /// The version is not the default one (`versym` hidden bit, or a single `@`): new
    /// programs do not bind to it.
    pub hidden_version: bool,
    /// Absolute address in an [`crate::Image`] or [`crate::SymbolTable`], link-time address
    /// in a [`crate::SymbolFile`]; an offset for [`SymbolKind::Tls`]. Of a function that is not
    /// defined: the entry in the procedure linkage table that stands for it in comparisons
    /// (psABI, "Function Addresses"), or 0.
    pub address: u64,
    /// `st_size` in bytes, 0 when unknown.
    pub size: u64,
    /// What it stands for.
    pub kind: SymbolKind,
    /// Its linkage.
    pub binding: Binding,
    /// The object defines it (`st_shndx` is not SHN_UNDEF).
    pub defined: bool,
    /// The address does not move with the object (SHN_ABS).
    pub absolute: bool,
    /// Source file (STT_FILE) of a local symbol, where recorded.
    pub source_file: Option<Arc<str>>,
}

impl Symbol {
    /// Decodes `raw`; `None` for STT_SECTION, STT_FILE and unknown types.
    pub(crate) fn decode(raw: &Sym64<LE>, name: &[u8]) -> Option<Self> {
        let kind = match raw.st_type() {
            elf::STT_FUNC => SymbolKind::Function,
            elf::STT_OBJECT | elf::STT_COMMON => SymbolKind::Object,
            elf::STT_GNU_IFUNC => SymbolKind::Ifunc,
            elf::STT_TLS => SymbolKind::Tls,
            elf::STT_NOTYPE => SymbolKind::Untyped,
            _ => return None,
        };
        let binding = match raw.st_bind() {
            elf::STB_LOCAL => Binding::Local,
            elf::STB_WEAK => Binding::Weak,
            _ => Binding::Global,
        };
        let text = String::from_utf8_lossy(name);
        let (name, version, hidden_version) = split_version(&text);
        Some(Self {
            name: name.into(),
            version: version.map(Into::into),
            hidden_version,
            address: raw.st_value.get(LE),
            size: raw.st_size.get(LE),
            kind,
            binding,
            defined: raw.st_shndx(LE) != elf::SHN_UNDEF,
            absolute: raw.st_shndx(LE) == elf::SHN_ABS,
            source_file: None,
        })
    }

    /// Moves a link-time address by the load bias.
    pub(crate) fn relocate(&mut self, bias: u64) {
        let placed = self.defined || self.address != 0;
        if placed && !self.absolute && self.kind != SymbolKind::Tls {
            self.address = self.address.wrapping_add(bias);
        }
    }

    /// A definition that has a place in the address space.
    pub(crate) fn has_address(&self) -> bool {
        self.defined && !self.absolute && self.kind != SymbolKind::Tls
    }

    /// Code: a function or the resolver of an ifunc.
    #[must_use]
    pub fn is_function(&self) -> bool {
        matches!(self.kind, SymbolKind::Function | SymbolKind::Ifunc)
    }
}

fn split_version(name: &str) -> (&str, Option<&str>, bool) {
    match name.split_once('@') {
        Some((base, version)) if !base.is_empty() => match version.strip_prefix('@') {
            Some(version) => (base, Some(version), false),
            None => (base, Some(version), true),
        },
        _ => (name, None, false),
    }
}

/// Bounds the bytes that names may take together, since hostile symbols can all share one
/// long string.
pub(crate) struct NameBudget(usize);

impl NameBudget {
    /// Room for `symbols` names out of a string table of `strings` bytes.
    pub(crate) fn new(symbols: usize, strings: usize) -> Self {
        Self(symbols.saturating_mul(256).saturating_add(strings))
    }

    /// Takes the room for one name; `None` when it is used up.
    pub(crate) fn take(&mut self, name: &[u8]) -> Option<()> {
        self.0 = self.0.checked_sub(name.len())?;
        Some(())
    }
}

/// The zero-terminated string at `offset`.
pub(crate) fn string_at(strings: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = strings.get(offset..)?;
    let length = rest.iter().position(|&byte| byte == 0)?;
    Some(&rest[..length])
}
