//! From the bytes of a file to a [`PatchModule`]. The bytes are hostile until checked.

mod records;
mod relocations;
mod sections;
mod symbols;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, SectionHeader64};
use object::read::elf::{FileHeader as _, SectionTable};

use crate::{ModuleError, ModuleErrorKind, PatchModule, required_build};

use ModuleErrorKind::Malformed;

const MAX_FILE: usize = 64 << 20;

/// The file as raw tables.
struct File<'a> {
    bytes: &'a [u8],
    sections: SectionTable<'a, FileHeader64<LE>>,
}

impl<'a> File<'a> {
    fn section_name(&self, header: &SectionHeader64<LE>) -> Result<&'a str, ModuleErrorKind> {
        let name = self.sections.section_name(LE, header).map_err(malformed)?;
        std::str::from_utf8(name).map_err(|_| Malformed("a section's name is not UTF-8".into()))
    }
}

pub(crate) fn parse(bytes: &[u8], file_name: &str) -> Result<PatchModule, ModuleError> {
    parse_module(bytes, file_name).map_err(|kind| ModuleError {
        file: file_name.to_owned(),
        kind,
    })
}

fn parse_module(bytes: &[u8], file_name: &str) -> Result<PatchModule, ModuleErrorKind> {
    let header = parse_header(bytes)?;
    let file = File {
        bytes,
        sections: header.sections(LE, bytes).map_err(malformed)?,
    };
    let (sections, kept) = sections::collect(&file)?;
    let info = records::read_info(&sections);
    if let Some((_, vermagic)) = info.iter().find(|(tag, _)| tag == "vermagic") {
        return Err(ModuleErrorKind::KernelModule(vermagic.trim().to_owned()));
    }
    let pre_code = sections::read_pre_code(&file)?;
    let mut symbols = symbols::collect(&file, &kept, &sections, pre_code.as_ref())?;
    sections::refuse_startup_code(&file, &symbols)?;
    let relocations = relocations::collect(&file, &kept, &sections, &mut symbols)?;
    let mut module = PatchModule {
        name: String::new(),
        required_builds: required_build::read(&info)?,
        info,
        params: Vec::new(),
        sections,
        symbols: symbols.list,
        relocations,
        pre_code,
    };
    module.params = records::read_params(&module)?;
    module.name = records::find_name(&module, file_name)?;
    Ok(module)
}

fn parse_header(bytes: &[u8]) -> Result<&FileHeader64<LE>, ModuleErrorKind> {
    if bytes.len() > MAX_FILE {
        return Err(ModuleErrorKind::TooLong(bytes.len()));
    }
    if bytes.get(..4) != Some(&elf::ELFMAG) {
        return Err(ModuleErrorKind::NotElf);
    }
    if bytes.get(4) == Some(&elf::ELFCLASS32.0) {
        return Err(ModuleErrorKind::ThirtyTwoBit);
    }
    let (header, _) = object::pod::from_bytes::<FileHeader64<LE>>(bytes)
        .map_err(|()| Malformed("the file header is cut off".into()))?;
    let machine = header.e_machine.get(LE);
    if header.e_ident.data != elf::ELFDATA2LSB || machine != elf::EM_X86_64 {
        return Err(ModuleErrorKind::ForeignMachine(machine.0));
    }
    if header.e_ident.class != elf::ELFCLASS64 {
        return Err(Malformed("the file header's class".into()));
    }
    let kind = header.e_type.get(LE);
    if kind != elf::ET_REL {
        return Err(ModuleErrorKind::NotRelocatable(kind.0));
    }
    Ok(header)
}

fn malformed(error: object::read::Error) -> ModuleErrorKind {
    Malformed(error.to_string())
}
