//! The relocations of the kept sections.

use object::LittleEndian as LE;
use object::elf::{self, Rela64, SectionHeader64};
use object::read::elf::SectionHeader as _;

use super::symbols::Symbols;
use super::{File, malformed};
use crate::reference::{SYMBOL_PREFIX, parse_section_name};
use crate::{
    Contents, Definition, Fault, FaultKind, ModuleErrorKind, Relocation, RelocationKind, Scope,
    Section, tls,
};

use ModuleErrorKind::Malformed;

/// Relocation sections of a compact form that LLVM can write.
const SHT_CREL: u32 = 0x4000_0014;

pub(super) fn collect(
    file: &File<'_>,
    kept: &[Option<usize>],
    sections: &[Section],
    symbols: &mut Symbols,
) -> Result<Vec<Relocation>, ModuleErrorKind> {
    let mut relocations = Vec::new();
    for header in file.sections.iter() {
        let kind = header.sh_type.get(LE);
        if kind != elf::SHT_RELA && kind != elf::SHT_REL && kind.0 != SHT_CREL {
            continue;
        }
        let name = file.section_name(header)?;
        let target = kept
            .get(header.sh_info.get(LE) as usize)
            .ok_or_else(|| Malformed(format!("target of relocation section '{name}'")))?;
        let Some(target) = *target else { continue };
        if kind != elf::SHT_RELA || header.sh_link.get(LE) as usize != symbols.section {
            return Err(Malformed(format!("type of relocation section '{name}'")));
        }
        let entries = read_entries(file, header)?;
        check_scope(name, entries, symbols)?;
        let start = relocations.len();
        for entry in entries {
            let relocation = read_relocation(target, &sections[target], entry, symbols)?;
            relocations.push(relocation);
        }
        check_thread_local(&mut relocations[start..], &sections[target], symbols)?;
    }
    mark_thread_local(&relocations, symbols);
    Ok(relocations)
}

fn read_entries<'a>(
    file: &File<'a>,
    header: &SectionHeader64<LE>,
) -> Result<&'a [Rela64<LE>], ModuleErrorKind> {
    let size = size_of::<Rela64<LE>>() as u64;
    if header.sh_entsize.get(LE) != size || !header.sh_size.get(LE).is_multiple_of(size) {
        return Err(Malformed("size of a relocation section".into()));
    }
    header.data_as_array(LE, file.bytes).map_err(malformed)
}

/// The kernel's rules for livepatch relocation sections.
fn check_scope(
    section: &str,
    entries: &[Rela64<LE>],
    symbols: &Symbols,
) -> Result<(), ModuleErrorKind> {
    let Some(scope) = parse_section_name(section)? else {
        return Ok(());
    };
    for entry in entries {
        let symbol = symbol_at(entry, symbols)?;
        let livepatch = symbol.name.starts_with(SYMBOL_PREFIX);
        let Definition::Undefined(reference) = &symbol.definition else {
            return Err(ModuleErrorKind::NotALivepatchSymbol(symbol.name.clone()));
        };
        if !livepatch {
            return Err(ModuleErrorKind::NotALivepatchSymbol(symbol.name.clone()));
        }
        if reference.scope == Scope::Executable && scope != Scope::Executable {
            return Err(ModuleErrorKind::ForeignSectionAccess {
                symbol: reference.name.clone(),
                section: section.to_owned(),
            });
        }
    }
    Ok(())
}

fn symbol_at<'a>(
    entry: &Rela64<LE>,
    symbols: &'a Symbols,
) -> Result<&'a crate::Symbol, ModuleErrorKind> {
    symbols
        .list
        .get(symbol_index(entry))
        .ok_or_else(|| Malformed("symbol index of a relocation".into()))
}

fn symbol_index(entry: &Rela64<LE>) -> usize {
    (entry.r_info.get(LE) >> 32) as usize
}

fn read_relocation(
    position: usize,
    section: &Section,
    entry: &Rela64<LE>,
    symbols: &Symbols,
) -> Result<Relocation, ModuleErrorKind> {
    let symbol = symbol_at(entry, symbols)?;
    let offset = entry.r_offset.get(LE);
    let fail = |kind| fault(section, offset, &symbol.name, kind);
    let (kind, call) = RelocationKind::decode(entry.r_info.get(LE) as u32).map_err(fail)?;
    let (before, after) = kind.extent();
    let Contents::Bytes(code) = &section.contents else {
        return Err(fail(FaultKind::OutOfBounds));
    };
    let inside = offset
        .checked_add(after)
        .is_some_and(|end| end <= code.len() as u64 && offset >= before);
    if !inside {
        return Err(fail(FaultKind::OutOfBounds));
    }
    if symbol.definition == Definition::Dropped {
        return Err(fail(FaultKind::Dropped));
    }
    let addend = entry.r_addend.get(LE);
    let distance_in_code =
        kind == RelocationKind::Relative32 && section.region == crate::Region::Text;
    Ok(Relocation {
        section: position,
        offset,
        kind,
        symbol: symbol_index(entry),
        addend,
        call: call || distance_in_code && is_branch(code, offset as usize),
        address_only: distance_in_code && addend == -4 && is_lea(&code[..offset as usize]),
    })
}

/// Whether a call or jump with a 32-bit distance ends before `offset`. Older assemblers mark
/// branches as plain distances.
fn is_branch(code: &[u8], offset: usize) -> bool {
    matches!(code[..offset], [.., 0x0f, 0x80..=0x8f] | [.., 0xe8 | 0xe9])
}

/// Whether `lea distance(%rip), register` with 64 bits begins at the end of `code`. After an EVEX
/// prefix the same bytes are the end of another instruction.
fn is_lea(code: &[u8]) -> bool {
    let [before @ .., rex, 0x8d, operands] = code else {
        return false;
    };
    rex & 0xf8 == 0x48 && operands & 0xc7 == 0x05 && !matches!(before, [.., 0x62, _, _])
}

fn check_thread_local(
    relocations: &mut [Relocation],
    section: &Section,
    symbols: &Symbols,
) -> Result<(), ModuleErrorKind> {
    let Contents::Bytes(code) = &section.contents else {
        return Ok(());
    };
    for index in 0..relocations.len() {
        let (head, tail) = relocations.split_at_mut(index + 1);
        let first = &head[index];
        let known = match (first.kind, tail.first_mut()) {
            (RelocationKind::TlsGeneralDynamic, Some(next)) => {
                let name = symbols.list[next.symbol].name.clone();
                tls::pair_general_dynamic(first, next, code, &name).is_some()
            }
            (RelocationKind::TlsGeneralDynamic, None) => false,
            _ => tls::is_known_descriptor(first, code),
        };
        if !known {
            let name = &symbols.list[first.symbol].name;
            return Err(fault(section, first.offset, name, FaultKind::TlsSequence));
        }
    }
    Ok(())
}

/// Assemblers need not mark undefined symbols as thread-local; their use does.
fn mark_thread_local(relocations: &[Relocation], symbols: &mut Symbols) {
    for relocation in relocations {
        if relocation.kind.is_thread_local()
            && let Definition::Undefined(reference) =
                &mut symbols.list[relocation.symbol].definition
        {
            reference.thread_local = true;
        }
    }
}

fn fault(section: &Section, offset: u64, symbol: &str, kind: FaultKind) -> ModuleErrorKind {
    ModuleErrorKind::Relocation(Box::new(Fault {
        section: section.name.clone(),
        offset,
        symbol: symbol.to_owned(),
        kind,
    }))
}
