//! From the bytes of a file to an [`ObjectFile`].

use engraft_arch::decode::bytes_after_field;
use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, Rela64, SectionHeader64, Sym64};
use object::read::elf::{FileHeader as _, SectionHeader as _, SectionTable, Sym as _, SymbolTable};
use object::{SectionIndex, SymbolIndex};

use super::{Binding, ObjectFile, Relocation, Section, SectionKind, Symbol, SymbolKind, Target};
use crate::error::{BuildError, Context as _};

impl ObjectFile {
    /// Reads a relocatable x86-64 ELF file.
    ///
    /// # Errors
    ///
    /// When it is anything else, or damaged.
    pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<Self, BuildError> {
        if is_bitcode(bytes) {
            return Ok(of_bitcode(name, bytes));
        }
        read(name, bytes).context(|| format!("object '{name}'"))
    }
}

/// LLVM's own form of code, which clang writes for optimization at link time instead of an
/// object.
pub(crate) fn is_bitcode(bytes: &[u8]) -> bool {
    bytes.starts_with(b"BC\xc0\xde") || bytes.starts_with(&[0xde, 0xc0, 0x17, 0x0b])
}

fn of_bitcode(name: &str, bytes: &[u8]) -> ObjectFile {
    let mut object = ObjectFile::empty(name);
    object.sections.push(Section {
        name: ".llvmbc".to_owned(),
        kind: SectionKind::LinkTimeCode,
        alignment: 1,
        entry_size: 0,
        size: bytes.len() as u64,
        bytes: bytes.to_vec(),
        relocations: Vec::new(),
        group: None,
        defines: Vec::new(),
    });
    object
}

fn read(name: &str, bytes: &[u8]) -> Result<ObjectFile, BuildError> {
    let header = FileHeader64::<LE>::parse(bytes)?;
    if header.e_machine.get(LE) != elf::EM_X86_64 || header.e_type.get(LE) != elf::ET_REL {
        return Err(BuildError::new("it is not a relocatable x86-64 object"));
    }
    let table = header.sections(LE, bytes)?;
    let raw_symbols = table.symbols(LE, bytes, elf::SHT_SYMTAB)?;
    let mut object = ObjectFile {
        name: name.to_owned(),
        sections: read_sections(&table, bytes)?,
        symbols: read_symbols(&table, &raw_symbols)?,
    };
    read_groups(&table, bytes, &mut object)?;
    for (index, header) in table.iter().enumerate() {
        if let Some((entries, _)) = header.rela(LE, bytes)? {
            let section = header.sh_info.get(LE) as usize;
            if object.sections.get(section).is_none() {
                let message = format!("relocation section {index} has no target");
                return Err(BuildError::new(message));
            }
            read_relocations(&mut object, section, entries)?;
        }
    }
    mark_exception_pointers(&mut object);
    for index in 0..object.symbols.len() {
        let symbol = &object.symbols[index];
        let named = !matches!(symbol.kind, SymbolKind::Section | SymbolKind::Other);
        if let Some((section, _)) = symbol.place.filter(|_| named && !symbol.name.is_empty()) {
            object.sections[section].defines.push(index);
        }
    }
    for section in &mut object.sections {
        let symbols = &object.symbols;
        section.defines.sort_by_key(|index| symbols[*index].place);
    }
    Ok(object)
}

/// Data without names that only exception tables and frame descriptions refer to are pointers
/// to types, which nobody changes.
fn mark_exception_pointers(object: &mut ObjectFile) {
    let mut named = vec![false; object.sections.len()];
    let mut users = vec![None; object.sections.len()];
    for symbol in &object.symbols {
        let section = symbol.place.map_or(0, |(section, _)| section);
        named[section] |= symbol.kind != SymbolKind::Section;
    }
    for section in &object.sections {
        let exceptions = matches!(
            section.kind,
            SectionKind::ExceptionTable | SectionKind::EhFrame
        );
        for relocation in &section.relocations {
            if let Target::Place { section, .. } = object.target(relocation) {
                users[section] = Some(users[section].unwrap_or(true) && exceptions);
            }
        }
    }
    for (index, section) in object.sections.iter_mut().enumerate() {
        if section.kind == SectionKind::Data && !named[index] && users[index] == Some(true) {
            section.kind = SectionKind::RelocatedReadOnly;
        }
    }
}

/// A large page; what a file asks for beyond that is damage.
const MAX_ALIGNMENT: u64 = 1 << 21;

/// Constant zeros that the file need not have, written out up to this length.
const MAX_ZEROS: u64 = 1 << 20;

type Sections<'a> = SectionTable<'a, FileHeader64<LE>>;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read_sections(table: &Sections<'_>, bytes: &[u8]) -> Result<Vec<Section>, BuildError> {
    let read = |header: &SectionHeader64<LE>| {
        let name = text(table.section_name(LE, header)?);
        let flags = header.sh_flags(LE);
        let alignment = header.sh_addralign.get(LE).max(1);
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            let message = format!("section '{name}' has the alignment {alignment}");
            return Err(BuildError::new(message));
        }
        let mut kind = SectionKind::of(&name, header.sh_type.get(LE), flags);
        let mut contents = match kind {
            SectionKind::Ignored => Vec::new(),
            _ => header.data(LE, bytes)?.to_vec(),
        };
        if kind == SectionKind::RelocatedReadOnly && header.sh_type.get(LE) == elf::SHT_NOBITS {
            match header.sh_size.get(LE) {
                size @ 0..=MAX_ZEROS => contents.resize(size as usize, 0),
                _ => kind = SectionKind::Zero,
            }
        }
        Ok(Section {
            kind,
            name,
            alignment,
            entry_size: header.sh_entsize.get(LE),
            size: header.sh_size.get(LE),
            bytes: contents,
            relocations: Vec::new(),
            group: None,
            defines: Vec::new(),
        })
    };
    table.iter().map(read).collect()
}

fn read_symbols(
    sections: &Sections<'_>,
    table: &SymbolTable<'_, FileHeader64<LE>>,
) -> Result<Vec<Symbol>, BuildError> {
    let mut file = None;
    let mut symbols = Vec::new();
    for (index, raw) in table.symbols().iter().enumerate() {
        let section = table.symbol_section(LE, raw, SymbolIndex(index))?;
        let section = section.filter(|index| index.0 < sections.len());
        let name = match (raw.st_type(), section) {
            (elf::STT_SECTION, Some(index)) => {
                text(sections.section_name(LE, sections.section(index)?)?)
            }
            _ => text(table.symbol_name(LE, raw)?),
        };
        if raw.st_type() == elf::STT_FILE {
            file = Some(name.clone());
        }
        symbols.push(read_symbol(raw, name, section, file.as_ref()));
    }
    Ok(symbols)
}

fn read_symbol(
    raw: &Sym64<LE>,
    name: String,
    section: Option<SectionIndex>,
    file: Option<&String>,
) -> Symbol {
    let binding = match raw.st_bind() {
        elf::STB_LOCAL => Binding::Local,
        elf::STB_WEAK => Binding::Weak,
        _ => Binding::Global,
    };
    Symbol {
        kind: kind_of(raw),
        binding,
        size: raw.st_size.get(LE),
        place: section.map(|index| (index.0, raw.st_value.get(LE))),
        common: raw.is_common(LE),
        file: file.filter(|_| binding == Binding::Local).cloned(),
        name,
    }
}

/// What a symbol stands for.
pub(crate) fn kind_of(raw: &Sym64<LE>) -> SymbolKind {
    match raw.st_type() {
        elf::STT_FUNC => SymbolKind::Function,
        elf::STT_GNU_IFUNC => SymbolKind::Ifunc,
        elf::STT_OBJECT | elf::STT_COMMON => SymbolKind::Object,
        elf::STT_TLS => SymbolKind::Tls,
        elf::STT_SECTION => SymbolKind::Section,
        elf::STT_NOTYPE => SymbolKind::Label,
        _ => SymbolKind::Other,
    }
}

fn read_groups(
    table: &Sections<'_>,
    bytes: &[u8],
    object: &mut ObjectFile,
) -> Result<(), BuildError> {
    for header in table.iter() {
        let Some((flags, members)) = header.group(LE, bytes)? else {
            continue;
        };
        if flags.0 & elf::GRP_COMDAT.0 == 0 {
            continue;
        }
        let signature = object.symbols.get(header.sh_info.get(LE) as usize);
        let signature = signature.map(|symbol| symbol.name.clone());
        for member in members {
            if let Some(section) = object.sections.get_mut(member.get(LE) as usize) {
                section.group.clone_from(&signature);
            }
        }
    }
    Ok(())
}

fn read_relocations(
    object: &mut ObjectFile,
    index: usize,
    entries: &[Rela64<LE>],
) -> Result<(), BuildError> {
    let section = &object.sections[index];
    if section.kind == SectionKind::Ignored {
        return Ok(());
    }
    let is_code = section.kind == SectionKind::Code;
    let mut relocations = Vec::with_capacity(entries.len());
    for entry in entries {
        let symbol = (entry.r_info.get(LE) >> 32) as usize;
        if symbol >= object.symbols.len() {
            return Err(BuildError::new("a relocation names no symbol"));
        }
        relocations.push(Relocation {
            offset: entry.r_offset.get(LE),
            kind: entry.r_info.get(LE) as u32,
            symbol,
            addend: entry.r_addend.get(LE),
            distance: entry.r_addend.get(LE),
        });
    }
    relocations.sort_by_key(|relocation| relocation.offset);
    if is_code {
        let relative = relocations.iter().filter(|r| is_relative(r.kind));
        let fields: Vec<u64> = relative.map(|r| r.offset).collect();
        let mut ends = bytes_after_field(&section.bytes, &fields).into_iter();
        for relocation in relocations.iter_mut().filter(|r| is_relative(r.kind)) {
            // A field that is in no instruction is data between code.
            relocation.distance += ends.next().flatten().map_or(0, i64::from);
        }
    }
    object.sections[index].relocations.extend(relocations);
    Ok(())
}

/// The field counts from the end of its instruction.
fn is_relative(kind: u32) -> bool {
    // PC32, PLT32, GOTPCREL, TLSGD, TLSLD, GOTTPOFF, GOTPC32_TLSDESC, GOTPCRELX and
    // REX_GOTPCRELX.
    matches!(kind, 2 | 4 | 9 | 19 | 20 | 22 | 34 | 41 | 42)
}
