//! From extracted objects to a patch module file.

mod hooks;
mod source;

use std::fs;
use std::path::Path;

use engraft_module::{CompileRequest, PRE_CODE_SECTION, PatchModule, PreCode, compile};
use object::write::Object;
use object::{Architecture, BinaryFormat, Endianness, SectionFlags, SectionKind};

use crate::ModuleRequest;
use crate::error::{BuildError, Context as _};
use crate::extract::Extracted;
pub(crate) use hooks::Hooks;

/// Writes a patch module.
///
/// # Errors
///
/// When the parts do not fit together, or the file cannot be written. The output file is then as
/// it was before.
pub(crate) fn assemble(
    extracted: &Extracted,
    hooks: Option<&Hooks>,
    request: &ModuleRequest<'_>,
) -> Result<PatchModule, BuildError> {
    let work = tempfile::Builder::new()
        .prefix("engraft-build-")
        .tempdir()
        .context(|| "create a temporary directory".to_owned())?;
    let place = |name: &str| work.path().join(name);
    let write = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).context(|| format!("write '{}'", path.display()))
    };
    let mut objects = Vec::new();
    for (index, bytes) in extracted.objects.iter().enumerate() {
        let path = place(&format!("extracted-{index}.o"));
        write(&path, bytes)?;
        objects.push(path);
    }
    let pre_code = PreCode {
        objects: vec![extracted.pre_code.clone()],
    };
    let path = place("pre.o");
    write(&path, &wrap_pre_code(&pre_code)?)?;
    objects.push(path);
    let path = place("patch.c");
    let text = source::describe_patch(extracted, request.replace_set);
    write(&path, text.as_bytes())?;
    objects.extend(hooks.map(|hooks| hooks.object().to_owned()));
    let compiled = compile(&CompileRequest {
        sources: vec![path],
        objects,
        output: request.output.to_owned(),
        flags: Vec::new(),
        made_for: request.made_for.into_iter().map(Path::to_owned).collect(),
    });
    compiled
        .map(|compiled| compiled.module)
        .map_err(|error| BuildError::new(error.to_string()))
}

/// An object that holds nothing but the section with the pre-patch code.
fn wrap_pre_code(code: &PreCode) -> Result<Vec<u8>, BuildError> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let name = PRE_CODE_SECTION.as_bytes().to_vec();
    let section = object.add_section(Vec::new(), name, SectionKind::Other);
    object.section_mut(section).flags = SectionFlags::Elf {
        sh_type: object::elf::SHT_PROGBITS,
        sh_flags: object::elf::SectionFlags(0),
    };
    object.append_section_data(section, &code.to_bytes(), 1);
    object
        .write()
        .map_err(|error| BuildError::new(error.to_string()))
}
