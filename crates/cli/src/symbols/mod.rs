//! The symbols command: what debuggers and profilers need to see patches.

mod perf;
mod perf_data;

use std::path::{Path, PathBuf};

use engraft_module::write_atomically;
use serde_json::json;

use crate::arguments::{SymbolReader, SymbolsArguments};
use crate::failure::{Failure, Verdict};
use crate::output::Output;
use crate::target::{self, Target};

pub(crate) fn run(arguments: &SymbolsArguments, output: &Output) -> Result<Verdict, Failure> {
    let target = &arguments.target;
    let SymbolReader { output: file, perf } = &arguments.reader;
    if let Some(recording) = perf {
        return target::for_each(target, output, |pid| write_for_perf(pid, recording, output));
    }
    let file: PathBuf = file.clone().unwrap_or_default();
    check_file(target, &file)?;
    target::for_each(target, output, |pid| write_for_gdb(pid, &file, output))
}

fn check_file(target: &Target, file: &Path) -> Result<(), Failure> {
    let processes = target.processes()?;
    if processes.len() > 1 {
        let message = format!("there are several processes, and one file: {processes:?}");
        return Err(Failure::new(message).with_help("choose one of them with --pid"));
    }
    if file.exists() && !file.is_file() {
        let message = format!("{} is not a regular file", file.display());
        return Err(Failure::new(message).with_help("name another file"));
    }
    Ok(())
}

fn write_for_gdb(pid: i32, file: &Path, output: &Output) -> Result<Verdict, Failure> {
    let bytes = engraft_engine::read_symbol_file(pid)?;
    write_atomically(file, &bytes)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    let hint = format!("for gdb -p {pid} -ex 'add-symbol-file {}'", file.display());
    report(pid, file, &hint, output);
    Ok(Verdict::Done)
}

fn write_for_perf(pid: i32, recording: &Path, output: &Output) -> Result<Verdict, Failure> {
    let code = engraft_engine::read_mapped_code(pid)?;
    perf::show(pid, &code, recording)?;
    let hint = format!("process {pid}: for perf report -i {}", recording.display());
    report(pid, recording, &hint, output);
    Ok(Verdict::Done)
}

fn report(pid: i32, file: &Path, hint: &str, output: &Output) {
    if output.json {
        output.object(&json!({ "pid": pid, "file": file.to_string_lossy() }));
    } else {
        output.line(&format!("{}: {hint}", file.display()));
    }
}
