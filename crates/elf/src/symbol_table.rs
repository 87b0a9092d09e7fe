//! All that is known about the symbols of one loaded object.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::suggest::suggest;
use crate::{Candidate, Image, Symbol, SymbolError, SymbolErrorKind, SymbolFile, SymbolKind};

/// The symbols of one object, with absolute addresses.
///
/// The position of a symbol among those of the same name (`old_sympos`, counted from 1) is
/// its place in `.symtab`; what only `.dynsym` has follows behind.
#[derive(Clone, Debug)]
pub struct SymbolTable {
    object: String,
    complete: bool,
    symbols: Vec<Symbol>,
    by_name: HashMap<Box<str>, Vec<usize>>,
    by_address: Vec<usize>,
    ends: Vec<Range<u64>>,
}

impl SymbolTable {
    /// Merges the symbols of `image` and `file`. The caller has made sure that the file
    /// describes the image ([`SymbolFile::compare`]). `object` is the name used in errors.
    #[must_use]
    pub fn new(object: &str, image: &Image, file: Option<&SymbolFile>) -> Self {
        let mut symbols = Vec::new();
        if let Some(file) = file {
            symbols.extend(file.symbols.iter().filter(|symbol| symbol.defined).cloned());
            for symbol in &mut symbols {
                symbol.relocate(image.bias);
            }
        }
        let known: HashSet<(&str, u64)> = symbols.iter().map(key).collect();
        let exported: Vec<Symbol> = image
            .dynamic_symbols
            .iter()
            .filter(|symbol| symbol.defined && !known.contains(&key(symbol)))
            .cloned()
            .collect();
        symbols.extend(exported);
        Self {
            object: object.to_owned(),
            complete: file.is_some_and(|file| file.complete),
            by_name: index_names(&symbols),
            by_address: index_addresses(&symbols),
            ends: image.segments.iter().map(crate::Segment::range).collect(),
            symbols,
        }
    }

    /// The object has a `.symtab` in one of its files: local symbols are known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// All definitions in table order.
    #[must_use]
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// The definitions of `name` in table order.
    ///
    /// Typed symbols hide labels, and default versions hide others; `name@version` asks for
    /// one version.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Vec<&Symbol> {
        let (base, version) = match name.split_once('@') {
            Some((base, version)) if !base.is_empty() => {
                (base, Some(version.trim_start_matches('@')))
            }
            _ => (name, None),
        };
        let indexes = self.by_name.get(base).map_or(&[][..], Vec::as_slice);
        let mut found: Vec<&Symbol> = indexes.iter().map(|&index| &self.symbols[index]).collect();
        if let Some(version) = version {
            found.retain(|symbol| symbol.version.as_deref() == Some(version));
        }
        prefer(&mut found, |symbol| symbol.kind != SymbolKind::Untyped);
        prefer(&mut found, |symbol| !symbol.hidden_version);
        found
    }

    /// The one definition meant by `name` and `sympos`: with 0 it must be the only one
    /// (several names for one address count as one), with N it is the N-th.
    ///
    /// # Errors
    ///
    /// [`SymbolError`] when there is no such definition, or more than one for position 0.
    pub fn resolve(&self, name: &str, sympos: u64) -> Result<&Symbol, SymbolError> {
        let found = self.lookup(name);
        let Some(&first) = found.first() else {
            return Err(self.error(name, self.not_found(name)));
        };
        if sympos == 0 {
            let same = |symbol: &&Symbol| {
                symbol.address == first.address
                    && (symbol.kind == SymbolKind::Tls) == (first.kind == SymbolKind::Tls)
            };
            if found.iter().all(same) {
                return Ok(first);
            }
            let candidates = list_candidates(&found);
            return Err(self.error(name, SymbolErrorKind::Ambiguous { candidates }));
        }
        usize::try_from(sympos - 1)
            .ok()
            .and_then(|index| found.get(index).copied())
            .ok_or_else(|| {
                let kind = SymbolErrorKind::PositionNotFound {
                    position: sympos,
                    candidates: list_candidates(&found),
                };
                self.error(name, kind)
            })
    }

    /// The symbol that covers `address`, or else the nearest one of unknown size below it, and
    /// the distance from its start. Functions are preferred to objects, objects to labels.
    #[must_use]
    pub fn containing(&self, address: u64) -> Option<(&Symbol, u64)> {
        /// Aliases and nested symbols that are looked at before giving up.
        const REACH: usize = 64;
        let segment = self.ends.iter().find(|range| range.contains(&address))?;
        let end = self.position_after(address);
        let below = self.by_address[end.saturating_sub(REACH)..end].iter().rev();
        let near: Vec<(&Symbol, u64)> = below
            .map(|&index| &self.symbols[index])
            .take_while(|symbol| segment.contains(&symbol.address))
            .map(|symbol| (symbol, address - symbol.address))
            .collect();
        let covering = near
            .iter()
            .filter(|(symbol, offset)| *offset < symbol.size)
            .min_by_key(|(symbol, offset)| (kind_rank(symbol.kind), *offset));
        let nearest = near.first().map(|(symbol, _)| symbol.address);
        let unsized_below = near
            .iter()
            .take_while(|(symbol, _)| Some(symbol.address) == nearest)
            .filter(|(symbol, _)| symbol.size == 0)
            .min_by_key(|(symbol, _)| kind_rank(symbol.kind));
        covering.or(unsized_below).copied()
    }

    /// The symbols that start at `address`.
    pub fn at(&self, address: u64) -> impl Iterator<Item = &Symbol> {
        let end = self.position_after(address);
        let below = self.by_address[..end].iter().rev();
        below
            .map(|&index| &self.symbols[index])
            .take_while(move |symbol| symbol.address == address)
    }

    /// The lowest address above `address` at which a symbol starts.
    #[must_use]
    pub fn next_symbol_after(&self, address: u64) -> Option<u64> {
        let index = *self.by_address.get(self.position_after(address))?;
        Some(self.symbols[index].address)
    }

    /// Length in bytes of the function `symbol`: its `st_size`, or where that is 0 the
    /// distance to the end of `fde` (the unwind entry that covers it, from the caller), to
    /// the next symbol or to the end of the segment, whichever comes first.
    #[must_use]
    pub fn function_size(&self, symbol: &Symbol, fde: Option<Range<u64>>) -> Option<u64> {
        if symbol.size != 0 {
            return Some(symbol.size);
        }
        let start = symbol.address;
        let segment = self.ends.iter().find(|range| range.contains(&start))?;
        let fde_end = fde
            .filter(|range| range.contains(&start))
            .map(|range| range.end);
        let ends = [Some(segment.end), fde_end, self.next_symbol_after(start)];
        ends.into_iter().flatten().min().map(|end| end - start)
    }

    /// The parts that a compiler split off `symbol` (`name.cold`, `name.cold.N`): they run as
    /// part of it. Of equal names, only those of the same source file.
    #[must_use]
    pub fn cold_parts(&self, symbol: &Symbol) -> Vec<&Symbol> {
        let is_part = |other: &&Symbol| {
            other.is_function()
                && other
                    .name
                    .strip_prefix(&*symbol.name)
                    .and_then(|rest| rest.strip_prefix(".cold"))
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let mut parts: Vec<&Symbol> = self.symbols.iter().filter(is_part).collect();
        if symbol.source_file.is_some() {
            parts.retain(|part| part.source_file == symbol.source_file);
        }
        parts
    }

    fn position_after(&self, address: u64) -> usize {
        self.by_address
            .partition_point(|&index| self.symbols[index].address <= address)
    }

    fn not_found(&self, name: &str) -> SymbolErrorKind {
        SymbolErrorKind::NotFound {
            suggestions: suggest(name, self.by_name.keys().map(|name| &**name)),
            stripped: !self.complete,
        }
    }

    fn error(&self, name: &str, kind: SymbolErrorKind) -> SymbolError {
        SymbolError {
            object: self.object.clone(),
            name: name.to_owned(),
            kind,
        }
    }
}

fn key(symbol: &Symbol) -> (&str, u64) {
    (&symbol.name, symbol.address)
}

/// Keeps those that satisfy `better`, unless none does.
fn prefer(symbols: &mut Vec<&Symbol>, better: impl Fn(&Symbol) -> bool) {
    if symbols.iter().any(|symbol| better(symbol)) {
        symbols.retain(|symbol| better(symbol));
    }
}

fn kind_rank(kind: SymbolKind) -> u8 {
    match kind {
        SymbolKind::Function | SymbolKind::Ifunc => 0,
        SymbolKind::Object | SymbolKind::Tls => 1,
        SymbolKind::Untyped => 2,
    }
}

fn list_candidates(found: &[&Symbol]) -> Vec<Candidate> {
    let candidate = |(sympos, symbol): (u64, &&Symbol)| Candidate {
        sympos,
        address: symbol.address,
        kind: symbol.kind,
        source_file: symbol.source_file.as_deref().map(str::to_owned),
    };
    (1..).zip(found).map(candidate).collect()
}

fn index_names(symbols: &[Symbol]) -> HashMap<Box<str>, Vec<usize>> {
    let mut index: HashMap<Box<str>, Vec<usize>> = HashMap::new();
    for (position, symbol) in symbols.iter().enumerate() {
        if !symbol.name.is_empty() {
            index.entry(symbol.name.clone()).or_default().push(position);
        }
    }
    index
}

fn index_addresses(symbols: &[Symbol]) -> Vec<usize> {
    let mut index: Vec<usize> = (0..symbols.len())
        .filter(|&position| symbols[position].has_address() && !symbols[position].name.is_empty())
        .collect();
    index.sort_by_key(|&position| symbols[position].address);
    index
}
