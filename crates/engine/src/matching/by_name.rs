//! Symbols that no matched function refers to, so that only their names lead to them.

use engraft_elf::{Symbol, SymbolKind};
use engraft_module::{PreSymbol, PreSymbolKind};

use super::names::find_named;
use super::program::{Found, Program};
use crate::bind::{find_exported, link_order};
use crate::objects::LoadedObject;

/// Finds a symbol in the object's symbol table, a global one also in other objects.
pub(super) fn find_by_name(program: &Program<'_>, symbol: &PreSymbol) -> Result<Found, String> {
    if symbol.kind == PreSymbolKind::Section {
        return Err("it has no name to be found by".to_owned());
    }
    let named = find_named(program, symbol);
    if let Some(first) = named.first() {
        let found = value_of(program.object, first);
        return if named
            .iter()
            .all(|other| value_of(program.object, other) == found)
        {
            Ok(found)
        } else {
            let list: Vec<String> = named
                .iter()
                .map(|it| format!("{:#x}", it.address))
                .collect();
            Err(format!(
                "no function that was compared uses it, and the symbol table has it at {}",
                list.join(" and ")
            ))
        };
    }
    if symbol.file.is_none() {
        for object in link_order(program.objects) {
            let Some(found) = find_exported(object, &symbol.name) else {
                continue;
            };
            return Ok(value_of(object, found));
        }
    }
    Err(if program.object.symbols().is_complete() {
        "no function that was compared uses it, and the symbol table lacks it".to_owned()
    } else {
        format!(
            "no function that was compared uses it, and {} is stripped; install its debug symbols",
            program.object.name
        )
    })
}

fn value_of(object: &LoadedObject, symbol: &Symbol) -> Found {
    match symbol.kind {
        SymbolKind::Ifunc => Found::Ifunc(symbol.address),
        SymbolKind::Tls => {
            Found::TlsBlock(object.image.header_address, symbol.address.cast_signed())
        }
        _ => Found::Address(symbol.address),
    }
}
