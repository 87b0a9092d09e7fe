//! Patch modules as files.

use std::fs;
use std::path::Path;

use engraft_engine::LoadRequest;
use engraft_module::PatchModule;

use crate::failure::Failure;

/// Larger files are not even read.
const MAX_BYTES: u64 = 64 << 20;

/// A patch module's file in memory.
pub(crate) struct ModuleFile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) file_name: String,
}

impl ModuleFile {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let refuse = |reason: &dyn std::fmt::Display| {
            Failure::new(format!(
                "cannot read patch module {}: {reason}",
                path.display()
            ))
        };
        let metadata = fs::metadata(path).map_err(|error| refuse(&error))?;
        if !metadata.is_file() {
            return Err(refuse(&"it is not a regular file"));
        }
        if metadata.len() > MAX_BYTES {
            return Err(refuse(&"it is larger than 64 MiB"));
        }
        let bytes = fs::read(path).map_err(|error| refuse(&error))?;
        let file_name = path.file_name().unwrap_or(path.as_os_str());
        Ok(Self {
            bytes,
            file_name: file_name.to_string_lossy().into_owned(),
        })
    }

    pub(crate) fn parse(&self) -> Result<PatchModule, Failure> {
        PatchModule::parse(&self.bytes, &self.file_name).map_err(|error| Failure {
            // As the kernel's loader refuses a file that is no module.
            errno: Some("ENOEXEC".to_owned()),
            ..Failure::new(error.to_string())
        })
    }

    pub(crate) fn request<'a>(
        &'a self,
        parameters: &'a [(String, String)],
        enable: bool,
    ) -> LoadRequest<'a> {
        LoadRequest {
            module: &self.bytes,
            file_name: &self.file_name,
            parameters,
            enable,
        }
    }
}
