//! Hand-written sources that become part of a built module.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use engraft_module::{CompileRequest, compile};
use tempfile::TempDir;

use crate::error::{BuildError, Context as _};
use crate::refuse::Refusal;

/// Tag of the module information by which a hook says that it takes care of what is refused:
/// `MODULE_INFO(handles, "NAME")`.
const HANDLES: &str = "handles";

/// Compiled hooks.
#[derive(Debug)]
pub(crate) struct Hooks {
    object: PathBuf,
    handles: Vec<String>,
    /// Holds the object.
    _directory: TempDir,
}

impl Hooks {
    /// Compiles hooks for the module that will be written to `output`; `None` if there are
    /// none.
    ///
    /// # Errors
    ///
    /// When one does not compile.
    pub(crate) fn compile(
        sources: &[PathBuf],
        flags: &[OsString],
        output: &Path,
    ) -> Result<Option<Self>, BuildError> {
        if sources.is_empty() {
            return Ok(None);
        }
        let directory = tempfile::Builder::new()
            .prefix("engraft-hooks-")
            .tempdir()
            .context(|| "create a temporary directory".to_owned())?;
        let object = directory
            .path()
            .join(output.file_name().unwrap_or_default());
        let compiled = compile(&CompileRequest {
            sources: sources.to_vec(),
            objects: Vec::new(),
            output: object.clone(),
            flags: flags.to_vec(),
            made_for: Vec::new(),
        });
        let module = compiled
            .map_err(|error| BuildError::new(error.to_string()))?
            .module;
        let handles = module.info.into_iter().filter(|(tag, _)| tag == HANDLES);
        Ok(Some(Self {
            object,
            handles: handles.map(|(_, name)| name).collect(),
            _directory: directory,
        }))
    }

    /// The object file.
    pub(crate) fn object(&self) -> &Path {
        &self.object
    }

    /// Takes out of `refusals` what the hooks say they handle.
    ///
    /// # Errors
    ///
    /// When they say so of something that is not refused.
    pub(crate) fn take_handled(
        &self,
        refusals: &mut Vec<Refusal>,
    ) -> Result<Vec<Refusal>, BuildError> {
        let stray = self
            .handles
            .iter()
            .find(|name| refusals.iter().all(|refusal| refusal.name != **name));
        if let Some(name) = stray {
            let mut names: Vec<&str> = refusals.iter().map(|refusal| &*refusal.name).collect();
            names.dedup();
            let help = match names.is_empty() {
                true => "nothing is refused: take the line out".to_owned(),
                false => format!("what is refused is: {}", names.join(", ")),
            };
            let message = format!("a hook handles '{name}', which is not refused");
            return Err(BuildError::new(message).with_help(help));
        }
        let (handled, rest) = std::mem::take(refusals)
            .into_iter()
            .partition(|refusal| self.handles.contains(&refusal.name));
        *refusals = rest;
        Ok(handled)
    }
}
