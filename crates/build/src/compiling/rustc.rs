//! The Rust compiler, wrapped.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::session::{Record, Session};
use super::wrapper::Wrapped;

/// Records what is compiled, and adds what makes objects comparable: debug information. Functions
/// and data have sections of their own anyway.
pub(super) fn adjust(wrapped: &Wrapped, session: &Session) -> io::Result<Vec<OsString>> {
    let Some(source) = find_source(&wrapped.arguments) else {
        return Ok(wrapped.arguments.clone());
    };
    session.record(&Record::Compilation {
        source: wrapped.absolute(&source),
        object: None,
        is_reused: false,
    })?;
    let mut mapping = OsString::from("--remap-path-prefix=");
    mapping.push(&session.tree);
    mapping.push("=");
    mapping.push(&session.source);
    let mut arguments = vec![mapping];
    arguments.extend(wrapped.arguments.iter().cloned());
    if !has_debug_information(&wrapped.arguments) {
        arguments.push("-Cdebuginfo=2".into());
    }
    Ok(arguments)
}

fn find_source(arguments: &[OsString]) -> Option<PathBuf> {
    arguments
        .iter()
        .map(|argument| Path::new(OsStr::from_bytes(argument.as_bytes())))
        .find(|path| path.extension() == Some("rs".as_ref()))
        .map(Path::to_path_buf)
}

/// Whether the last option about it asks for all debug information.
fn has_debug_information(arguments: &[OsString]) -> bool {
    let mut found = false;
    let mut after_codegen = false;
    for argument in arguments {
        let text = argument.to_str().unwrap_or_default();
        let option = match text.strip_prefix("-C") {
            Some("") => {
                after_codegen = true;
                continue;
            }
            Some(option) => option,
            None if after_codegen => text,
            None => text.strip_prefix("--codegen=").unwrap_or_default(),
        };
        after_codegen = false;
        if text == "-g" {
            found = true;
        } else if let Some(level) = option.strip_prefix("debuginfo=") {
            found = matches!(level, "2" | "full");
        }
    }
    found
}

/// The name of an object without what is random in it: before its suffix `.rcgu.o` rustc may put
/// seven letters and digits that are new in every run.
pub(super) fn stable_name(name: &str) -> Cow<'_, str> {
    const SUFFIX: &str = ".rcgu.o";
    if let Some(stem) = name.strip_suffix(SUFFIX)
        && let Some((rest, last)) = stem.rsplit_once('.')
        && last.len() == 7
        && last.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        Cow::Owned(format!("{rest}{SUFFIX}"))
    } else {
        Cow::Borrowed(name)
    }
}

/// Whether a file is rustc's list of exported symbols, which has no code and a random name.
pub(super) fn is_symbol_list(path: &Path) -> bool {
    let directory = path.parent().and_then(Path::file_name);
    path.file_name() == Some("symbols.o".as_ref())
        && directory.is_some_and(|name| name.as_bytes().starts_with(b"rustc"))
}

#[cfg(test)]
mod tests {
    use super::{has_debug_information, is_symbol_list, stable_name};
    use std::ffi::OsString;
    use std::path::Path;

    #[test]
    fn the_last_option_counts() {
        let check = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            has_debug_information(&arguments)
        };
        assert!(check("-g a.rs"));
        assert!(check("-C debuginfo=2 a.rs"));
        assert!(check("-Cdebuginfo=full a.rs"));
        assert!(check("--codegen=debuginfo=2 a.rs"));
        assert!(!check("a.rs"));
        assert!(!check("-C debuginfo=2 -C debuginfo=0 a.rs"));
        assert!(!check("-C debuginfo=1 a.rs"));
        assert!(!check("-C opt-level=2 a.rs"));
    }

    #[test]
    fn names_without_chance() {
        for (name, stable) in [
            (
                "a-1f.62pqbgn5798vunaxrod9svnfu.0oizri8.rcgu.o",
                "a-1f.62pqbgn5798vunaxrod9svnfu.rcgu.o",
            ),
            (
                "a.main.235e3519f142be8b-cgu.0.0feam2w.rcgu.o",
                "a.main.235e3519f142be8b-cgu.0.rcgu.o",
            ),
            (
                "a.62pqbgn5798vunaxrod9svnfu.rcgu.o",
                "a.62pqbgn5798vunaxrod9svnfu.rcgu.o",
            ),
            (
                "a.main.235e3519f142be8b-cgu.0.rcgu.o",
                "a.main.235e3519f142be8b-cgu.0.rcgu.o",
            ),
            ("a.0oizri8.o", "a.0oizri8.o"),
        ] {
            assert_eq!(stable_name(name), stable);
        }
        assert!(is_symbol_list(Path::new(
            "/t/target/debug/deps/rustcILjmdF/symbols.o"
        )));
        assert!(!is_symbol_list(Path::new("/t/src/symbols.o")));
    }
}
