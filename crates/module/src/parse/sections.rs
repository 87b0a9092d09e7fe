//! Which sections become part of the target, and where they go.

use object::LittleEndian as LE;
use object::elf::{self, SectionHeader64};
use object::read::elf::SectionHeader as _;

use super::symbols::Symbols;
use super::{File, malformed};
use crate::layout::EH_FRAME;
use crate::{Contents, ModuleErrorKind, PRE_CODE_SECTION, PreCode, Region, Section};

use ModuleErrorKind::Malformed;

const MAX_REGION: u64 = 64 << 20;
const MAX_ALIGNMENT: u64 = 4096;
/// A serialized symbol takes at least 6 bytes, and about 100 in memory.
const MAX_PRE_CODE: u64 = 16 << 20;

/// Sections whose functions run before `main` or after it.
const STARTUP_SECTIONS: [&str; 7] = [
    ".init_array",
    ".fini_array",
    ".preinit_array",
    ".ctors",
    ".dtors",
    ".init",
    ".fini",
];

/// The kept sections, and for each section of the file its position among them.
pub(super) fn collect(
    file: &File<'_>,
) -> Result<(Vec<Section>, Vec<Option<usize>>), ModuleErrorKind> {
    let mut sections = Vec::new();
    let mut kept = Vec::new();
    let mut used = [0u64; 3];
    for header in file.sections.iter() {
        let name = file.section_name(header)?;
        if !is_kept(header, name)? {
            kept.push(None);
            continue;
        }
        let section = read_section(file, header, name)?;
        let used = &mut used[section.region as usize];
        let total = used
            .checked_next_multiple_of(section.alignment)
            .and_then(|start| start.checked_add(section.size()))
            .filter(|total| *total <= MAX_REGION);
        *used = total.ok_or_else(|| too_large(name))?;
        kept.push(Some(sections.len()));
        sections.push(section);
    }
    Ok((sections, kept))
}

fn is_kept(header: &SectionHeader64<LE>, name: &str) -> Result<bool, ModuleErrorKind> {
    let has = |flag: elf::SectionFlags| header.sh_flags.get(LE).0 & flag.0 != 0;
    if !has(elf::SHF_ALLOC) || has(elf::SHF_EXCLUDE) || has(elf::SHF_TLS) {
        return Ok(false);
    }
    if is_startup(header, name) || name.starts_with(".note") {
        return Ok(false);
    }
    match header.sh_type.get(LE) {
        elf::SHT_PROGBITS | elf::SHT_NOBITS | elf::SHT_X86_64_UNWIND => Ok(true),
        // Livepatch relocation sections are marked SHF_ALLOC so that no tool drops them.
        elf::SHT_NOTE | elf::SHT_RELA => Ok(false),
        other => Err(Malformed(format!(
            "section '{name}' of type {:#x} cannot be loaded",
            other.0
        ))),
    }
}

fn is_startup(header: &SectionHeader64<LE>, name: &str) -> bool {
    let kind = header.sh_type.get(LE);
    let family = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    kind == elf::SHT_INIT_ARRAY
        || kind == elf::SHT_FINI_ARRAY
        || kind == elf::SHT_PREINIT_ARRAY
        || STARTUP_SECTIONS.iter().any(|prefix| family(prefix))
}

fn read_section(
    file: &File<'_>,
    header: &SectionHeader64<LE>,
    name: &str,
) -> Result<Section, ModuleErrorKind> {
    let has = |flag: elf::SectionFlags| header.sh_flags.get(LE).0 & flag.0 != 0;
    if has(elf::SHF_COMPRESSED) {
        return Err(Malformed(format!("section '{name}' is compressed")));
    }
    if has(elf::SHF_WRITE) && has(elf::SHF_EXECINSTR) {
        return Err(ModuleErrorKind::WritableCode(name.to_owned()));
    }
    let region = if name == EH_FRAME {
        Region::ReadOnly
    } else if has(elf::SHF_EXECINSTR) {
        Region::Text
    } else if has(elf::SHF_WRITE) && !name.starts_with(".data.rel.ro") {
        Region::Data
    } else {
        Region::ReadOnly
    };
    let alignment = header.sh_addralign.get(LE).max(1);
    if !alignment.is_power_of_two() {
        return Err(Malformed(format!("alignment of section '{name}'")));
    }
    let size = header.sh_size.get(LE);
    if alignment > MAX_ALIGNMENT || size > MAX_REGION {
        return Err(too_large(name));
    }
    let contents = if header.sh_type.get(LE) == elf::SHT_NOBITS {
        Contents::Zero(size)
    } else {
        Contents::Bytes(header.data(LE, file.bytes).map_err(malformed)?.to_vec())
    };
    if name == EH_FRAME {
        check_eh_frame(&contents)?;
    }
    Ok(Section {
        name: name.to_owned(),
        region,
        alignment,
        contents,
    })
}

/// Entries must fill the section without a terminator, which would hide what follows.
fn check_eh_frame(contents: &Contents) -> Result<(), ModuleErrorKind> {
    let damaged = || Malformed(format!("entries of section '{EH_FRAME}'"));
    let Contents::Bytes(bytes) = contents else {
        return Err(damaged());
    };
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let length = rest.get(..4).ok_or_else(damaged)?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        // Zero ends the section, all ones announces the 64-bit form that no compiler writes.
        if length == 0 || length == u32::MAX {
            return Err(damaged());
        }
        rest = rest.get(4 + length as usize..).ok_or_else(damaged)?;
    }
    Ok(())
}

fn too_large(section: &str) -> ModuleErrorKind {
    ModuleErrorKind::SectionTooLarge {
        section: section.to_owned(),
    }
}

/// The pre-patch code that the module carries along. It does not become part of the target.
pub(super) fn read_pre_code(file: &File<'_>) -> Result<Option<PreCode>, ModuleErrorKind> {
    let mut found = None;
    for header in file.sections.iter() {
        if file.section_name(header)? != PRE_CODE_SECTION {
            continue;
        }
        let has = |flag: elf::SectionFlags| header.sh_flags.get(LE).0 & flag.0 != 0;
        let plain = header.sh_type.get(LE) == elf::SHT_PROGBITS
            && !has(elf::SHF_ALLOC)
            && !has(elf::SHF_COMPRESSED);
        if !plain || found.is_some() {
            return Err(Malformed(format!("section '{PRE_CODE_SECTION}'")));
        }
        if header.sh_size.get(LE) > MAX_PRE_CODE {
            return Err(too_large(PRE_CODE_SECTION));
        }
        found = Some(PreCode::from_bytes(
            header.data(LE, file.bytes).map_err(malformed)?,
        )?);
    }
    Ok(found)
}

/// Constructors, destructors and new thread-local variables have no way to take effect.
pub(super) fn refuse_startup_code(
    file: &File<'_>,
    symbols: &Symbols,
) -> Result<(), ModuleErrorKind> {
    for (index, header) in file.sections.enumerate() {
        let flags = header.sh_flags.get(LE).0;
        if flags & elf::SHF_ALLOC.0 == 0 || header.sh_size.get(LE) == 0 {
            continue;
        }
        let name = file.section_name(header)?;
        if flags & elf::SHF_TLS.0 != 0 {
            let variable = symbols.first_in(index.0).unwrap_or(name);
            return Err(ModuleErrorKind::NewThreadLocal(variable.to_owned()));
        }
        if is_startup(header, name) {
            return Err(ModuleErrorKind::Constructor {
                section: name.to_owned(),
                function: first_listed(file, index.0, symbols)
                    .unwrap_or("a function")
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// The function that the first relocation of section `index` refers to.
fn first_listed<'a>(file: &File<'_>, index: usize, symbols: &'a Symbols) -> Option<&'a str> {
    let of_section = |header: &&SectionHeader64<LE>| {
        header.sh_type.get(LE) == elf::SHT_RELA && header.sh_info.get(LE) as usize == index
    };
    let header = file.sections.iter().find(of_section)?;
    let (entries, _) = header.rela(LE, file.bytes).ok()??;
    let entry = entries.first()?;
    symbols.name_at(
        (entry.r_info.get(LE) >> 32) as usize,
        entry.r_addend.get(LE),
    )
}
