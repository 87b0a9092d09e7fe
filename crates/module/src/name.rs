//! Names of modules.

use std::path::Path;

use engraft_abi::MODULE_NAME_LEN;
use thiserror::Error;

/// A text that cannot be a module's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' cannot be a module's name; choose a file name of 1 to {max} characters out of \
     A-Z a-z 0-9 _ -",
    max = MODULE_NAME_LEN - 1
)]
pub struct NameError(pub String);

/// The name of the module in a file of that name: directories and the extension removed, and
/// `-` replaced by `_`, as the kernel's build does.
///
/// # Errors
///
/// [`NameError`] when that is not a valid name.
pub fn module_name(file: &Path) -> Result<String, NameError> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    check_name(&stem.replace('-', "_"))
}

/// `name` itself, if modules can have it.
pub(crate) fn check_name(name: &str) -> Result<String, NameError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.len() >= MODULE_NAME_LEN || !name.bytes().all(valid) {
        return Err(NameError(name.to_owned()));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_kernel() {
        let name = |file: &str| module_name(Path::new(file));
        assert_eq!(name("/x/livepatch-sample.lp").unwrap(), "livepatch_sample");
        assert_eq!(name("a_1").unwrap(), "a_1");
        assert!(name("a b.lp").is_err());
        assert!(name("a.b.lp").is_err());
        assert!(name("").is_err());
        assert!(name(&"x".repeat(55)).is_ok());
        assert!(name(&"x".repeat(56)).is_err());
    }
}
