//! Pre-patch code: what the compiler made of the source before the change. The running
//! program is compared with it (run-pre matching), which proves that it is the program that
//! the change was made for, and shows where functions and variables are that have no name in
//! the running program's symbol tables.

use serde::{Deserialize, Serialize};

use crate::ModuleErrorKind;

/// Section of a patch module that holds the pre-patch code; it does not become part of the
/// target.
pub const PRE_CODE_SECTION: &str = ".engraft.pre";

/// Prefix of the names of symbols that are found by matching: `.engraft.pre.OBJECT.SYMBOL`,
/// both positions, in [`PreCode::objects`] and [`PreObject::symbols`].
pub const PRE_CODE_SYMBOL: &str = ".engraft.pre.";

/// Version of the serialized form, its first byte.
const VERSION: u8 = 2;

/// Pre-patch code of all objects that a patch module changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreCode {
    /// By object, each at most once.
    pub objects: Vec<PreObject>,
}

/// Pre-patch code of one object of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreObject {
    /// Name of the library, `None` for the main executable, as in `klp_object.name`.
    pub name: Option<String>,
    /// Code and constants.
    pub sections: Vec<PreSection>,
    /// What the sections define and refer to.
    pub symbols: Vec<PreSymbol>,
    /// The functions that the patch replaces.
    pub functions: Vec<PreFunction>,
    /// What exceptions do in functions. One that is not listed has no such table.
    pub exception_tables: Vec<PreExceptionTable>,
}

/// One function or block of constants, before relocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreSection {
    /// Its name in the compiler's object file, for messages.
    pub name: String,
    /// What it holds.
    pub kind: PreKind,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// By offset.
    pub relocations: Vec<PreRelocation>,
}

/// What a section of pre-patch code holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreKind {
    /// Instructions.
    Code,
    /// Constants, which are compared where the code refers to them, each up to where another
    /// begins: at a symbol, or where something here refers to. Of constants without a name
    /// that only other parts of the object file refer to, a symbol must mark the start.
    ReadOnly,
    /// Zero-terminated texts, which a linker may have merged with equal ones: each is compared
    /// by itself where the code refers to it.
    Strings,
    /// Tables of what exceptions do in functions (`.gcc_except_table`), each compared with
    /// that of its function, by meaning. Their references are those to types, past the
    /// pointers that they may go through.
    ExceptionTable,
}

/// One relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreRelocation {
    /// Distance of the field from the section's start.
    pub offset: u32,
    /// Number of the relocation's type (x86-64 psABI, "Relocation").
    pub kind: u32,
    /// Position in [`PreObject::symbols`].
    pub symbol: u32,
    /// Addend.
    pub addend: i64,
}

/// What a symbol stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreSymbolKind {
    /// A function.
    Function,
    /// A variable or constant.
    Object,
    /// A thread-local variable.
    Tls,
    /// A section's start, such as that of a jump table or a block of string literals.
    Section,
}

/// One symbol of the pre-patch code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreSymbol {
    /// Its name in the compiler's object file.
    pub name: String,
    /// Source file of a local symbol, as its STT_FILE symbol has it; `None` for a global one.
    pub file: Option<String>,
    /// What it stands for.
    pub kind: PreSymbolKind,
    /// Length in bytes, 0 when unknown.
    pub size: u64,
    /// Section (position in [`PreObject::sections`]) and offset where its contents are, if
    /// they are carried along.
    pub place: Option<(u32, u64)>,
    /// A patch cannot be loaded without its address: it is replaced, or the new code refers
    /// to it.
    pub wanted: bool,
}

/// A function that the patch replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreFunction {
    /// `klp_func.old_name`.
    pub old_name: String,
    /// `klp_func.old_sympos`.
    pub old_sympos: u64,
    /// Its symbol, a position in [`PreObject::symbols`]; it has a place.
    pub symbol: u32,
    /// Symbols of the parts that the compiler split off (`.cold`).
    pub cold: Vec<u32>,
}

/// Where the table is of what exceptions do in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreExceptionTable {
    /// Symbol of the function, or of a part of one; it has a place.
    pub function: u32,
    /// Position in [`PreObject::sections`].
    pub section: u32,
    /// Where it begins there.
    pub offset: u64,
    /// Symbol of the routine that reads it.
    pub personality: u32,
}

impl PreCode {
    /// The bytes of section [`PRE_CODE_SECTION`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing to a growing vector has no way to fail.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    /// Reads and checks the bytes of section [`PRE_CODE_SECTION`].
    ///
    /// # Errors
    ///
    /// [`ModuleErrorKind::Malformed`] when they are damaged or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModuleErrorKind> {
        let malformed = |what: &str| ModuleErrorKind::Malformed(format!("pre-patch code: {what}"));
        let Some((&VERSION, rest)) = bytes.split_first() else {
            return Err(malformed("another version of engraft wrote it"));
        };
        let (code, rest): (Self, _) =
            postcard::take_from_bytes(rest).map_err(|error| malformed(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("something follows it"));
        }
        let mut names: Vec<_> = code.objects.iter().map(|object| &object.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(malformed("an object is in it twice"));
        }
        if code.objects.iter().all(PreObject::is_consistent) {
            Ok(code)
        } else {
            Err(malformed("a position in it is out of range"))
        }
    }
}

impl PreObject {
    fn is_consistent(&self) -> bool {
        let is_symbol = |index: u32| (index as usize) < self.symbols.len();
        let is_code = |index: u32| {
            let symbol = self.symbols.get(index as usize);
            let place = symbol.and_then(|symbol| symbol.place);
            let section = place.and_then(|(section, _)| self.sections.get(section as usize));
            section.is_some_and(|section| section.kind == PreKind::Code)
        };
        let sections = self.sections.iter().all(|section| {
            let fits = |offset: u32| (offset as usize) < section.bytes.len();
            let mut relocations = section.relocations.iter();
            section
                .relocations
                .is_sorted_by_key(|relocation| relocation.offset)
                && relocations
                    .all(|relocation| fits(relocation.offset) && is_symbol(relocation.symbol))
        });
        let symbols = self.symbols.iter().all(|symbol| {
            symbol.place.is_none_or(|(section, offset)| {
                let section = self.sections.get(section as usize);
                section.is_some_and(|section| offset <= section.bytes.len() as u64)
            })
        });
        let functions = self.functions.iter().all(|function| {
            is_code(function.symbol) && function.cold.iter().all(|part| is_code(*part))
        });
        let tables = self.exception_tables.iter().all(|table| {
            let section = self.sections.get(table.section as usize);
            let inside = section.is_some_and(|section| {
                section.kind == PreKind::ExceptionTable && table.offset < section.bytes.len() as u64
            });
            inside && is_code(table.function) && is_symbol(table.personality)
        });
        sections && symbols && functions && tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> PreCode {
        PreCode {
            objects: vec![PreObject {
                name: None,
                sections: vec![
                    PreSection {
                        name: ".text.f".into(),
                        kind: PreKind::Code,
                        bytes: vec![0xe8, 0, 0, 0, 0, 0xc3],
                        relocations: vec![PreRelocation {
                            offset: 1,
                            kind: 4,
                            symbol: 1,
                            addend: -4,
                        }],
                    },
                    PreSection {
                        name: ".gcc_except_table.f".into(),
                        kind: PreKind::ExceptionTable,
                        bytes: vec![0xff, 0xff, 1, 0],
                        relocations: Vec::new(),
                    },
                ],
                symbols: ["f", "g"]
                    .map(|name| PreSymbol {
                        name: name.into(),
                        file: None,
                        kind: PreSymbolKind::Function,
                        size: 6,
                        place: (name == "f").then_some((0, 0)),
                        wanted: true,
                    })
                    .into(),
                functions: vec![PreFunction {
                    old_name: "f".into(),
                    old_sympos: 0,
                    symbol: 0,
                    cold: Vec::new(),
                }],
                exception_tables: vec![PreExceptionTable {
                    function: 0,
                    section: 1,
                    offset: 0,
                    personality: 1,
                }],
            }],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let code = example();
        assert_eq!(PreCode::from_bytes(&code.to_bytes()), Ok(code));
    }

    #[test]
    fn positions_out_of_range_are_refused() {
        type Damage = fn(&mut PreObject);
        let damages: [Damage; 10] = [
            |object| object.sections[0].relocations[0].symbol = 2,
            |object| object.sections[0].relocations[0].offset = 6,
            |object| {
                let mut second = object.sections[0].relocations[0];
                second.offset = 0;
                object.sections[0].relocations.push(second);
            },
            |object| object.symbols[0].place = Some((2, 0)),
            |object| object.exception_tables[0].function = 1,
            |object| object.exception_tables[0].section = 0,
            |object| object.exception_tables[0].offset = 4,
            |object| object.exception_tables[0].personality = 2,
            |object| object.functions[0].symbol = 1,
            |object| object.sections[0].kind = PreKind::ReadOnly,
        ];
        for damage in damages {
            let mut code = example();
            damage(&mut code.objects[0]);
            assert!(PreCode::from_bytes(&code.to_bytes()).is_err());
        }
        let mut bytes = example().to_bytes();
        bytes[0] += 1;
        assert!(PreCode::from_bytes(&bytes).is_err());
        assert!(PreCode::from_bytes(&[]).is_err());
        let mut bytes = example().to_bytes();
        bytes.push(0);
        assert!(PreCode::from_bytes(&bytes).is_err(), "merged by ld -r");
        let mut twice = example();
        twice.objects.push(twice.objects[0].clone());
        assert!(PreCode::from_bytes(&twice.to_bytes()).is_err());
    }
}
