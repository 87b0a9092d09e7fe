//! The programs that are wrapped, by their names.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The name under which cargo calls the wrapper with the real `rustc` as first argument.
pub(super) const RUSTC_WRAPPER: &str = "engraft-rustc-wrapper";

/// What a wrapped program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// gcc or clang, for any language.
    Compiler,
    /// A linker called without a compiler.
    Linker,
    /// The Rust compiler.
    Rustc,
    /// The Rust compiler, named by the first argument.
    RustcWrapper,
}

impl Tool {
    /// What the program called `name` is: with a target's prefix, with a version.
    pub(super) fn named(name: &str) -> Option<Self> {
        if name == RUSTC_WRAPPER {
            return Some(Self::RustcWrapper);
        }
        let stem = match name.rsplit_once('-') {
            Some((stem, version)) if is_version(version) => stem,
            _ => name,
        };
        let word = stem.rsplit('-').next().unwrap_or(stem);
        match word {
            "gcc" | "g++" | "cc" | "c++" | "clang" | "clang++" | "c89" | "c99" | "c11" | "c17" => {
                Some(Self::Compiler)
            }
            "ld" | "ld.bfd" | "ld.gold" | "ld.lld" | "ld.mold" => Some(Self::Linker),
            "rustc" if stem == "rustc" => Some(Self::Rustc),
            _ => None,
        }
    }
}

fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// Fills a directory with the wrapper under the name of every compiler and linker in `path`.
///
/// The names are hard links, not symbolic links: who looks where a compiler really is
/// must not end up at a program that does not know which compiler is meant.
pub(super) fn write_tools(directory: &Path, wrapper: &Path, path: &OsStr) -> io::Result<()> {
    let first = directory.join(RUSTC_WRAPPER);
    if fs::hard_link(wrapper, &first).is_err() {
        fs::copy(wrapper, &first)?;
    }
    for name in find_names(path) {
        fs::hard_link(&first, directory.join(name))?;
    }
    Ok(())
}

fn find_names(path: &OsStr) -> BTreeSet<OsString> {
    env::split_paths(path)
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| {
            let name = entry.file_name();
            let tool = name.to_str().and_then(Tool::named);
            tool.is_some() && tool != Some(Tool::RustcWrapper) && is_program(&entry.path())
        })
        .map(|entry| entry.file_name())
        .collect()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// `path` without `directory`.
pub(super) fn path_without(path: &OsStr, directory: &Path) -> OsString {
    let rest = env::split_paths(path).filter(|entry| entry != directory);
    env::join_paths(rest).unwrap_or_else(|_| path.to_owned())
}

/// The first program called `name` in `path`.
pub(super) fn find_program(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|directory| directory.join(name))
        .find(|candidate| is_program(candidate))
}

#[cfg(test)]
mod tests {
    use super::Tool;

    #[test]
    fn compilers_go_by_many_names() {
        for name in [
            "cc",
            "gcc",
            "gcc-12",
            "x86_64-linux-gnu-gcc",
            "x86_64-linux-gnu-g++-12",
            "clang",
            "clang++-14",
            "clang-14.0.6",
            "musl-gcc",
            "c99-gcc",
            "c99",
        ] {
            assert_eq!(Tool::named(name), Some(Tool::Compiler), "{name}");
        }
        assert_eq!(Tool::named("ld"), Some(Tool::Linker));
        assert_eq!(Tool::named("x86_64-linux-gnu-ld.gold"), Some(Tool::Linker));
        assert_eq!(Tool::named("rustc"), Some(Tool::Rustc));
    }

    #[test]
    fn their_helpers_are_not_compilers() {
        for name in [
            "gcc-ar",
            "gcc-ar-12",
            "x86_64-linux-gnu-gcc-nm",
            "clang-cpp-14",
            "clang-format",
            "ld.so",
            "ldd",
            "gccgo",
            "cpp",
            "my-rustc",
            "engraft",
        ] {
            assert_eq!(Tool::named(name), None, "{name}");
        }
    }
}
