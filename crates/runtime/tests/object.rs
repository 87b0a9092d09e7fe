//! What the object offers, and what it must not offer.

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _};

fn symbols() -> Vec<(String, bool, bool)> {
    let file = ElfFile64::<object::Endianness>::parse(engraft_runtime::OBJECT).unwrap();
    file.symbols()
        .filter(|symbol| symbol.is_global())
        .map(|symbol| {
            let hidden = symbol.scope() != object::SymbolScope::Dynamic;
            (
                symbol.name().unwrap().to_owned(),
                symbol.is_definition(),
                hidden,
            )
        })
        .collect()
}

#[test]
fn every_name_that_is_promised_is_defined() {
    use engraft_runtime::{
        EXPORTS, SYM_CONFIG, SYM_ENTER, SYM_FRAME, SYM_LEAVE, SYM_LEAVE_END, SYM_MAILBOX,
    };
    let symbols = symbols();
    let own = [
        SYM_CONFIG,
        SYM_ENTER,
        SYM_FRAME,
        SYM_LEAVE,
        SYM_LEAVE_END,
        SYM_MAILBOX,
    ];
    for name in EXPORTS.iter().chain(&own) {
        let found = symbols.iter().find(|(symbol, ..)| symbol == name);
        assert_eq!(found, Some(&((*name).to_owned(), true, false)), "{name}");
    }
}

#[test]
fn nothing_else_is_visible_and_nothing_is_undefined() {
    for (name, defined, hidden) in symbols() {
        assert!(defined, "{name} is undefined");
        let expected =
            engraft_runtime::EXPORTS.contains(&name.as_str()) || name.starts_with("engraft_");
        assert_eq!(expected, !hidden, "{name}");
    }
}

#[test]
fn no_libc_name_is_exported() {
    for name in [
        "memcpy", "memmove", "memset", "memcmp", "bcmp", "malloc", "kmalloc", "schedule",
    ] {
        assert!(!engraft_runtime::EXPORTS.contains(&name), "{name}");
    }
}
