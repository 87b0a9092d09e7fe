//! The symbols command: what a debugger needs to see patches.

use std::path::Path;

use engraft_module::write_atomically;
use serde_json::json;

use crate::arguments::SymbolsArguments;
use crate::failure::{Failure, Verdict};
use crate::output::Output;
use crate::target;

pub(crate) fn run(arguments: &SymbolsArguments, output: &Output) -> Result<Verdict, Failure> {
    let processes = arguments.target.processes()?;
    if processes.len() > 1 {
        let message = format!("there are several processes, and one file: {processes:?}");
        return Err(Failure::new(message).with_help("choose one of them with --pid"));
    }
    let file = &arguments.output;
    if file.exists() && !file.is_file() {
        let message = format!("{} is not a regular file", file.display());
        return Err(Failure::new(message).with_help("name another file"));
    }
    target::for_each(&arguments.target, output, |pid| write(pid, file, output))
}

fn write(pid: i32, file: &Path, output: &Output) -> Result<Verdict, Failure> {
    let bytes = engraft_engine::read_symbol_file(pid)?;
    write_atomically(file, &bytes)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    if output.json {
        output.object(&json!({ "pid": pid, "file": file.to_string_lossy() }));
    } else {
        output.line(&format!(
            "{0}: for gdb -p {pid} -ex 'add-symbol-file {0}'",
            file.display()
        ));
    }
    Ok(Verdict::Done)
}
