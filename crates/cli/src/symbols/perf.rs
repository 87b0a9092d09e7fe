//! Making perf see patches: what it has recorded says of each mapping which file to read in its
//! place, by a build-id, and perf's cache of files by build-id has that file.

use std::path::Path;
use std::process::Command;

use engraft_engine::{CodeFile, MappedCode};

use super::perf_data::{Mapping, PerfData, PerfDataError};
use crate::failure::Failure;

/// Makes perf see the patches of a process in a recording.
pub(super) fn show(pid: i32, code: &[MappedCode], recording: &Path) -> Result<(), Failure> {
    let unusable = |error| explain(recording, &error);
    let data = PerfData::open(recording).map_err(unusable)?;
    let mappings = data.find_mappings(pid).map_err(unusable)?;
    let mapped = mappings.iter();
    let mapped = mapped.filter_map(|mapping| Some((mapping, find_file(code, mapping)?)));
    let mapped: Vec<(&Mapping, &CodeFile)> = mapped.collect();
    let mut files: Vec<&CodeFile> = mapped.iter().map(|(_, file)| *file).collect();
    files.dedup();
    if files.is_empty() {
        return Err(nothing_to_show(pid, recording));
    }
    files.into_iter().try_for_each(|file| cache(pid, file))?;
    mapped
        .into_iter()
        .try_for_each(|(mapping, file)| data.identify(mapping, &file.build_id))
        .map_err(unusable)
}

fn explain(recording: &Path, error: &PerfDataError) -> Failure {
    let failure = Failure::new(format!("cannot use {}: {error}", recording.display()));
    match error.help() {
        Some(help) => failure.with_help(help),
        None => failure,
    }
}

fn nothing_to_show(pid: i32, recording: &Path) -> Failure {
    let file = recording.display();
    let help = format!("record it while it is patched: perf record --call-graph dwarf -p {pid}");
    Failure::new(format!("{file} says nothing of patches of process {pid}")).with_help(help)
}

fn find_file<'c>(code: &'c [MappedCode], mapping: &Mapping) -> Option<&'c CodeFile> {
    let found = code.iter().find(|code| {
        let (whole, part) = (&code.range, &mapping.range);
        mapping.file_start == whole.start && whole.start <= part.start && part.end <= whole.end
    });
    found.map(|code| &code.file)
}

/// Puts a file into perf's cache. Only perf knows where that is.
fn cache(pid: i32, file: &CodeFile) -> Result<(), Failure> {
    let fail = |error: std::io::Error| {
        Failure::new(format!("cannot write a file for perf's cache: {error}"))
    };
    let directory = tempfile::tempdir().map_err(fail)?;
    let path = directory.path().join(format!("engraft-{pid}"));
    std::fs::write(&path, &file.bytes).map_err(fail)?;
    run(Command::new("perf")
        .args(["buildid-cache", "--update"])
        .arg(path))?;
    // perf ends well even if it could not write there.
    let listing = run(Command::new("perf").args(["buildid-cache", "--list"]))?;
    let id: String = file
        .build_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if listing.lines().any(|line| line.starts_with(&id)) {
        return Ok(());
    }
    let message = "perf has not put a file into its cache of files by build-id";
    Err(Failure::new(message).with_help(
        "the cache, ~/.debug or buildid.dir of perf-config(1), must be a directory that can be written",
    ))
}

fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|error| {
        Failure::new(format!("cannot run perf: {error}"))
            .with_help("install perf (Debian's package linux-perf)")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = format!("{command:?} failed ({}): {}", output.status, said.trim());
        return Err(Failure::new(message));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
