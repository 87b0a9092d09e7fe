//! The symbols command: what a debugger needs to see patches.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::arguments::SymbolsArguments;
use crate::failure::{Failure, Verdict};
use crate::output::Output;

pub(crate) fn run(arguments: &SymbolsArguments, output: &Output) -> Result<Verdict, Failure> {
    let bytes = engraft_engine::read_symbol_file(arguments.pid)?;
    let file = &arguments.output;
    write_atomically(file, &bytes)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    if output.json {
        output.object(&json!({ "pid": arguments.pid, "file": file.to_string_lossy() }));
    } else {
        output.line(&format!(
            "{0}: for gdb -p {1} -ex 'add-symbol-file {0}'",
            file.display(),
            arguments.pid
        ));
    }
    Ok(Verdict::Done)
}

/// A debugger sees the old file or the whole new one.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() && !path.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".engraft-symbols-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}
