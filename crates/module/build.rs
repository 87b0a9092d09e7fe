//! Embeds the headers for patch sources (`include/`), so that the tool needs no install path.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let crate_directory = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let root = crate_directory.join("../../include");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect_files(&root, &mut files)?;
    files.sort();
    let mut table = String::from("pub(crate) static HEADERS: &[(&str, &str)] = &[\n");
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        let name = file.strip_prefix(&root).expect("collected below the root");
        let path = fs::canonicalize(file)?;
        writeln!(table, "    ({name:?}, include_str!({path:?})),").expect("a string grows");
    }
    table.push_str("];\n");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(output.join("headers.rs"), table)
}

fn collect_files(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            println!("cargo::rerun-if-changed={}", entry.path().display());
            collect_files(&entry.path(), files)?;
        } else if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "h")
        {
            files.push(entry.path());
        }
    }
    Ok(())
}
