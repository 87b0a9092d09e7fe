//! The file that says what is pinned.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::files;
use crate::Error;

/// The manifest's name in the directory of the pins.
pub(super) const FILE: &str = "manifest.json";

/// The version of its format; it rises with what an older engraft would misread.
const VERSION: u32 = 1;

/// Lengths of a module's name (MODULE_NAME_LEN) and of a release (`struct utsname`) are below this.
const MAX_NAME: usize = 65;

/// Digits of the digest that a module's file is called after.
const DIGITS_IN_NAME: usize = 16;

/// What is pinned for one kernel release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The module's name, which is its patch's.
    pub module: String,
    /// SHA-256 of its file, in hexadecimal digits.
    pub sha256: String,
    /// Values of its parameters.
    pub parameters: Vec<(String, String)>,
}

impl Pin {
    /// The name of the module's file in the release's directory.
    pub(super) fn file_name(&self) -> String {
        let digits = self.sha256.get(..DIGITS_IN_NAME).unwrap_or_default();
        format!("{}-{digits}.ko", self.module)
    }

    fn is_possible(&self) -> bool {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        is_plain(&self.module) && self.sha256.len() == 64 && self.sha256.bytes().all(digit)
    }
}

/// Whether a name may become part of a path as it is.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.+~".contains(&byte);
    (1..MAX_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// Whether this may be a kernel's release; other files of the pins do not begin with a digit.
pub(super) fn is_release(name: &str) -> bool {
    is_plain(name) && name.starts_with(|first: char| first.is_ascii_digit())
}

/// What is pinned.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    version: u32,
    /// By kernel release.
    pub(super) pins: BTreeMap<String, Pin>,
}

/// What every version of the format has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Manifest {
    /// Reads the manifest in the directory; where there is none, nothing is pinned.
    pub(super) fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let context = path.display().to_string();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let pins = BTreeMap::new();
                let version = VERSION;
                return Ok(Self { version, pins });
            }
            Err(error) => return Err(Error::of_io(context, &error)),
        };
        let damaged = |reason: String| {
            Error::new(&context, Errno::EBADMSG, reason)
                .with_help("move this file away, and pin the modules again")
        };
        let Versioned { version } =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if version > VERSION {
            let reason = format!("it has version {version}, and this engraft knows {VERSION}");
            return Err(Error::new(&context, Errno::EOPNOTSUPP, reason)
                .with_help("use the engraft that wrote it, or a newer one"));
        }
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let mut pins = manifest.pins.iter();
        match pins.find(|(release, pin)| !is_release(release) || !pin.is_possible()) {
            Some((release, _)) => Err(damaged(format!("the pin for '{release}' is impossible"))),
            None => Ok(manifest),
        }
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        let context = || directory.join(FILE).display().to_string();
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(context(), Errno::EIO, error.to_string()))?;
        bytes.push(b'\n');
        files::write(directory, FILE, &bytes).map_err(|error| Error::of_io(context(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::{is_plain, is_release};

    #[test]
    fn names_cannot_lead_elsewhere() {
        for good in ["fix", "fix_2", "6.1.0-57-amd64", "6.12.0-rc1+", "6.1~a"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".fix",
            "a/b",
            "a b",
            "a\0",
            "ä",
            &"a".repeat(65),
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
        assert!(is_release("6.1.0"));
        for bad in ["lock", "manifest.json", "../6.1"] {
            assert!(!is_release(bad), "{bad}");
        }
    }
}
