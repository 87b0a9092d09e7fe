//! Module files (`.ko`).

use nix::errno::Errno;
use object::{Object as _, ObjectSection as _};

use crate::Error;

/// What a module's file says of itself, mostly in its section `.modinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelModule {
    /// Its name, once it is loaded.
    pub name: String,
    /// Whether it is a livepatch module.
    pub livepatch: bool,
    /// The kernel and configuration that it was built for.
    pub vermagic: String,
    /// The note with its build-id, if it has one.
    pub build_id: Option<Vec<u8>>,
}

impl KernelModule {
    /// The kernel release that it was built for: the first word of `vermagic`.
    #[must_use]
    pub fn release(&self) -> &str {
        self.vermagic.split(' ').next().unwrap_or_default()
    }

    /// Reads a module's file.
    ///
    /// # Errors
    ///
    /// ENOEXEC when it is none.
    pub fn parse(bytes: &[u8], file_name: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::new(file_name, Errno::ENOEXEC, reason);
        let file = object::File::parse(bytes).map_err(|_| {
            refuse("it is no kernel module")
                .with_help("give the .ko file; decompress it first if it is a .ko.xz or .ko.zst")
        })?;
        let read = |name| Some(file.section_by_name(name)?.data().ok()?.to_vec());
        let info =
            read(".modinfo").ok_or_else(|| refuse("it is no kernel module: it has no .modinfo"))?;
        let entries = info.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let entries: Vec<String> = entries.map(|entry| entry.into_owned()).collect();
        let value = |key: &str| {
            let mut values = entries.iter().filter_map(|entry| entry.split_once('='));
            values
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned())
        };
        let stem = file_name.strip_suffix(".ko").unwrap_or(file_name);
        Ok(Self {
            name: value("name").unwrap_or_else(|| stem.replace('-', "_")),
            livepatch: value("livepatch").is_some_and(|value| value == "Y"),
            vermagic: value("vermagic").unwrap_or_default(),
            build_id: read(".note.gnu.build-id"),
        })
    }
}
