//! The symbols command: what a debugger needs to see patches.

use serde_json::json;

use crate::arguments::SymbolsArguments;
use crate::failure::{Failure, Verdict};
use crate::output::Output;

pub(crate) fn run(arguments: &SymbolsArguments, output: &Output) -> Result<Verdict, Failure> {
    let bytes = engraft_engine::read_symbol_file(arguments.pid)?;
    let file = &arguments.output;
    std::fs::write(file, bytes)
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
