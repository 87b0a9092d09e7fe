//! A file that describes an object: the object's own file, or a separate debug file.

use std::ops::Range;
use std::sync::Arc;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, SectionHeader64, Sym64};
use object::read::elf::{FileHeader as _, SectionHeader as _, SectionTable};

use crate::symbol::{NameBudget, string_at};
use crate::{Binding, BuildId, DebugLink, FileError, FileErrorKind, Image, Symbol};

use FileErrorKind::Malformed;

/// The symbols of a file.
#[derive(Clone, Debug)]
pub struct SymbolFile {
    /// Its build-id, where it has one.
    pub build_id: Option<BuildId>,
    /// The name of its separate debug file, where it has one.
    pub debug_link: Option<DebugLink>,
    /// It has a `.symtab`: local symbols are known.
    pub complete: bool,
    /// Symbols of `.symtab` in table order, with link-time addresses. Those of `.dynsym` are
    /// read from the image, which has them too.
    pub symbols: Vec<Symbol>,
    /// The sections that occupy memory, in table order.
    pub sections: Vec<FileSection>,
}

/// A section that occupies memory. A debug file has their headers without their contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSection {
    /// Its name.
    pub name: String,
    /// Its link-time address.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// It holds code (SHF_EXECINSTR).
    pub executable: bool,
}

/// Whether a file describes an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The build-ids are equal.
    Same,
    /// They differ: the file was replaced since the object was mapped, or is another one's.
    Different {
        /// Build-id of the mapped image.
        image: BuildId,
        /// Build-id of the file.
        file: BuildId,
    },
    /// The image has no build-id.
    ImageWithoutBuildId,
    /// The image has a build-id, but the file has none.
    FileWithoutBuildId,
}

impl SymbolFile {
    /// Reads the symbols of an ELF file.
    ///
    /// # Errors
    ///
    /// [`FileError`] when the bytes are not a 64-bit x86-64 ELF file or are damaged. A file
    /// without symbols is not an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, FileError> {
        parse(bytes).map_err(|kind| FileError { kind })
    }

    /// Absolute addresses of the section `name` in `image`, if it lies inside. Static
    /// executables have an .eh_frame that no program header leads to.
    #[must_use]
    pub fn section_in(&self, name: &str, image: &Image) -> Option<Range<u64>> {
        let section = self.sections.iter().find(|section| section.name == name)?;
        let start = section.address.wrapping_add(image.bias);
        let end = start.checked_add(section.size)?;
        let segment = image.segment_at(start)?;
        (end <= segment.range().end).then_some(start..end)
    }

    /// Compares the build-ids of file and image.
    #[must_use]
    pub fn compare(&self, image: &Image) -> Identity {
        match (&image.build_id, &self.build_id) {
            (Some(image), Some(file)) if image == file => Identity::Same,
            (Some(image), Some(file)) => Identity::Different {
                image: image.clone(),
                file: file.clone(),
            },
            (None, _) => Identity::ImageWithoutBuildId,
            (Some(_), None) => Identity::FileWithoutBuildId,
        }
    }
}

fn parse(bytes: &[u8]) -> Result<SymbolFile, FileErrorKind> {
    let header = parse_header(bytes)?;
    let sections = header.sections(LE, bytes).map_err(malformed)?;
    let table = sections
        .iter()
        .find(|section| section.sh_type.get(LE) == elf::SHT_SYMTAB);
    let mut build_id = None;
    for section in sections.iter() {
        // Debug files keep the headers of allocated sections, but only notes keep contents.
        if build_id.is_none() && section.sh_type.get(LE) == elf::SHT_NOTE {
            let notes = section.data(LE, bytes).map_err(malformed)?;
            build_id = BuildId::find_in_notes(notes, section.sh_addralign.get(LE));
        }
    }
    let debug_link = sections
        .section_by_name(LE, b".gnu_debuglink")
        .map(|(_, section)| parse_debug_link(section, bytes))
        .transpose()?;
    let symbols = match table {
        Some(table) => {
            let strings = sections
                .section(table.link(LE))
                .and_then(|section| section.data(LE, bytes))
                .map_err(malformed)?;
            parse_symbols(table, strings, bytes)?
        }
        None => Vec::new(),
    };
    Ok(SymbolFile {
        build_id,
        debug_link,
        complete: table.is_some(),
        symbols,
        sections: list_sections(&sections)?,
    })
}

fn list_sections(
    sections: &SectionTable<'_, FileHeader64<LE>>,
) -> Result<Vec<FileSection>, FileErrorKind> {
    let mut list = Vec::new();
    let mut budget = NameBudget::new(sections.len(), 1 << 20);
    for section in sections.iter() {
        let flags = section.sh_flags.get(LE).0;
        if flags & elf::SHF_ALLOC.0 == 0 {
            continue;
        }
        let name = sections.section_name(LE, section).map_err(malformed)?;
        budget
            .take(name)
            .ok_or_else(|| Malformed("the names of sections are too long".into()))?;
        list.push(FileSection {
            name: String::from_utf8_lossy(name).into_owned(),
            address: section.sh_addr.get(LE),
            size: section.sh_size.get(LE),
            executable: flags & elf::SHF_EXECINSTR.0 != 0,
        });
    }
    Ok(list)
}

pub(crate) fn parse_header(bytes: &[u8]) -> Result<&FileHeader64<LE>, FileErrorKind> {
    if bytes.get(..4) != Some(&elf::ELFMAG) {
        return Err(FileErrorKind::NotElf);
    }
    if bytes.get(4) == Some(&elf::ELFCLASS32.0) {
        return Err(FileErrorKind::ThirtyTwoBit);
    }
    let (header, _) = object::pod::from_bytes::<FileHeader64<LE>>(bytes)
        .map_err(|()| Malformed("the file header is cut off".into()))?;
    let machine = header.e_machine.get(LE);
    if header.e_ident.data != elf::ELFDATA2LSB || machine != elf::EM_X86_64 {
        return Err(FileErrorKind::ForeignMachine(machine.0));
    }
    Ok(header)
}

fn parse_symbols(
    table: &SectionHeader64<LE>,
    strings: &[u8],
    bytes: &[u8],
) -> Result<Vec<Symbol>, FileErrorKind> {
    let raw: &[Sym64<LE>] = table.data_as_array(LE, bytes).map_err(malformed)?;
    let mut budget = NameBudget::new(raw.len(), strings.len());
    let mut source_file: Option<Arc<str>> = None;
    let mut symbols = Vec::new();
    for raw in raw.iter().skip(1) {
        let name = string_at(strings, raw.st_name.get(LE) as usize)
            .ok_or_else(|| Malformed("a symbol's name lies outside the string table".into()))?;
        budget
            .take(name)
            .ok_or_else(|| Malformed("the names of symbols are too long".into()))?;
        if raw.st_type() == elf::STT_FILE {
            // The linker ends the files' symbols with an unnamed one.
            let name = String::from_utf8_lossy(name);
            source_file = (!name.is_empty()).then(|| name.into());
        } else if let Some(mut symbol) = Symbol::decode(raw, name) {
            if symbol.binding == Binding::Local {
                symbol.source_file = source_file.clone();
            }
            symbols.push(symbol);
        }
    }
    Ok(symbols)
}

fn parse_debug_link(
    section: &SectionHeader64<LE>,
    bytes: &[u8],
) -> Result<DebugLink, FileErrorKind> {
    let damaged = || Malformed(".gnu_debuglink".into());
    let data = section.data(LE, bytes).map_err(malformed)?;
    let name = string_at(data, 0).ok_or_else(damaged)?;
    let file_name = std::str::from_utf8(name)
        .ok()
        .filter(|name| !name.is_empty() && !name.contains('/') && !matches!(*name, "." | ".."))
        .ok_or_else(damaged)?;
    let position = (name.len() + 1).next_multiple_of(4);
    let crc = data.get(position..position + 4).ok_or_else(damaged)?;
    Ok(DebugLink {
        file_name: file_name.to_owned(),
        crc: u32::from_le_bytes(crc.try_into().map_err(|_| damaged())?),
    })
}

pub(crate) fn malformed(error: object::read::Error) -> FileErrorKind {
    Malformed(error.to_string())
}
