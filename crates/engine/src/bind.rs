//! Binding a module's references to the running program.

use std::collections::BTreeMap;

use engraft_elf::{Binding, Symbol, SymbolKind};
use engraft_module::{Reference, Resolve, ResolveError, Resolved, Scope, TlsIndex};

use crate::attached::Attached;
use crate::matching::Matches;
use crate::objects::{LoadedObject, Objects};

const R_X86_64_DTPMOD64: u32 = 16;
const R_X86_64_TPOFF64: u32 = 18;

/// Looks symbols up as the program itself would, and in its local symbols, too.
pub(crate) struct Binder<'a> {
    pub(crate) process: &'a Attached,
    pub(crate) objects: &'a Objects,
    /// The runtime's interface.
    pub(crate) exports: &'a BTreeMap<String, u64>,
    /// What matching has found for the module.
    pub(crate) matches: &'a Matches,
}

impl Resolve for Binder<'_> {
    fn resolve(&self, reference: &Reference) -> Result<Resolved, ResolveError> {
        match &reference.scope {
            Scope::Any => self.resolve_any(reference),
            Scope::Executable => self.resolve_in(self.objects.main(), reference),
            Scope::Object(name) => match self.objects.find(Some(name))? {
                Some(object) => self.resolve_in(object, reference),
                None => Ok(Resolved::Absent),
            },
            Scope::PreCode { object, symbol } => self.matches.resolve(*object, *symbol),
        }
    }
}

impl Binder<'_> {
    /// The runtime, then the main executable with its local symbols, then what libraries
    /// export, in the dynamic linker's order.
    fn resolve_any(&self, reference: &Reference) -> Result<Resolved, ResolveError> {
        if let Some(address) = self.exports.get(&reference.name) {
            return Ok(Resolved::Address(*address));
        }
        let main = self.objects.main();
        if !main.symbols().lookup(&reference.name).is_empty() {
            return self.resolve_in(main, reference);
        }
        if let Some(address) = find_stand_in(main, &reference.name) {
            return Ok(Resolved::Address(address));
        }
        for object in link_order(self.objects) {
            if let Some(symbol) = find_exported(object, &reference.name) {
                return self.value_of(object, symbol);
            }
        }
        let outside = self.matches.resolve_outside(&reference.name);
        outside.ok_or_else(|| self.explain_missing(reference))
    }

    fn resolve_in(
        &self,
        object: &LoadedObject,
        reference: &Reference,
    ) -> Result<Resolved, ResolveError> {
        let symbol = object
            .symbols()
            .resolve(&reference.name, reference.sympos)?;
        self.value_of(object, symbol)
    }

    fn value_of(&self, object: &LoadedObject, symbol: &Symbol) -> Result<Resolved, ResolveError> {
        match symbol.kind {
            SymbolKind::Ifunc => Ok(Resolved::Ifunc(symbol.address)),
            SymbolKind::Tls => {
                locate_thread_local(self.process, self.objects, object, symbol.address)
            }
            _ => Ok(Resolved::Address(symbol.address)),
        }
    }

    fn explain_missing(&self, reference: &Reference) -> ResolveError {
        let local = self
            .objects
            .iter()
            .find(|object| !object.is_main && !object.symbols().lookup(&reference.name).is_empty());
        match local {
            Some(object) => format!(
                "only {} has it, as a local symbol; refer to it with KLP_SYM({}, {}, 0)",
                object.name, object.name, reference.name
            )
            .into(),
            None => match self.objects.main().symbols().resolve(&reference.name, 0) {
                Err(error) => format!(
                    "neither the program nor its libraries define it: {}",
                    error.kind
                )
                .into(),
                Ok(_) => "it cannot be bound".into(),
            },
        }
    }
}

/// Where a thread-local variable, `offset` bytes into its object's block, is: at a distance from
/// the thread pointer where that is known, else where the dynamic linker says. Both are read from
/// places that the dynamic linker has filled in for the library's own accesses.
pub(crate) fn locate_thread_local(
    process: &Attached,
    objects: &Objects,
    object: &LoadedObject,
    offset: u64,
) -> Result<Resolved, ResolveError> {
    if object.is_main {
        let tls = object
            .image
            .tls
            .as_ref()
            .ok_or("the executable has no thread-local storage")?;
        return Ok(Resolved::TlsOffset(tls.executable_offset(offset)));
    }
    if let Some((base, addend, filled)) = read_filled(process, object, R_X86_64_TPOFF64)? {
        let block = filled
            .wrapping_sub(base)
            .wrapping_sub(addend.cast_unsigned());
        let distance = block.wrapping_add(offset).cast_signed();
        return Ok(Resolved::TlsOffset(distance));
    }
    if let Some((_, _, module)) = read_filled(process, object, R_X86_64_DTPMOD64)?
        && let Some(get_addr) = find_get_addr(objects)
    {
        return Ok(Resolved::TlsIndex(TlsIndex {
            module,
            offset,
            get_addr,
        }));
    }
    Err(format!(
        "the thread-local storage of {} cannot be located: it does not use any in a known way; \
         reach the variable through a function of the library",
        object.name
    )
    .into())
}

/// The first place that a relocation of this kind against the object itself has filled in:
/// value of the symbol, addend, contents.
fn read_filled(
    process: &Attached,
    object: &LoadedObject,
    kind: u32,
) -> Result<Option<(u64, i64, u64)>, ResolveError> {
    for relocation in object.image.read_relocations(&process.memory)? {
        if relocation.kind != kind {
            continue;
        }
        let base = match relocation.symbol {
            None => 0,
            Some(index) => match object.image.dynamic_symbols.get(index as usize) {
                Some(other) if other.defined => other.address,
                _ => continue,
            },
        };
        let filled: u64 = process.memory.read(relocation.address)?;
        return Ok(Some((base, relocation.addend, filled)));
    }
    Ok(None)
}

fn find_get_addr(objects: &Objects) -> Option<u64> {
    let exported = |object: &LoadedObject| {
        find_exported(object, "__tls_get_addr").map(|symbol| symbol.address)
    };
    objects.iter().find_map(exported)
}

/// Breadth first from the main executable, as the dynamic linker searches; what it does
/// not need (dlopen) follows.
pub(crate) fn link_order(objects: &Objects) -> Vec<&LoadedObject> {
    let mut order = vec![objects.main()];
    let mut next = 0;
    while let Some(object) = order.get(next).copied() {
        for needed in &object.image.needed {
            let is_it = |other: &&LoadedObject| {
                other.image.soname.as_deref().unwrap_or(&other.name) == needed
            };
            if let Some(found) = objects.iter().find(is_it)
                && !order.iter().any(|known| std::ptr::eq(*known, found))
            {
                order.push(found);
            }
        }
        next += 1;
    }
    for object in objects.iter() {
        if !order.iter().any(|known| std::ptr::eq(*known, object)) {
            order.push(object);
        }
    }
    order
}

/// What a library's function is to a program that takes its address without PIE: an entry of the
/// program's own procedure linkage table (psABI, "Function Addresses").
fn find_stand_in(main: &LoadedObject, name: &str) -> Option<u64> {
    let mut symbols = main.image.dynamic_symbols.iter();
    let stands_in = |symbol: &&Symbol| {
        !symbol.defined
            && symbol.kind == SymbolKind::Function
            && symbol.address != 0
            && &*symbol.name == name
    };
    symbols.find(stands_in).map(|symbol| symbol.address)
}

/// The symbol of that name that an object exports, of the version for new programs.
pub(crate) fn find_exported<'a>(object: &'a LoadedObject, name: &str) -> Option<&'a Symbol> {
    object
        .image
        .dynamic_symbols
        .iter()
        .filter(|symbol| {
            symbol.defined && symbol.binding != Binding::Local && &*symbol.name == name
        })
        .min_by_key(|symbol| symbol.hidden_version)
}
