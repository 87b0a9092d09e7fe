//! What the objects define, by name.

use std::collections::HashMap;
use std::fs;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, Sym as _};

use super::ObjectPair;
use crate::error::{BuildError, Context as _};
use crate::object::{SymbolKind, is_bitcode, kind_of};

/// One definition: the object and the symbol in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    /// Position of the object in link order.
    pub object: usize,
    /// Index of the symbol.
    pub symbol: usize,
    /// What it stands for.
    pub kind: SymbolKind,
    /// Its length in bytes.
    pub size: u64,
    local: bool,
    weak: bool,
}

/// All definitions in the order of a linked file's symbol table, in which local symbols come
/// first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    definitions: HashMap<Box<str>, Vec<Definition>>,
    /// Objects that refer to a name which they do not define, in link order.
    users: HashMap<Box<str>, Vec<usize>>,
}

impl Names {
    pub(super) fn collect(pairs: &[ObjectPair]) -> Result<Self, BuildError> {
        let mut names = Self::default();
        for (object, pair) in pairs.iter().enumerate() {
            if let Some(path) = &pair.before {
                let what = || format!("object '{}'", pair.name);
                let bytes = fs::read(path).context(what)?;
                if is_bitcode(&bytes) {
                    continue;
                }
                names.add(object, &bytes).context(what)?;
            }
        }
        for definitions in names.definitions.values_mut() {
            definitions.sort_by_key(|definition| !definition.local);
        }
        Ok(names)
    }

    fn add(&mut self, object: usize, bytes: &[u8]) -> Result<(), BuildError> {
        let header = FileHeader64::<LE>::parse(bytes)?;
        let symbols = header
            .sections(LE, bytes)?
            .symbols(LE, bytes, elf::SHT_SYMTAB)?;
        for (index, symbol) in symbols.enumerate() {
            let kind = symbol.st_type();
            let unnamed = kind == elf::STT_SECTION || kind == elf::STT_FILE;
            if unnamed {
                continue;
            }
            let name = String::from_utf8_lossy(symbols.symbol_name(LE, symbol)?);
            if name.is_empty() {
                continue;
            }
            if symbol.st_shndx(LE) == elf::SHN_UNDEF {
                self.users.entry(name.into()).or_default().push(object);
            } else {
                let definition = Definition {
                    object,
                    symbol: index.0,
                    kind: kind_of(symbol),
                    size: symbol.st_size.get(LE),
                    local: symbol.st_bind() == elf::STB_LOCAL,
                    weak: symbol.st_bind() == elf::STB_WEAK,
                };
                let entry = self.definitions.entry(name.into()).or_default();
                entry.push(definition);
            }
        }
        Ok(())
    }

    /// The definition that a global reference is bound to: the first that is not weak, else
    /// the first.
    #[must_use]
    pub(crate) fn global(&self, name: &str) -> Option<Definition> {
        let all = self.definitions.get(name)?;
        let mut global = all.iter().filter(|definition| !definition.local);
        let first = global.clone().next();
        global
            .find(|definition| !definition.weak)
            .or(first)
            .copied()
    }

    /// Objects that refer to a name without defining it.
    #[must_use]
    pub(crate) fn users(&self, name: &str) -> &[usize] {
        self.users.get(name).map_or(&[], Vec::as_slice)
    }

    /// Position of a definition among those of its name, from 1; 0 when it is the only one
    /// (`old_sympos`). `None` when the linker has taken another definition instead of it.
    #[must_use]
    pub(crate) fn position(&self, name: &str, object: usize, symbol: usize) -> Option<u64> {
        let all = self.definitions.get(name)?;
        let chosen = self.global(name);
        let kept: Vec<&Definition> = all
            .iter()
            .filter(|definition| definition.local || Some(**definition) == chosen)
            .collect();
        let is_it =
            |definition: &&Definition| (definition.object, definition.symbol) == (object, symbol);
        let index = kept.iter().position(is_it)? as u64;
        Some(if kept.len() == 1 { 0 } else { index + 1 })
    }
}
