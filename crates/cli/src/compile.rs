//! The cc command: from a livepatch's source to a patch module.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use engraft_module::{CompileErrorKind, CompileRequest, PatchModule};
use serde_json::json;

use crate::arguments::CcArguments;
use crate::failure::{Failure, Verdict};
use crate::output::Output;
use crate::render::printable;

pub(crate) fn run(arguments: &CcArguments, output: &Output) -> Result<Verdict, Failure> {
    let (module, diagnostics) = compile(&CompileRequest {
        objects: Vec::new(),
        sources: arguments.sources.clone(),
        output: arguments.output.clone(),
        flags: flags(arguments),
        made_for: arguments.made_for.clone(),
    })?;
    if output.json {
        output.object(&json!({
            "name": module.name,
            "file": arguments.output.to_string_lossy(),
            "livepatch": module.is_livepatch(),
            "diagnostics": diagnostics,
        }));
        return Ok(Verdict::Done);
    }
    if !diagnostics.is_empty() {
        // The compiler's own words, colours included; its warnings are not errors.
        let _ = io::stderr().write_all(diagnostics.as_bytes());
    }
    let kind = if module.is_livepatch() {
        "patch module"
    } else {
        "module without a patch"
    };
    output.line(&format!(
        "{}: {kind} '{}'",
        arguments.output.display(),
        printable(&module.name)
    ));
    Ok(Verdict::Done)
}

fn flags(arguments: &CcArguments) -> Vec<OsString> {
    let mut flags = preprocessor_flags(&arguments.include, &arguments.define);
    flags.extend(arguments.flags.iter().map(OsString::from));
    flags
}

/// `-I` and `-D` as compilers take them.
pub(crate) fn preprocessor_flags(include: &[PathBuf], define: &[String]) -> Vec<OsString> {
    let include = include.iter().flat_map(|path| ["-I".into(), path.into()]);
    let define = define.iter().flat_map(|name| ["-D".into(), name.into()]);
    include.chain(define).collect()
}

/// Compiles a patch module; also returns what the compiler had to say.
pub(crate) fn compile(request: &CompileRequest) -> Result<(PatchModule, String), Failure> {
    let compiled = engraft_module::compile(request).map_err(|error| {
        let failure = Failure::new(error.to_string());
        match error.kind {
            CompileErrorKind::Failed { .. } => {
                failure.with_help("compiler flags of the program itself, such as -I, are given with -I, -D or after --")
            }
            _ => failure,
        }
    })?;
    Ok((compiled.module, compiled.diagnostics))
}
