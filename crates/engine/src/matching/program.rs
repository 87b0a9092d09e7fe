//! The running side: code and data of one object as they are in memory, and what PLT entries
//! and GOT slots lead to.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use engraft_arch::decode::{is_lazy_binding, plt_slot};
use engraft_elf::{DynamicRelocation, Symbol, SymbolKind};
use engraft_module::PreSymbol;
use engraft_unwind::{Cfi, ExceptionHandling, Place};
use nix::errno::Errno;

use super::names::Stems;
use super::reason::Reason;
use crate::attached::Attached;
use crate::bind::{find_exported, link_order};
use crate::error::Error;
use crate::objects::{LoadedObject, Objects};
use crate::redirect::{Entry, Text};
use crate::space::Span;

const R_X86_64_64: u32 = 1;
const R_X86_64_GLOB_DAT: u32 = 6;
const R_X86_64_JUMP_SLOT: u32 = 7;
const R_X86_64_DTPMOD64: u32 = 16;
const R_X86_64_DTPOFF64: u32 = 17;
const R_X86_64_TPOFF64: u32 = 18;
const R_X86_64_TLSDESC: u32 = 36;
const R_X86_64_IRELATIVE: u32 = 37;

/// Room for the numbers of a table that is hardly more than its header.
const SHORTEST_TABLE: usize = 64;

/// PLT entries that may lead to one another.
const MAX_ENTRIES: usize = 4;

/// What a symbol was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A function or variable at this address.
    Address(u64),
    /// A function that the resolver at this address chooses.
    Ifunc(u64),
    /// A thread-local variable at this distance from the thread pointer.
    Tls(i64),
    /// A thread-local variable at this distance from the start of the block of the object
    /// whose ELF header is at this address.
    TlsBlock(u64, i64),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address:#x}"),
            Self::Ifunc(resolver) => write!(f, "what the resolver at {resolver:#x} chooses"),
            Self::Tls(offset) => write!(f, "{offset} bytes from the thread pointer"),
            Self::TlsBlock(_, offset) => write!(f, "{offset} bytes into the thread-local storage"),
        }
    }
}

/// A use of a symbol, followed to what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) found: Found,
    /// The dynamic linker has bound it by name: it may lie in another object.
    pub(super) by_name: bool,
    /// The PLT entry that the program uses as the function's address.
    pub(super) canonical: Option<u64>,
}

impl Binding {
    pub(super) fn direct(found: Found) -> Self {
        Self {
            found,
            by_name: false,
            canonical: None,
        }
    }

    fn by_name(found: Found) -> Self {
        Self {
            found,
            by_name: true,
            canonical: None,
        }
    }
}

/// What exceptions do in a function of the program.
pub(super) struct RunningTable {
    pub(super) address: u64,
    /// Its bytes, and some that follow.
    pub(super) bytes: Vec<u8>,
    pub(super) personality: Option<Place>,
}

/// One object of the running program.
pub(super) struct Program<'a> {
    pub(super) process: &'a Attached,
    pub(super) objects: &'a Objects,
    pub(super) object: &'a LoadedObject,
    text: Text,
    cfi: Option<Arc<Cfi>>,
    /// By the address that is relocated.
    relocations: HashMap<u64, DynamicRelocation>,
    stems: OnceCell<Stems>,
    gaps: OnceCell<Vec<Range<u64>>>,
}

impl<'a> Program<'a> {
    pub(super) fn read(
        process: &'a Attached,
        objects: &'a Objects,
        object: &'a LoadedObject,
        redirected: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Self, Error> {
        let relocations = object
            .image
            .read_relocations(&process.memory)
            .map_err(|error| {
                let context = format!("relocations of {}", object.name);
                Error::other(context, Errno::EFAULT, error.to_string())
            })?;
        Ok(Self {
            process,
            objects,
            object,
            text: Text::of_object(process, object, redirected)?,
            cfi: object.cfi(&process.memory, &process.maps()?),
            relocations: relocations
                .into_iter()
                .map(|relocation| (relocation.address, relocation))
                .collect(),
            stems: OnceCell::new(),
            gaps: OnceCell::new(),
        })
    }

    /// The object's code from an address on.
    pub(super) fn code_from(&self, address: u64) -> Option<&[u8]> {
        self.text.bytes_from(address)
    }

    /// Where functions are known to start, sorted, with their lengths.
    pub(super) fn functions(&self) -> &[Span] {
        self.text.functions()
    }

    /// Code that may hold functions which nothing describes.
    pub(super) fn gaps(&self) -> &[Range<u64>] {
        self.gaps.get_or_init(|| self.text.gaps())
    }

    /// The object's symbols by the part of their names that does not change between builds.
    pub(super) fn stems(&self) -> &Stems {
        self.stems
            .get_or_init(|| Stems::new(self.object.symbols().symbols()))
    }

    /// Bytes of data, in whichever object they lie.
    pub(super) fn read_data(&self, address: u64, length: usize) -> Result<Vec<u8>, Reason> {
        let mut bytes = vec![0; length];
        self.process
            .memory
            .read_bytes(address, &mut bytes)
            .map_err(|_| Reason::Unreadable(address))?;
        Ok(bytes)
    }

    /// The exception table of the function that starts at an address, which is about as long
    /// as `length`.
    pub(super) fn exception_table(
        &self,
        address: u64,
        length: usize,
    ) -> Result<Option<RunningTable>, Reason> {
        let Some(cfi) = &self.cfi else {
            return Ok(None);
        };
        let found = cfi.exception_handling(address);
        let Some(found) = found.map_err(|_| Reason::Unreadable(address))? else {
            return Ok(None);
        };
        let ExceptionHandling { start, table, .. } = found;
        if start != address {
            return Err(Reason::Inside { address, start });
        }
        let mut segments = self.object.image.segments.iter();
        let rest = segments.find_map(|segment| {
            let distance = table.checked_sub(segment.address)?;
            segment.size.checked_sub(distance)
        });
        // Offsets take more room where jumps are longer.
        let length = (2 * length + SHORTEST_TABLE) as u64;
        let length = length.min(rest.ok_or(Reason::Unreadable(table))?);
        Ok(Some(RunningTable {
            address: table,
            bytes: self.read_data(table, length as usize)?,
            personality: found.personality,
        }))
    }

    fn read_word(&self, address: u64) -> Result<u64, Reason> {
        self.process
            .memory
            .read(address)
            .map_err(|_| Reason::Unreadable(address))
    }

    /// What a symbol is whose address the code holds directly, or a PLT entry for it, to call
    /// it or for any use.
    pub(super) fn follow(
        &self,
        symbol: &PreSymbol,
        address: u64,
        only_called: bool,
    ) -> Result<Binding, Reason> {
        let mut binding = Binding::direct(Found::Address(address));
        let mut address = address;
        for _ in 0..MAX_ENTRIES {
            let Some(slot) = self.plt_slot(address) else {
                return Ok(binding);
            };
            let used = !only_called || self.is_published(symbol, address);
            let canonical = binding.canonical.or(used.then_some(address));
            binding = self.read_pointer(symbol, slot, 0)?;
            binding.canonical = canonical;
            match binding.found {
                Found::Address(content) => address = content,
                _ => return Ok(binding),
            }
        }
        Err(Reason::Unreadable(address))
    }

    /// What a symbol is whose address a GOT slot holds.
    pub(super) fn read_slot(&self, symbol: &PreSymbol, slot: u64) -> Result<Binding, Reason> {
        self.follow_pointer(symbol, slot, 0)
    }

    /// What a symbol is that a pointer leads to, `addend` bytes behind it.
    pub(super) fn follow_pointer(
        &self,
        symbol: &PreSymbol,
        place: u64,
        addend: i64,
    ) -> Result<Binding, Reason> {
        let binding = self.read_pointer(symbol, place, addend)?;
        let Found::Address(address) = binding.found else {
            return Ok(binding);
        };
        let followed = self.follow(symbol, address, false)?;
        Ok(Binding {
            by_name: binding.by_name || followed.by_name,
            ..followed
        })
    }

    fn read_pointer(&self, symbol: &PreSymbol, place: u64, addend: i64) -> Result<Binding, Reason> {
        let content = self.read_word(place)?.wrapping_sub_signed(addend);
        let Some(name) = self.check_slot(symbol, place)? else {
            return Ok(Binding::direct(Found::Address(content)));
        };
        if self.is_unbound(place, content) {
            return self.bind(name);
        }
        Ok(Binding::by_name(Found::Address(content)))
    }

    /// Whether the program says in its symbol table that a PLT entry is the function's
    /// address, since it compares such addresses.
    fn is_published(&self, symbol: &PreSymbol, entry: u64) -> bool {
        let image = &self.object.image;
        let is_it = |other: &Symbol| {
            !other.defined
                && other.address != 0
                && other.address.wrapping_add(image.bias) == entry
                && *other.name == symbol.name
        };
        image.dynamic_symbols.iter().any(is_it)
    }

    /// The slot of the PLT entry at an address. A function may begin with such a jump, too:
    /// where the sections are not known, the slot's relocation decides.
    fn plt_slot(&self, address: u64) -> Option<u64> {
        let slot = plt_slot(address, self.code_from(address)?)?;
        let is_entry = match self.object.section_at(address) {
            Some(section) => section.starts_with(".plt") || section.starts_with(".iplt"),
            None => self.relocations.get(&slot).is_some_and(|relocation| {
                let kinds = [R_X86_64_JUMP_SLOT, R_X86_64_GLOB_DAT, R_X86_64_IRELATIVE];
                kinds.contains(&relocation.kind)
            }),
        };
        is_entry.then_some(slot)
    }

    /// The symbol that the dynamic linker fills a slot with.
    fn name_of_slot(&self, slot: u64) -> Option<&Symbol> {
        let relocation = self.relocations.get(&slot)?;
        let kinds = [
            R_X86_64_64,
            R_X86_64_JUMP_SLOT,
            R_X86_64_GLOB_DAT,
            R_X86_64_DTPMOD64,
            R_X86_64_DTPOFF64,
            R_X86_64_TPOFF64,
            R_X86_64_TLSDESC,
        ];
        if !kinds.contains(&relocation.kind) {
            return None;
        }
        let symbols = &self.object.image.dynamic_symbols;
        symbols.get(relocation.symbol? as usize)
    }

    /// Whether the dynamic linker will look the function up at its first call.
    fn is_unbound(&self, slot: u64, content: u64) -> bool {
        let lazy = self
            .relocations
            .get(&slot)
            .is_some_and(|relocation| relocation.kind == R_X86_64_JUMP_SLOT);
        lazy && self.code_from(content).is_some_and(is_lazy_binding)
    }

    /// Looks a symbol up as the dynamic linker will.
    fn bind(&self, wanted: &Symbol) -> Result<Binding, Reason> {
        let found = link_order(self.objects)
            .into_iter()
            .find_map(|object| find_exported(object, &wanted.name));
        match found {
            Some(symbol) if symbol.kind == SymbolKind::Ifunc => {
                Ok(Binding::by_name(Found::Ifunc(symbol.address)))
            }
            Some(symbol) => Ok(Binding::by_name(Found::Address(symbol.address))),
            None => Err(Reason::Undefined(wanted.name.to_string())),
        }
    }

    /// A thread-local variable of the object itself, by its distance in the block.
    pub(super) fn own_tls(&self, offset: i64) -> Found {
        Found::TlsBlock(self.object.image.header_address, offset)
    }

    /// The thread-local variable whose distance from the thread pointer a slot holds.
    pub(super) fn read_tls_slot(&self, symbol: &PreSymbol, slot: u64) -> Result<Binding, Reason> {
        let found = Found::Tls(self.read_word(slot)?.cast_signed());
        let name = self.check_slot(symbol, slot)?;
        Ok(Binding {
            by_name: name.is_some(),
            ..Binding::direct(found)
        })
    }

    /// The thread-local variable that `__tls_get_addr` is asked for with the pair at `pair`.
    pub(super) fn read_tls_index(&self, symbol: &PreSymbol, pair: u64) -> Result<Binding, Reason> {
        let offset = self.read_word(pair.wrapping_add(8))?.cast_signed();
        self.find_block(symbol, pair, offset)
    }

    /// The thread-local variable that a descriptor stands for. Only its relocation says it:
    /// what the dynamic linker stores there is its own affair.
    pub(super) fn read_tls_descriptor(
        &self,
        symbol: &PreSymbol,
        descriptor: u64,
    ) -> Result<Binding, Reason> {
        let relocation = self.relocations.get(&descriptor);
        let Some(relocation) = relocation.filter(|it| it.kind == R_X86_64_TLSDESC) else {
            return Err(Reason::Unreadable(descriptor));
        };
        self.find_block(symbol, descriptor, relocation.addend)
    }

    /// A thread-local variable `offset` bytes into its object's block, or by name.
    fn find_block(&self, symbol: &PreSymbol, slot: u64, offset: i64) -> Result<Binding, Reason> {
        let Some(name) = self.check_slot(symbol, slot)? else {
            return Ok(Binding::direct(self.own_tls(offset)));
        };
        let defining = link_order(self.objects)
            .into_iter()
            .find_map(|object| Some((object, find_exported(object, &name.name)?)));
        let (object, found) = match defining {
            Some((object, found)) => (object, found.address),
            None if name.defined => (self.object, name.address),
            None => return Err(Reason::Undefined(symbol.name.clone())),
        };
        let found = Found::TlsBlock(object.image.header_address, found.cast_signed());
        Ok(Binding::by_name(found))
    }

    /// The symbol that a slot is for, which must be this one.
    fn check_slot(&self, symbol: &PreSymbol, slot: u64) -> Result<Option<&Symbol>, Reason> {
        match self.name_of_slot(slot) {
            Some(name) if *name.name != symbol.name => Err(Reason::OtherSymbol {
                expected: symbol.name.clone(),
                found: name.name.to_string(),
                slot,
            }),
            name => Ok(name),
        }
    }
}
