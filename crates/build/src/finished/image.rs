//! A linked target: its symbols and what they name.

use std::collections::{HashMap, HashSet};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// A symbol of the target.
#[derive(Debug)]
pub(super) struct ImageSymbol {
    name: Vec<u8>,
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) is_global: bool,
    /// For a local symbol, the file that it is of.
    pub(super) file: Option<Vec<u8>>,
}

/// What can be asked of a target.
#[derive(Debug)]
pub(super) struct Image {
    symbols: Vec<ImageSymbol>,
    by_name: HashMap<Vec<u8>, Vec<usize>>,
    files: HashSet<Vec<u8>>,
    /// Address and content of sections.
    sections: Vec<(u64, Vec<u8>)>,
}

impl Image {
    /// Nothing if it is no ELF file or has no symbol table.
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        let file = object::File::parse(content).ok()?;
        let mut image = Self {
            symbols: Vec::new(),
            by_name: HashMap::new(),
            files: HashSet::new(),
            sections: Vec::new(),
        };
        let mut source = None;
        for symbol in file.symbols() {
            let name = symbol.name_bytes().ok()?.to_vec();
            match symbol.kind() {
                SymbolKind::File => {
                    image.files.insert(name.clone());
                    source = Some(name);
                }
                SymbolKind::Text | SymbolKind::Data if symbol.is_definition() => {
                    image.add(ImageSymbol {
                        name,
                        address: symbol.address(),
                        size: symbol.size(),
                        is_global: symbol.is_global(),
                        file: source.clone().filter(|_| symbol.is_local()),
                    });
                }
                _ => {}
            }
        }
        for section in file.sections() {
            let data = section.data().unwrap_or_default();
            if section.address() != 0 && !data.is_empty() {
                image.sections.push((section.address(), data.to_vec()));
            }
        }
        (!image.symbols.is_empty()).then_some(image)
    }

    fn add(&mut self, symbol: ImageSymbol) {
        let number = self.symbols.len();
        self.by_name
            .entry(symbol.name.clone())
            .or_default()
            .push(number);
        self.symbols.push(symbol);
    }

    /// Numbers and symbols of a name.
    pub(super) fn named(&self, name: &[u8]) -> impl Iterator<Item = (usize, &ImageSymbol)> {
        let numbers = self.by_name.get(name).map(Vec::as_slice);
        numbers
            .unwrap_or_default()
            .iter()
            .map(|&number| (number, &self.symbols[number]))
    }

    /// The name of a symbol, for a message.
    pub(super) fn name_of(&self, number: usize) -> String {
        String::from_utf8_lossy(&self.symbols[number].name).into_owned()
    }

    /// What lies at a symbol; nothing if it is not in the file, as zero-filled data.
    pub(super) fn content(&self, symbol: &ImageSymbol) -> Option<&[u8]> {
        self.sections.iter().find_map(|(address, data)| {
            let start = usize::try_from(symbol.address.checked_sub(*address)?).ok()?;
            let size = usize::try_from(symbol.size).ok()?;
            data.get(start..start.checked_add(size)?)
        })
    }

    /// Whether compilers say so in the names of source files that they make up.
    pub(super) fn is_generated_when_linked(&self) -> bool {
        [&b"<artificial>"[..], b"ld-temp.o"]
            .iter()
            .any(|name| self.files.contains(*name))
    }
}
