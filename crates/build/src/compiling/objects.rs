//! What object files and archives are, as far as collecting them needs it.

use std::fs;
use std::io;
use std::path::Path;

use object::read::archive::ArchiveFile;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// What a file that a linker takes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A relocatable ELF file.
    Object,
    /// A compiler's intermediate code.
    Bitcode,
    /// An archive, thin or not.
    Archive,
    /// A shared library, a linker script, or anything else.
    Other,
}

pub(crate) fn kind_of(content: &[u8]) -> FileKind {
    const RELOCATABLE: &[u8] = &[1, 0];
    if content.starts_with(b"\x7fELF") && content.get(16..18) == Some(RELOCATABLE) {
        FileKind::Object
    } else if content.starts_with(b"BC\xc0\xde") {
        FileKind::Bitcode
    } else if content.starts_with(b"!<arch>\n") || content.starts_with(b"!<thin>\n") {
        FileKind::Archive
    } else {
        FileKind::Other
    }
}

/// Whether an object holds intermediate code, so that its machine code is made by the linker.
pub(crate) fn has_link_time_code(content: &[u8]) -> bool {
    if kind_of(content) == FileKind::Bitcode {
        return true;
    }
    object::File::parse(content).is_ok_and(|file| {
        file.sections().any(|section| {
            section
                .name_bytes()
                .is_ok_and(|name| name.starts_with(b".gnu.lto_") || name == b".llvm.lto")
        })
    })
}

/// Whether all functions of an object lie in one section, as without `-ffunction-sections`.
pub(super) fn has_functions_together(content: &[u8]) -> bool {
    object::File::parse(content).is_ok_and(|file| {
        let text = file.section_by_name(".text").map(|section| section.index());
        let has_functions = file.symbols().any(|symbol| {
            symbol.kind() == SymbolKind::Text
                && symbol.size() != 0
                && symbol.section_index() == text
        });
        let is_split = file.sections().any(|section| {
            section
                .name_bytes()
                .is_ok_and(|name| name.starts_with(b".text."))
        });
        text.is_some() && has_functions && !is_split
    })
}

/// Names and contents of an archive's objects. A thin archive has none.
pub(crate) fn read_members(archive: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let content = fs::read(archive)?;
    let broken = |error: object::Error| {
        let message = format!("'{}' is no archive: {error}", archive.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    let file = ArchiveFile::parse(&*content).map_err(broken)?;
    if file.is_thin() {
        return Ok(Vec::new());
    }
    let mut members = Vec::new();
    for member in file.members() {
        let member = member.map_err(broken)?;
        let data = member.data(&*content).map_err(broken)?;
        if matches!(kind_of(data), FileKind::Object | FileKind::Bitcode) {
            let name = String::from_utf8_lossy(member.name()).into_owned();
            members.push((name, data.to_vec()));
        }
    }
    Ok(members)
}
