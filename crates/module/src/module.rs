//! What a patch module's file says.

use engraft_abi::ParamKind;

use crate::{
    DeclaredPatch, ModuleError, PreCode, Reference, Relocation, RequiredBuild, Scope, declared,
    parse,
};

/// The contents of a patch module's file, checked: every index and offset in it is valid.
#[derive(Clone, Debug)]
pub struct PatchModule {
    /// Name of the module: from `__this_module`, else from the module information, else from
    /// the file's name.
    pub name: String,
    /// Module information (`MODULE_INFO(tag, "text")`) as pairs of tag and text, in order.
    pub info: Vec<(String, String)>,
    /// The builds that it was made for, at most one of each object.
    pub required_builds: Vec<RequiredBuild>,
    /// Module parameters.
    pub params: Vec<Param>,
    /// The sections that become part of the target.
    pub sections: Vec<Section>,
    /// The symbol table; the position is the symbol's index.
    pub symbols: Vec<Symbol>,
    /// The relocations of all `sections`.
    pub relocations: Vec<Relocation>,
    /// What the running program is compared with before the module is loaded, if the module
    /// was built from a source change.
    pub pre_code: Option<PreCode>,
}

impl PatchModule {
    /// Reads and checks the bytes of a file. `file_name` serves for messages and, without its
    /// extension, as the module's name if the contents have none.
    ///
    /// # Errors
    ///
    /// [`ModuleError`] when the bytes are not a relocatable x86-64 ELF object, are damaged,
    /// or ask for something that a running program cannot be given (constructors, new
    /// thread-local variables, unknown relocations).
    pub fn parse(bytes: &[u8], file_name: &str) -> Result<Self, ModuleError> {
        parse::parse(bytes, file_name)
    }

    /// The first text with this tag in the module information.
    #[must_use]
    pub fn info(&self, tag: &str) -> Option<&str> {
        let mut pairs = self.info.iter();
        pairs.find(|pair| pair.0 == tag).map(|pair| &*pair.1)
    }

    /// Marked with `MODULE_INFO(livepatch, "Y")`. Modules without the mark only run their
    /// init function.
    #[must_use]
    pub fn is_livepatch(&self) -> bool {
        self.info("livepatch")
            .is_some_and(|text| text.starts_with('Y'))
    }

    /// The undefined symbols that relocations use, in order of the symbol table.
    #[must_use]
    pub fn references(&self) -> Vec<&Reference> {
        self.used_references()
            .map(|(_, reference)| reference)
            .collect()
    }

    pub(crate) fn used_references(&self) -> impl Iterator<Item = (usize, &Reference)> {
        let mut used = vec![false; self.symbols.len()];
        for relocation in &self.relocations {
            used[relocation.symbol] = true;
        }
        let references = self.symbols.iter().enumerate().zip(used);
        references.filter_map(|((index, symbol), used)| match &symbol.definition {
            Definition::Undefined(reference) if used => Some((index, reference)),
            _ => None,
        })
    }

    /// Name of the library that must be loaded for the reference to have a value; `None` when
    /// that is the main executable or not said.
    pub(crate) fn object_of<'a>(&'a self, reference: &'a Reference) -> Option<&'a str> {
        match &reference.scope {
            Scope::Any | Scope::Executable => None,
            Scope::Object(name) => Some(name),
            Scope::PreCode { object, .. } => {
                let object = self.pre_code.as_ref()?.objects.get(*object)?;
                object.name.as_deref()
            }
        }
    }

    /// The defined functions.
    pub fn functions(&self) -> impl Iterator<Item = &Symbol> {
        let defined = |symbol: &&Symbol| matches!(symbol.definition, Definition::Section { .. });
        let functions = self.symbols.iter().filter(defined);
        functions.filter(|symbol| symbol.kind == SymbolKind::Function)
    }

    /// The patches (`struct klp_patch`) in the module's data, as far as they are initialised
    /// statically. Empty when the module builds them at run time; [`Self::functions`] then
    /// lists what may be replacements. A patch that names its module statically is taken for
    /// what it is in the file.
    #[must_use]
    pub fn declared_patches(&self) -> Vec<DeclaredPatch> {
        declared::read(self)
    }

    /// Names of the objects of which declared patches replace functions, each once; `None` is
    /// the main executable.
    #[must_use]
    pub fn patched_objects(&self) -> Vec<Option<String>> {
        let mut names: Vec<Option<String>> = self
            .declared_patches()
            .into_iter()
            .flat_map(|patch| patch.objects)
            .filter(|object| !object.functions.is_empty())
            .map(|object| object.name)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// One of the three regions that a module occupies in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// Executable.
    Text,
    /// Read-only for the target.
    ReadOnly,
    /// Writable.
    Data,
}

/// One section that becomes part of the target.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Where it goes.
    pub region: Region,
    /// A power of two, at most a page.
    pub alignment: u64,
    /// Its bytes.
    pub contents: Contents,
}

impl Section {
    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.contents {
            Contents::Bytes(bytes) => bytes.len() as u64,
            Contents::Zero(size) => *size,
        }
    }
}

/// Contents of a section before relocation.
#[derive(Clone, Debug)]
pub enum Contents {
    /// As in the file.
    Bytes(Vec<u8>),
    /// So many zero bytes (SHT_NOBITS).
    Zero(u64),
}

/// One symbol of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name; of a section symbol, the section's name.
    pub name: String,
    /// What it stands for.
    pub kind: SymbolKind,
    /// Visible outside its source file.
    pub global: bool,
    /// Length in bytes, 0 when unknown.
    pub size: u64,
    /// Where its value comes from.
    pub definition: Definition,
}

/// What a symbol of a module stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SymbolKind {
    /// STT_FUNC.
    Function,
    /// STT_OBJECT.
    Object,
    /// STT_GNU_IFUNC: the symbol is the resolver.
    Ifunc,
    /// STT_SECTION.
    Section,
    /// Anything else: labels, thread-local references, file names.
    Other,
}

/// Where a symbol's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A place in one of [`PatchModule::sections`].
    Section {
        /// Position in [`PatchModule::sections`].
        section: usize,
        /// Distance from its start in bytes, at most its size.
        offset: u64,
    },
    /// A number (SHN_ABS).
    Absolute(u64),
    /// A place in a section that does not become part of the target; no relocation uses it.
    Dropped,
    /// To be resolved.
    Undefined(Reference),
}

/// One module parameter, as far as it is known before linking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Type of the value or of the array's elements.
    pub kind: ParamKind,
    /// Declared by `module_param_array`.
    pub array: bool,
    /// Number of array elements; else 1.
    pub elements: u32,
    /// Position in [`PatchModule::sections`] and offset of its [`engraft_abi::ParamRecord`].
    pub(crate) place: (usize, u64),
}
