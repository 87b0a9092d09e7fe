//! What a module says about itself: name, information, parameters.

use std::path::Path;

use engraft_abi::{MODULE_NAME_LEN, PARAM_ARRAY, ParamKind, ParamRecord};

use crate::declared::Pointers;
use crate::name::check_name;
use crate::{Contents, Definition, ModuleErrorKind, Param, PatchModule, Section, module_name};

use ModuleErrorKind::Malformed;

const RECORD_SIZE: usize = size_of::<ParamRecord>();
const MAX_PARAMS: usize = 4096;

/// The pairs of section `.modinfo`: zero-terminated texts of the form `tag=text`.
pub(super) fn read_info(sections: &[Section]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for section in sections.iter().filter(|section| section.name == ".modinfo") {
        let Contents::Bytes(bytes) = &section.contents else {
            continue;
        };
        for entry in bytes.split(|&byte| byte == 0) {
            if let Some((tag, text)) = String::from_utf8_lossy(entry).split_once('=') {
                pairs.push((tag.to_owned(), text.to_owned()));
            }
        }
    }
    pairs
}

pub(super) fn find_name(module: &PatchModule, file_name: &str) -> Result<String, ModuleErrorKind> {
    let own = read_own_name(module)?;
    match own.as_deref().or_else(|| module.info("name")) {
        Some(name) => Ok(check_name(name)?),
        None => Ok(module_name(Path::new(file_name))?),
    }
}

/// The name in `__this_module`, if the module defines and initialises it.
fn read_own_name(module: &PatchModule) -> Result<Option<String>, ModuleErrorKind> {
    let mut symbols = module.symbols.iter();
    let Some(symbol) = symbols.find(|symbol| symbol.name == "__this_module") else {
        return Ok(None);
    };
    let Definition::Section { section, offset } = symbol.definition else {
        return Ok(None);
    };
    let Contents::Bytes(bytes) = &module.sections[section].contents else {
        return Ok(None);
    };
    let start = offset as usize + std::mem::offset_of!(engraft_abi::Module, name);
    let field = bytes
        .get(start..start + MODULE_NAME_LEN)
        .ok_or_else(|| Malformed("size of __this_module".into()))?;
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .ok_or_else(|| Malformed("name in __this_module".into()))?;
    let name = String::from_utf8_lossy(&field[..end]).into_owned();
    Ok((!name.is_empty()).then_some(name))
}

pub(super) fn read_params(module: &PatchModule) -> Result<Vec<Param>, ModuleErrorKind> {
    let pointers = Pointers::of(module);
    let mut params = Vec::new();
    for (index, section) in module.sections.iter().enumerate() {
        if section.name != "__param" {
            continue;
        }
        let Contents::Bytes(bytes) = &section.contents else {
            return Err(Malformed("section '__param' has no contents".into()));
        };
        if bytes.len() % RECORD_SIZE != 0 || bytes.len() / RECORD_SIZE > MAX_PARAMS {
            return Err(Malformed("size of section '__param'".into()));
        }
        for (position, record) in bytes.chunks_exact(RECORD_SIZE).enumerate() {
            let place = (index, (position * RECORD_SIZE) as u64);
            let param = read_param(&pointers, place, record)
                .ok_or_else(|| Malformed(format!("parameter record {position}")))?;
            params.push(param);
        }
    }
    Ok(params)
}

fn read_param(pointers: &Pointers<'_>, place: (usize, u64), record: &[u8]) -> Option<Param> {
    let word = |offset: usize| {
        let bytes = record.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let field = |offset: usize| (place.0, place.1 + offset as u64);
    pointers.symbol(field(std::mem::offset_of!(ParamRecord, variable)))?;
    let raw_kind = word(std::mem::offset_of!(ParamRecord, kind))?;
    Some(Param {
        name: pointers.text(field(std::mem::offset_of!(ParamRecord, name)))?,
        kind: param_kind(raw_kind & !PARAM_ARRAY)?,
        array: raw_kind & PARAM_ARRAY != 0,
        elements: word(std::mem::offset_of!(ParamRecord, elements))?,
        place,
    })
}

fn param_kind(raw: u32) -> Option<ParamKind> {
    const ALL: [ParamKind; 10] = [
        ParamKind::Bool,
        ParamKind::Byte,
        ParamKind::Short,
        ParamKind::Ushort,
        ParamKind::Int,
        ParamKind::Uint,
        ParamKind::Long,
        ParamKind::Ulong,
        ParamKind::Ullong,
        ParamKind::Charp,
    ];
    ALL.into_iter().find(|kind| *kind as u32 == raw)
}
