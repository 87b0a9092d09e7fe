//! What a module wants from the running program, and the kernel's way to write it down
//! (Documentation/livepatch/module-elf-format.rst).

use std::fmt;

use engraft_abi::MODULE_NAME_LEN;

use crate::{ModuleErrorKind, PRE_CODE_SYMBOL};

pub(crate) const SYMBOL_PREFIX: &str = ".klp.sym.";
pub(crate) const SECTION_PREFIX: &str = ".klp.rela.";
/// Name of the main executable in symbol and section names.
const EXECUTABLE: &str = "vmlinux";
/// KSYM_NAME_LEN, the kernel's limit for names of functions and variables.
const MAX_SYMBOL_NAME: usize = 512;

/// Where a referenced symbol is to be looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// An ordinary undefined symbol: the runtime's interface, else as the program itself
    /// would bind it.
    Any,
    /// The main executable (`.klp.sym.vmlinux.*`), local symbols included.
    Executable,
    /// The shared library of that name (`.klp.sym.NAME.*`), local symbols included.
    Object(String),
    /// What matching the pre-patch code finds (`.engraft.pre.*`): positions in
    /// [`crate::PreCode::objects`] and [`crate::PreObject::symbols`].
    PreCode {
        /// Position of the object.
        object: usize,
        /// Position of the symbol.
        symbol: usize,
    },
}

/// A symbol that a module uses but does not define.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Where to look.
    pub scope: Scope,
    /// The symbol's name.
    pub name: String,
    /// Position among equal names in the object (`old_sympos`), 0 when it must be unique.
    pub sympos: u64,
    /// Address 0 is acceptable (STB_WEAK).
    pub weak: bool,
    /// A thread-local variable is asked for, by the relocations that use it.
    pub thread_local: bool,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.name)?;
        if self.sympos != 0 {
            write!(f, ",{}", self.sympos)?;
        }
        match &self.scope {
            Scope::Any => Ok(()),
            Scope::Executable => f.write_str(" of the main executable"),
            Scope::Object(object) => write!(f, " of '{object}'"),
            Scope::PreCode { .. } => f.write_str(" of the pre-patch code"),
        }
    }
}

/// The parts of a livepatch symbol's name, `None` for an ordinary one.
pub(crate) fn parse_symbol_name(
    name: &str,
) -> Result<Option<(Scope, String, u64)>, ModuleErrorKind> {
    let Some(rest) = name.strip_prefix(SYMBOL_PREFIX) else {
        return Ok(None);
    };
    let malformed = || ModuleErrorKind::LivepatchSymbolName(name.to_owned());
    let (rest, sympos) = rest.rsplit_once(',').ok_or_else(malformed)?;
    if sympos.is_empty() || !sympos.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let sympos = sympos.parse().map_err(|_| malformed())?;
    let (object, symbol) = split_object(rest).ok_or_else(malformed)?;
    if symbol.contains(',') || symbol.len() >= MAX_SYMBOL_NAME {
        return Err(malformed());
    }
    Ok(Some((scope_of(object), symbol.to_owned(), sympos)))
}

/// The positions in the name of a symbol that is found by matching, `None` for any other.
pub(crate) fn parse_pre_code_name(name: &str) -> Result<Option<(usize, usize)>, ModuleErrorKind> {
    let Some(rest) = name.strip_prefix(PRE_CODE_SYMBOL) else {
        return Ok(None);
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    rest.split_once('.')
        .and_then(|(object, symbol)| Some((number(object)?, number(symbol)?)))
        .map(Some)
        .ok_or_else(|| ModuleErrorKind::PreCodeSymbolName(name.to_owned()))
}

/// The object of a livepatch relocation section's name, `None` for an ordinary one.
pub(crate) fn parse_section_name(name: &str) -> Result<Option<Scope>, ModuleErrorKind> {
    let Some(rest) = name.strip_prefix(SECTION_PREFIX) else {
        return Ok(None);
    };
    let (object, _) =
        split_object(rest).ok_or_else(|| ModuleErrorKind::LivepatchSectionName(name.to_owned()))?;
    Ok(Some(scope_of(object)))
}

fn scope_of(object: &str) -> Scope {
    if object == EXECUTABLE {
        Scope::Executable
    } else {
        Scope::Object(object.to_owned())
    }
}

/// Splits `OBJECT.NAME`. The kernel's objects have no dots in their names, but libraries do:
/// an object's name reaches through `.so` and the numbers behind it, which cannot start a
/// symbol's name; without `.so`, to the first dot.
fn split_object(text: &str) -> Option<(&str, &str)> {
    let valid = |(object, name): (&str, &str)| {
        (!object.is_empty() && object.len() < MODULE_NAME_LEN && !name.is_empty()).then_some(())
    };
    let first = text.split_once('.')?;
    if first.0 != EXECUTABLE
        && let Some(split) = split_library(text)
        && valid(split).is_some()
    {
        return Some(split);
    }
    valid(first).map(|()| first)
}

fn split_library(text: &str) -> Option<(&str, &str)> {
    let mut end = text.find(".so.")? + ".so".len();
    loop {
        let rest = text[end..].strip_prefix('.')?;
        let number = rest.split('.').next()?;
        let numeric = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if !numeric {
            return Some((&text[..end], rest));
        }
        end += 1 + number.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str) -> Option<(Scope, String, u64)> {
        parse_symbol_name(name).unwrap()
    }

    fn object(name: &str) -> Scope {
        Scope::Object(name.into())
    }

    #[test]
    fn reads_the_kernels_names() {
        assert_eq!(
            symbol(".klp.sym.vmlinux.snprintf,0"),
            Some((Scope::Executable, "snprintf".into(), 0))
        );
        assert_eq!(
            symbol(".klp.sym.btrfs.btrfs_ktype.isra.0,3"),
            Some((object("btrfs"), "btrfs_ktype.isra.0".into(), 3))
        );
        assert_eq!(symbol("snprintf"), None);
        assert_eq!(
            parse_section_name(".klp.rela.ext4..text.unlikely"),
            Ok(Some(object("ext4")))
        );
        assert_eq!(parse_section_name(".rela.text"), Ok(None));
    }

    #[test]
    fn reads_names_of_libraries() {
        for (name, library) in [
            (".klp.sym.libc.so.6.memcpy,1", "libc.so.6"),
            (
                ".klp.sym.libpython3.11.so.1.0.memcpy,1",
                "libpython3.11.so.1.0",
            ),
            (".klp.sym.plugin.so.memcpy,1", "plugin.so"),
        ] {
            assert_eq!(symbol(name), Some((object(library), "memcpy".into(), 1)));
        }
        assert_eq!(
            parse_section_name(".klp.rela.libc.so.6..text.f"),
            Ok(Some(object("libc.so.6")))
        );
    }

    #[test]
    fn reads_positions_in_the_pre_patch_code() {
        assert_eq!(parse_pre_code_name(".engraft.pre.0.12"), Ok(Some((0, 12))));
        assert_eq!(parse_pre_code_name("engraft.pre.0.12"), Ok(None));
        for name in [
            ".engraft.pre.",
            ".engraft.pre.1",
            ".engraft.pre.1.",
            ".engraft.pre..1",
            ".engraft.pre.+1.1",
            ".engraft.pre.1.1.1",
            ".engraft.pre.1.99999999999999999999999",
        ] {
            assert!(parse_pre_code_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn refuses_incomplete_names() {
        let long = format!(".klp.sym.{}.f,0", "o".repeat(56));
        for name in [
            ".klp.sym.vmlinux.f",
            ".klp.sym.vmlinux.f,",
            ".klp.sym.vmlinux.f,-1",
            ".klp.sym.vmlinux.f,+1",
            ".klp.sym.vmlinux.f,1,2",
            ".klp.sym.vmlinux.,1",
            ".klp.sym..f,1",
            ".klp.sym.f,1",
            ".klp.sym.vmlinux.f,99999999999999999999999",
            &long,
        ] {
            assert!(parse_symbol_name(name).is_err(), "{name}");
        }
        assert!(parse_section_name(".klp.rela.vmlinux").is_err());
        assert!(parse_section_name(".klp.rela..text").is_err());
    }
}
