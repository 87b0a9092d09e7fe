//! The headers that let livepatch source written for the kernel compile here.

use std::path::Path;
use std::{fs, io};

include!(concat!(env!("OUT_DIR"), "/headers.rs"));

/// Writes the headers below `directory`.
pub(crate) fn write_headers(directory: &Path) -> io::Result<()> {
    for (name, text) in HEADERS {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}
