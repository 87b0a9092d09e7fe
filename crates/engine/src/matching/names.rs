//! Names in symbol tables: what stays of them in another build, and whether they agree with
//! a match.

use std::collections::HashMap;

use engraft_elf::{Binding, Symbol, SymbolKind};
use engraft_module::{PreSymbol, PreSymbolKind};

use super::program::Program;
use super::reason::Reason;

/// Components that compilers and linkers add with a number which may differ between builds.
const DROPPED: [&str; 2] = ["lto_priv", "llvm"];

/// The part of a name that does not change between builds: without the numbers of clones
/// (`f.part.0`), of static variables (`x.12`) and of privatised names.
pub(super) fn stem(name: &str) -> String {
    let mut parts = name.split('.');
    let mut stem = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !number && !DROPPED.contains(&part) {
            stem.push('.');
            stem.push_str(part);
        }
    }
    stem
}

/// Symbols by stem.
pub(super) struct Stems(HashMap<String, Vec<usize>>);

impl Stems {
    pub(super) fn new(symbols: &[Symbol]) -> Self {
        let mut stems: HashMap<String, Vec<usize>> = HashMap::new();
        for (position, symbol) in symbols.iter().enumerate() {
            if !symbol.name.is_empty() {
                stems.entry(stem(&symbol.name)).or_default().push(position);
            }
        }
        Self(stems)
    }

    fn get(&self, stem: &str) -> &[usize] {
        self.0.get(stem).map_or(&[], Vec::as_slice)
    }
}

/// Whether a name means something outside its object file. Assemblers drop the others.
fn is_lasting(symbol: &PreSymbol) -> bool {
    symbol.kind != PreSymbolKind::Section
        && !symbol.name.is_empty()
        && !symbol.name.starts_with('.')
}

/// The definitions that may be the symbol: of its name, or of its stem where the rest may
/// differ; of a local symbol those of its source file.
pub(super) fn find_named<'p>(program: &'p Program<'_>, symbol: &PreSymbol) -> Vec<&'p Symbol> {
    if !is_lasting(symbol) {
        return Vec::new();
    }
    let table = program.object.symbols();
    let stem = stem(&symbol.name);
    let mut found = table.lookup(&symbol.name);
    if found.is_empty() || stem != symbol.name {
        let positions = program.stems().get(&stem);
        found = positions
            .iter()
            .map(|position| &table.symbols()[*position])
            .collect();
    }
    found.retain(|other| is_of_kind(other, symbol.kind) && may_be_of_file(other, symbol));
    let global = |other: &&Symbol| other.binding != Binding::Local;
    if symbol.file.is_none() && found.iter().any(global) {
        found.retain(global);
    }
    found
}

fn is_of_kind(found: &Symbol, kind: PreSymbolKind) -> bool {
    let thread_local = found.kind == SymbolKind::Tls;
    found.defined && thread_local == (kind == PreSymbolKind::Tls)
}

/// A local symbol is of its file. A global one may have become local when it was linked.
fn may_be_of_file(found: &Symbol, symbol: &PreSymbol) -> bool {
    let Some(wanted) = &symbol.file else {
        return true;
    };
    let known = found.source_file.as_deref().filter(|_| !wanted.is_empty());
    found.binding == Binding::Local && known.is_none_or(|file| file == wanted)
}

/// Refuses what contradicts the symbol table: the name is there, but at other addresses, or
/// only other names are at the address.
pub(super) fn check_name(
    program: &Program<'_>,
    symbol: &PreSymbol,
    address: u64,
) -> Result<(), Reason> {
    if !is_lasting(symbol) || symbol.kind == PreSymbolKind::Tls {
        return Ok(());
    }
    let named = find_named(program, symbol);
    // An ifunc's symbol is its resolver, which is not what is called.
    let agrees = |other: &&Symbol| other.address == address || other.kind == SymbolKind::Ifunc;
    if named.iter().any(agrees) {
        return Ok(());
    }
    let others = at_address(program, address);
    if let Some(other) = named.first() {
        return Err(Reason::NamedElsewhere {
            name: symbol.name.clone(),
            address,
            elsewhere: other.address,
        });
    }
    let wanted = stem(&symbol.name);
    let same = |other: &&&Symbol| stem(&other.name) == wanted && may_be_of_file(other, symbol);
    match others.first() {
        Some(first)
            if program.object.symbols().is_complete() && !others.iter().any(|it| same(&it)) =>
        {
            Err(Reason::NamedOtherwise {
                name: symbol.name.clone(),
                address,
                found: first.name.to_string(),
            })
        }
        _ => Ok(()),
    }
}

/// The functions and variables that start at an address.
fn at_address<'p>(program: &'p Program<'_>, address: u64) -> Vec<&'p Symbol> {
    let table = program.object.symbols();
    table
        .at(address)
        .filter(|symbol| symbol.kind != SymbolKind::Untyped)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_clones_and_static_variables_are_no_part_of_a_stem() {
        for (name, expected) in [
            ("serve", "serve"),
            ("serve.part.0", "serve.part"),
            ("serve.constprop.12.isra.3", "serve.constprop.isra"),
            ("serve.cold", "serve.cold"),
            ("serve.part.0.cold", "serve.part.cold"),
            ("counter.1234", "counter"),
            ("counter.lto_priv.0", "counter"),
            ("_ZN3foo3barEv.llvm.7141", "_ZN3foo3barEv"),
            ("v1.0", "v1"),
            ("", ""),
        ] {
            assert_eq!(stem(name), expected, "{name}");
        }
    }
}
