//! Pre-patch code from real object files, and modules that carry it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_module::{
    PRE_CODE_SECTION, PRE_CODE_SYMBOL, PreCode, PreFunction, PreKind, PreObject, PreRelocation,
    PreSection, PreSymbol, PreSymbolKind,
};
use object::elf;
use object::read::elf::ElfFile64;
use object::{
    Endianness, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget,
    SectionFlags, SectionIndex, SymbolFlags, SymbolKind, SymbolSection,
};

use crate::support::Workshop;

/// What of the object files a patch is about.
#[derive(Clone, Copy, Default)]
pub(crate) struct Plan<'a> {
    /// Library, or the main executable.
    pub(crate) library: Option<&'a str>,
    /// Functions that are replaced: name, source file of a static one.
    pub(crate) replaced: &'a [(&'a str, &'a str)],
    /// Symbols that the new code needs: name, source file of a local one.
    pub(crate) wanted: &'a [(&'a str, &'a str)],
}

/// Reads object files that were compiled with -ffunction-sections -fdata-sections.
pub(crate) fn read_objects(files: &[PathBuf], plan: &Plan<'_>) -> PreObject {
    let mut merged = PreObject {
        name: plan.library.map(Into::into),
        ..PreObject::default()
    };
    for file in files {
        let bytes = std::fs::read(file).expect("object file");
        let parsed = ElfFile64::<Endianness>::parse(&*bytes).expect("object file");
        Reader::new(&parsed, &mut merged).read();
    }
    for symbol in &mut merged.symbols {
        symbol.wanted |= is_listed(plan.wanted, symbol);
    }
    for (id, symbol) in (0..).zip(&merged.symbols) {
        if is_listed(plan.replaced, symbol) && symbol.place.is_some() {
            let cold_name = format!("{}.cold", symbol.name);
            let cold = (0..).zip(&merged.symbols).filter(|(_, part)| {
                (part.name == cold_name || part.name.starts_with(&format!("{cold_name}.")))
                    && part.place.is_some()
                    && (symbol.file.is_none() || part.file == symbol.file)
            });
            merged.functions.push(PreFunction {
                old_name: symbol.name.clone(),
                old_sympos: 0,
                symbol: id,
                cold: cold.map(|(id, _)| id).collect(),
            });
        }
    }
    assert_eq!(merged.functions.len(), plan.replaced.len());
    merged
}

fn is_listed(list: &[(&str, &str)], symbol: &PreSymbol) -> bool {
    let same = |name: &str| {
        symbol.name == name
            || symbol.name.strip_prefix(name).is_some_and(|rest| {
                rest.strip_prefix('.')
                    .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
            })
    };
    symbol.kind != PreSymbolKind::Section
        && list
            .iter()
            .any(|(name, file)| same(name) && symbol.file.as_deref().unwrap_or("") == *file)
}

struct Reader<'a, 'f> {
    file: &'a ElfFile64<'f, Endianness>,
    merged: &'a mut PreObject,
    /// By section of the file.
    sections: HashMap<SectionIndex, u32>,
    /// By symbol of the file.
    symbols: HashMap<usize, u32>,
}

impl<'a, 'f> Reader<'a, 'f> {
    fn new(file: &'a ElfFile64<'f, Endianness>, merged: &'a mut PreObject) -> Self {
        Self {
            file,
            merged,
            sections: HashMap::new(),
            symbols: HashMap::new(),
        }
    }

    fn read(mut self) {
        for section in self.file.sections() {
            if let Some(kind) = kind_of(&section) {
                let id = self.merged.sections.len() as u32;
                self.sections.insert(section.index(), id);
                self.merged.sections.push(PreSection {
                    name: section.name().expect("name").to_owned(),
                    kind,
                    bytes: section.data().expect("contents").to_vec(),
                    relocations: Vec::new(),
                });
            }
        }
        self.read_symbols();
        self.mark_starts();
        for section in self.file.sections() {
            if let Some(id) = self.sections.get(&section.index()).copied() {
                let relocations = self.read_relocations(&section);
                self.merged.sections[id as usize].relocations = relocations;
            }
        }
    }

    fn read_symbols(&mut self) {
        let mut source = String::new();
        for symbol in self.file.symbols() {
            if symbol.kind() == SymbolKind::File {
                source = symbol.name().expect("name").to_owned();
                continue;
            }
            let section = symbol.section_index();
            let place = section.and_then(|index| self.sections.get(&index));
            let kind = match symbol.kind() {
                SymbolKind::Text => PreSymbolKind::Function,
                SymbolKind::Tls => PreSymbolKind::Tls,
                SymbolKind::Section => PreSymbolKind::Section,
                _ if self.is_called(symbol.index().0) => PreSymbolKind::Function,
                _ => PreSymbolKind::Object,
            };
            let name = match (kind, section) {
                (PreSymbolKind::Section, Some(index)) => {
                    let section = self.file.section_by_index(index).expect("section");
                    section.name().expect("name").to_owned()
                }
                _ => symbol.name().expect("name").to_owned(),
            };
            self.symbols
                .insert(symbol.index().0, self.merged.symbols.len() as u32);
            self.merged.symbols.push(PreSymbol {
                name,
                file: is_local(&symbol).then(|| source.clone()),
                kind,
                size: symbol.size(),
                place: place.map(|section| (*section, symbol.address())),
                wanted: false,
            });
        }
    }

    /// Constants begin where variables' initial values refer to.
    fn mark_starts(&mut self) {
        for section in self.file.sections() {
            if self.sections.contains_key(&section.index()) {
                continue;
            }
            for (_, relocation) in section.relocations() {
                let RelocationTarget::Symbol(index) = relocation.target() else {
                    continue;
                };
                let symbol = self.symbols[&index.0] as usize;
                let Some((place, offset)) = self.merged.symbols[symbol].place else {
                    continue;
                };
                let Some(start) = offset.checked_add_signed(relocation.addend()) else {
                    continue;
                };
                let contents = &self.merged.sections[place as usize];
                if contents.kind == PreKind::ReadOnly && start < contents.bytes.len() as u64 {
                    self.merged.symbols.push(PreSymbol {
                        name: contents.name.clone(),
                        file: None,
                        kind: PreSymbolKind::Section,
                        size: 0,
                        place: Some((place, start)),
                        wanted: false,
                    });
                }
            }
        }
    }

    fn is_called(&self, symbol: usize) -> bool {
        self.file.sections().any(|section| {
            section.relocations().any(|(_, relocation)| {
                relocation.target() == RelocationTarget::Symbol(object::SymbolIndex(symbol))
                    && raw_type(relocation.flags()) == elf::R_X86_64_PLT32.0
            })
        })
    }

    fn read_relocations(&self, section: &impl ObjectSection<'f>) -> Vec<PreRelocation> {
        let mut relocations: Vec<PreRelocation> = section
            .relocations()
            .map(|(offset, relocation)| {
                let RelocationTarget::Symbol(index) = relocation.target() else {
                    panic!("a relocation without a symbol");
                };
                PreRelocation {
                    offset: offset as u32,
                    kind: raw_type(relocation.flags()),
                    symbol: self.symbols[&self.variable_of(index.0)],
                    addend: relocation.addend(),
                }
            })
            .collect();
        relocations.sort_by_key(|relocation| relocation.offset);
        relocations
    }

    /// With -fdata-sections a section is one variable: its symbol stands for the variable's.
    fn variable_of(&self, index: usize) -> usize {
        let symbol = self
            .file
            .symbol_by_index(object::SymbolIndex(index))
            .expect("symbol");
        let SymbolSection::Section(section) = symbol.section() else {
            return index;
        };
        if symbol.kind() != SymbolKind::Section {
            return index;
        }
        let mut named = self.file.symbols().filter(|other| {
            other.section_index() == Some(section) && other.kind() != SymbolKind::Section
        });
        match (named.next(), named.next()) {
            (Some(only), None) if only.address() == 0 && only.size() > 0 => only.index().0,
            _ => index,
        }
    }
}

fn kind_of<'f>(section: &impl ObjectSection<'f>) -> Option<PreKind> {
    let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
        return None;
    };
    let has = |flag: elf::SectionFlags| sh_flags.0 & flag.0 != 0;
    let name = section.name().expect("name");
    if !has(elf::SHF_ALLOC) || has(elf::SHF_TLS) || name.starts_with(".note") || name == ".eh_frame"
    {
        return None;
    }
    if has(elf::SHF_EXECINSTR) {
        return Some(PreKind::Code);
    }
    if name.starts_with(".data.rel.ro") {
        return Some(PreKind::ReadOnly);
    }
    if has(elf::SHF_WRITE) {
        return None;
    }
    Some(if has(elf::SHF_STRINGS) {
        PreKind::Strings
    } else {
        PreKind::ReadOnly
    })
}

fn is_local<'f>(symbol: &impl ObjectSymbol<'f>) -> bool {
    let SymbolFlags::Elf { st_info, .. } = symbol.flags() else {
        return false;
    };
    symbol.section() != SymbolSection::Undefined && st_info.st_bind() == elf::STB_LOCAL
}

fn raw_type(flags: RelocationFlags) -> u32 {
    match flags {
        RelocationFlags::Elf { r_type } => r_type.0,
        other => panic!("{other:?}"),
    }
}

/// The symbol of that name and source file in the first object.
pub(crate) fn find_symbol(code: &PreObject, name: &str, file: &str) -> usize {
    let found = code.symbols.iter().position(|symbol| {
        is_listed(&[(name, file)], symbol) && (symbol.wanted || symbol.place.is_some())
    });
    found.unwrap_or_else(|| panic!("no symbol {name} {file}"))
}

impl Workshop {
    /// Compiles source texts as `engraft build` does, each to an object file of its own.
    pub(crate) fn compile_pre(
        &self,
        compiler: &str,
        sources: &[&str],
        flags: &[&str],
    ) -> Vec<PathBuf> {
        let compile = |source: &&str| {
            let output = format!("{source}.pre.o");
            let mut arguments = vec!["-c", "-ffunction-sections", "-fdata-sections"];
            arguments.extend(flags);
            arguments.push(source);
            self.build(compiler, &output, &arguments)
        };
        sources.iter().map(compile).collect()
    }

    /// Compiles a livepatch whose undefined symbols `pre_NAME` and `pre_NAME_IN_FILE` stand
    /// for symbols of the pre-patch code.
    pub(crate) fn matched_module(&self, name: &str, source: &str, code: &PreObject) -> Vec<u8> {
        self.add_pre_code(name, &self.module(name, source), code)
    }

    /// A module with pre-patch code added.
    pub(crate) fn add_pre_code(&self, name: &str, module: &[u8], code: &PreObject) -> Vec<u8> {
        let plain = self.path(&format!("{name}.plain"));
        std::fs::write(&plain, module).expect("module");
        let section = self.path(&format!("{name}.pre"));
        let code = PreCode {
            objects: vec![code.clone()],
        };
        std::fs::write(&section, code.to_bytes()).expect("pre-patch code");
        let output = self.path(&format!("{name}.lp"));
        let mut command = Command::new("objcopy");
        command.arg(format!(
            "--add-section={PRE_CODE_SECTION}={}",
            section.display()
        ));
        for (from, to) in renamed(module, &code.objects[0]) {
            command.arg(format!("--redefine-sym={from}={PRE_CODE_SYMBOL}0.{to}"));
        }
        let status = command.args([&plain, &output]).status().expect("objcopy");
        assert!(status.success());
        std::fs::read(output).expect("module")
    }
}

/// Placeholders in a module, and the positions of the symbols that they stand for.
fn renamed(module: &[u8], code: &PreObject) -> Vec<(String, usize)> {
    let file = ElfFile64::<Endianness>::parse(module).expect("module");
    let names = file.symbols().filter_map(|symbol| {
        let name = symbol.name().ok()?.to_owned();
        let rest = name.strip_prefix("pre_")?.to_owned();
        symbol.is_undefined().then_some((name, rest))
    });
    names
        .map(|(name, rest)| {
            let position = match rest.split_once("_IN_") {
                Some((symbol, file)) => find_symbol(code, symbol, &format!("{file}.c")),
                None => find_symbol(code, &rest, ""),
            };
            (name, position)
        })
        .collect()
}

/// Addresses of the defined symbols of a file by name, as `nm` tells them; of equal names the
/// list.
pub(crate) fn list_symbols(path: &Path) -> HashMap<String, Vec<u64>> {
    let output = Command::new("nm").arg(path).output().expect("nm");
    let mut symbols: HashMap<String, Vec<u64>> = HashMap::new();
    for line in String::from_utf8(output.stdout).expect("nm").lines() {
        let mut words = line.split_whitespace();
        if let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            symbols.entry(name.to_owned()).or_default().push(address);
        }
    }
    symbols
}
