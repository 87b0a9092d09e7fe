//! An executable or library on disk, as far as a patch module can be made for it.
//!
//! Only program headers are used: a file without section headers has them, too.

use object::LittleEndian as LE;
use object::elf::{self, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use crate::symbol::string_at;
use crate::symbol_file::{malformed, parse_header};
use crate::{BuildId, FileError, FileErrorKind};

use FileErrorKind::Malformed;

/// The identity of an object's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFile {
    /// Its build-id, where it has one.
    pub build_id: Option<BuildId>,
    /// What it is.
    pub kind: ObjectKind,
}

/// What a loadable ELF file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A program: linked to a fixed address, marked as one (DF_1_PIE), or with an interpreter;
    /// but not if it has a soname, as the C library has besides its interpreter.
    Executable,
    /// A shared library.
    Library {
        /// DT_SONAME.
        soname: Option<String>,
    },
}

impl ObjectFile {
    /// Reads the headers of an ELF file.
    ///
    /// # Errors
    ///
    /// [`FileError`] when the bytes are no executable or library for 64-bit x86-64, are
    /// damaged, or are a separate debug file, which lacks what is asked for here.
    pub fn parse(bytes: &[u8]) -> Result<Self, FileError> {
        parse(bytes).map_err(|kind| FileError { kind })
    }
}

fn parse(bytes: &[u8]) -> Result<ObjectFile, FileErrorKind> {
    let header = parse_header(bytes)?;
    let kind = header.e_type.get(LE);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(FileErrorKind::NotLoadable(kind.0));
    }
    let headers = header.program_headers(LE, bytes).map_err(malformed)?;
    let dynamic = Dynamic::read(headers, bytes)?;
    let interpreted = headers
        .iter()
        .any(|header| header.p_type.get(LE) == elf::PT_INTERP);
    let program = kind == elf::ET_EXEC || dynamic.marked_as_program || interpreted;
    Ok(ObjectFile {
        build_id: find_build_id(headers, bytes)?,
        kind: if program && dynamic.soname.is_none() {
            ObjectKind::Executable
        } else {
            ObjectKind::Library {
                soname: dynamic.soname,
            }
        },
    })
}

fn find_build_id(
    headers: &[ProgramHeader64<LE>],
    bytes: &[u8],
) -> Result<Option<BuildId>, FileErrorKind> {
    for header in headers {
        if header.p_type.get(LE) == elf::PT_NOTE {
            let notes = header.data(LE, bytes).map_err(|()| cut_off("notes"))?;
            if let Some(id) = BuildId::find_in_notes(notes, header.p_align.get(LE)) {
                return Ok(Some(id));
            }
        }
    }
    Ok(None)
}

#[derive(Default)]
struct Dynamic {
    soname: Option<String>,
    marked_as_program: bool,
}

impl Dynamic {
    fn read(headers: &[ProgramHeader64<LE>], bytes: &[u8]) -> Result<Self, FileErrorKind> {
        let mut found = headers
            .iter()
            .filter(|header| header.p_type.get(LE) == elf::PT_DYNAMIC);
        let Some(header) = found.next() else {
            return Ok(Self::default());
        };
        if header.p_filesz.get(LE) == 0 {
            return Err(FileErrorKind::DebugFile);
        }
        let entries = header
            .dynamic(LE, bytes)
            .map_err(malformed)?
            .ok_or_else(|| cut_off("dynamic section"))?;
        let value = |tag: elf::DynamicTag| {
            let mut entries = entries
                .iter()
                .take_while(|entry| entry.d_tag.get(LE) != elf::DT_NULL);
            entries
                .find(|entry| entry.d_tag.get(LE) == tag)
                .map(|entry| entry.d_val.get(LE))
        };
        let strings = || {
            let (address, length) = (value(elf::DT_STRTAB)?, value(elf::DT_STRSZ)?);
            headers
                .iter()
                .filter(|header| header.p_type.get(LE) == elf::PT_LOAD)
                .find_map(|header| header.data_range(LE, bytes, address, length).ok()?)
        };
        let name = |offset: u64| {
            let name = string_at(strings()?, usize::try_from(offset).ok()?)?;
            Some(String::from_utf8_lossy(name).into_owned())
        };
        Ok(Self {
            soname: value(elf::DT_SONAME)
                .map(|offset| name(offset).ok_or_else(|| cut_off("soname")))
                .transpose()?,
            marked_as_program: value(elf::DT_FLAGS_1)
                .is_some_and(|flags| flags & elf::DF_1_PIE.0 != 0),
        })
    }
}

fn cut_off(what: &str) -> FileErrorKind {
    Malformed(format!("the {what} lies outside the file"))
}
