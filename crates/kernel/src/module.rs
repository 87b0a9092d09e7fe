//! Module files (`.ko`).

use nix::errno::Errno;
use object::{File, Object as _, ObjectSection as _};

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
        let file = parse_file(bytes, file_name)?;
        let refuse = |reason: &str| Error::new(file_name, Errno::ENOEXEC, reason);
        let info =
            read_info(&file).ok_or_else(|| refuse("it is no kernel module: it has no .modinfo"))?;
        let value = |key: &str| {
            let mut pairs = info.iter();
            pairs
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.clone())
        };
        let vermagic = value("vermagic").ok_or_else(|| {
            refuse("it is no kernel module: it does not say which kernel it was built for")
                .with_help("a module made by 'engraft cc' or 'engraft build' is for processes")
        })?;
        let stem = file_name.strip_suffix(".ko").unwrap_or(file_name);
        Ok(Self {
            name: value("name").unwrap_or_else(|| stem.replace('-', "_")),
            livepatch: value("livepatch").is_some_and(|value| value == "Y"),
            vermagic,
            build_id: read_section(&file, ".note.gnu.build-id"),
        })
    }
}

pub(crate) fn parse_file<'a>(bytes: &'a [u8], file_name: &str) -> Result<File<'a>, Error> {
    File::parse(bytes).map_err(|_| {
        Error::new(file_name, Errno::ENOEXEC, "it is no kernel module")
            .with_help("give the .ko file; decompress it first if it is a .ko.xz or .ko.zst")
    })
}

/// The pairs of section `.modinfo`: zero-terminated texts of the form `name=value`.
pub(crate) fn read_info(file: &File<'_>) -> Option<Vec<(String, String)>> {
    let section = read_section(file, ".modinfo")?;
    let entries = section
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy);
    let pairs = entries.filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    Some(pairs.collect())
}

fn read_section(file: &File<'_>, name: &str) -> Option<Vec<u8>> {
    Some(file.section_by_name(name)?.data().ok()?.to_vec())
}
