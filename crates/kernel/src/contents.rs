//! What is in a module's file, for whoever wants to know it before the module is loaded.

use std::fmt;

use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};
use serde::Serialize;

use crate::module::{parse_file, read_info};
use crate::{Error, KernelModule};

/// What a livepatch symbol's name begins with (Linux, Documentation/livepatch/module-elf-format).
const SYMBOL_PREFIX: &str = ".klp.sym.";

/// What code that runs once, when the module comes or goes, lies in.
const ONCE: [&str; 2] = [".init", ".exit"];

/// What a module's file has in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// What it says of itself: the pairs of section `.modinfo`.
    pub info: Vec<(String, String)>,
    /// Its functions. Which of them are replacements, its init function may decide.
    pub functions: Vec<String>,
    /// What it uses but does not have.
    pub needs: Vec<Need>,
}

/// A symbol that a module uses but does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// The object in which livepatch looks for it, exported or not, once that is loaded: `vmlinux`
    /// or a module. `None`: the kernel looks for it among exported symbols.
    pub object: Option<String>,
    /// Its name.
    pub name: String,
    /// Its position among equal names of the object; 0 when it must be the only one.
    pub sympos: u64,
}

impl Need {
    /// From a symbol's name: an ordinary one, or `.klp.sym.OBJECT.NAME,POS`.
    fn parse(symbol: &str) -> Self {
        Self::parse_livepatch(symbol).unwrap_or_else(|| Self {
            object: None,
            name: symbol.to_owned(),
            sympos: 0,
        })
    }

    fn parse_livepatch(symbol: &str) -> Option<Self> {
        let (object, rest) = symbol.strip_prefix(SYMBOL_PREFIX)?.split_once('.')?;
        let (name, sympos) = rest.rsplit_once(',')?;
        Some(Self {
            object: Some(object.to_owned()),
            name: name.to_owned(),
            sympos: sympos.parse().ok()?,
        })
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.name)?;
        if self.sympos != 0 {
            write!(f, ",{}", self.sympos)?;
        }
        match &self.object {
            Some(object) => write!(f, " of '{object}'"),
            None => Ok(()),
        }
    }
}

impl KernelModule {
    /// What is in a module's file.
    ///
    /// # Errors
    ///
    /// As [`KernelModule::parse`].
    pub fn read_contents(bytes: &[u8], file_name: &str) -> Result<Contents, Error> {
        let file = parse_file(bytes, file_name)?;
        let symbols = || {
            let symbols = file.symbols();
            symbols.filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol)))
        };
        let missing = symbols().filter(|(name, symbol)| {
            name.starts_with(SYMBOL_PREFIX) || (symbol.is_undefined() && !name.is_empty())
        });
        let stays = symbols().filter(|(_, symbol)| {
            symbol.kind() == SymbolKind::Text
                && symbol
                    .section_index()
                    .is_some_and(|index| lasts(&file, index))
        });
        Ok(Contents {
            info: read_info(&file).unwrap_or_default(),
            functions: stays.map(|(name, _)| name).collect(),
            needs: missing.map(|(name, _)| Need::parse(&name)).collect(),
        })
    }
}

fn lasts(file: &File<'_>, index: object::SectionIndex) -> bool {
    let section = file.section_by_index(index);
    let once = |name: &str| ONCE.iter().any(|prefix| name.starts_with(prefix));
    section.is_ok_and(|section| section.name().is_ok_and(|name| !once(name)))
}

#[cfg(test)]
mod tests {
    use super::Need;

    #[test]
    fn livepatch_symbols_are_taken_apart() {
        for (symbol, text) in [
            ("kfree", "'kfree'"),
            (
                ".klp.sym.vmlinux.si_swapinfo,0",
                "'si_swapinfo' of 'vmlinux'",
            ),
            (".klp.sym.ext4.name.cold.1,2", "'name.cold.1',2 of 'ext4'"),
            (".klp.sym.vmlinux", "'.klp.sym.vmlinux'"),
            (".klp.sym.vmlinux.name,x", "'.klp.sym.vmlinux.name,x'"),
        ] {
            assert_eq!(Need::parse(symbol).to_string(), text);
        }
    }
}
