//! What counts of an object's content.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use object::{
    File, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget,
    Section, SectionFlags, elf,
};

/// Sections that hold names, those of directories too, and nothing else that counts.
const NAMES: [&[u8]; 3] = [b".debug_str", b".debug_line_str", b".debug_line"];

/// A number for the content of allocated sections.
pub(super) fn identify(file: &File<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            continue;
        };
        if sh_flags.0 & elf::SHF_ALLOC.0 != 0 {
            section.name_bytes().unwrap_or_default().hash(&mut hasher);
            section.size().hash(&mut hasher);
            section.data().unwrap_or_default().hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// Whether two objects are equal but for names in debug information, which has the path of the
/// tree that an object was compiled in.
pub(super) fn is_same_but_for_paths(one: &[u8], other: &[u8]) -> bool {
    match (File::parse(one), File::parse(other)) {
        (Ok(one), Ok(other)) => {
            let (mut left, mut right) = (one.sections(), other.sections());
            loop {
                match (left.next(), right.next()) {
                    (None, None) => return has_same_symbols(&one, &other),
                    (Some(a), Some(b)) if is_same_section(&one, &a, &other, &b) => {}
                    _ => return false,
                }
            }
        }
        _ => false,
    }
}

fn has_same_symbols(one: &File<'_>, other: &File<'_>) -> bool {
    let list = |file: &File<'_>| -> Vec<_> {
        file.symbols()
            .map(|symbol| {
                let name = symbol.name_bytes().unwrap_or_default().to_vec();
                (
                    name,
                    symbol.section(),
                    symbol.address(),
                    symbol.size(),
                    symbol.flags(),
                )
            })
            .collect()
    };
    list(one) == list(other)
}

fn is_same_section(
    one: &File<'_>,
    a: &Section<'_, '_>,
    other: &File<'_>,
    b: &Section<'_, '_>,
) -> bool {
    let name = a.name_bytes().unwrap_or_default();
    if name != b.name_bytes().unwrap_or_default() {
        return false;
    }
    if NAMES.contains(&name) || is_table(name) {
        return true;
    }
    a.flags() == b.flags()
        && a.size() == b.size()
        && a.data().ok() == b.data().ok()
        && list_relocations(one, a) == list_relocations(other, b)
}

/// Tables of the file itself, whose meaning is compared.
fn is_table(name: &[u8]) -> bool {
    name.starts_with(b".rela")
        || matches!(
            name,
            b".symtab" | b".strtab" | b".shstrtab" | b".symtab_shndx"
        )
}

/// Relocations, without the places of names.
fn list_relocations(
    file: &File<'_>,
    section: &Section<'_, '_>,
) -> Vec<(u64, RelocationFlags, RelocationTarget, i64)> {
    section
        .relocations()
        .map(|(offset, relocation)| {
            let target = relocation.target();
            let addend = if leads_to_names(file, target) {
                0
            } else {
                relocation.addend()
            };
            (offset, relocation.flags(), target, addend)
        })
        .collect()
}

fn leads_to_names(file: &File<'_>, target: RelocationTarget) -> bool {
    let RelocationTarget::Symbol(symbol) = target else {
        return false;
    };
    file.symbol_by_index(symbol)
        .ok()
        .and_then(|symbol| symbol.section_index())
        .and_then(|section| file.section_by_index(section).ok())
        .is_some_and(|section| section.name_bytes().is_ok_and(|name| NAMES.contains(&name)))
}
