//! The files that a program of the corpus is started with.

use std::fs;
use std::path::Path;

use crate::failure::{Context, Failure};

/// By name; placeholders in them are filled like those in arguments.
const FILES: &[(&str, &str)] = &[
    ("nginx.conf", include_str!("programs/nginx.conf")),
    ("tinyproxy.conf", include_str!("programs/tinyproxy.conf")),
    ("proxy.lua", include_str!("programs/proxy.lua")),
    ("index.html", "fine\n"),
];

/// What the placeholders in texts stand for.
pub(super) struct Places {
    pub(super) port: u16,
    pub(super) second: u16,
    pub(super) upstream: u16,
    pub(super) scratch: String,
}

impl Places {
    /// PORT, SECOND and UPSTREAM are ports, SCRATCH is a directory.
    pub(super) fn fill(&self, text: &str) -> String {
        text.replace("PORT", &self.port.to_string())
            .replace("SECOND", &self.second.to_string())
            .replace("UPSTREAM", &self.upstream.to_string())
            .replace("SCRATCH", &self.scratch)
    }
}

pub(super) fn write_all(directory: &Path, places: &Places) -> Result<(), Failure> {
    for (name, text) in FILES {
        let path = directory.join(name);
        fs::write(&path, places.fill(text)).context(format!("writing {}", path.display()))?;
    }
    let logs = directory.join("logs");
    fs::create_dir_all(&logs).context(format!("creating {}", logs.display()))
}
