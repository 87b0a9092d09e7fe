//! The patches that a module declares in its data, found without running it.

use std::cell::Cell;
use std::collections::HashMap;
use std::mem::offset_of;

use engraft_abi::{KlpCallbacks, KlpFunc, KlpObject, KlpPatch, KlpState, KlpStateCallbacks};

use crate::{Contents, Definition, PatchModule, Region, RelocationKind, Symbol, SymbolKind};

/// Entries of all arrays together that are read before giving up: hostile arrays may share
/// their parts.
const MAX_ENTRIES: u32 = 65536;

/// An operand counts from the end of its instruction, behind four bytes of its own and as many of
/// an immediate one.
const NEXT_INSTRUCTION: i64 = 8;

/// A `struct klp_patch` in the data of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredPatch {
    /// It replaces all older patches of its set.
    pub replace: bool,
    /// Its set.
    pub replace_set: u32,
    /// Its objects.
    pub objects: Vec<DeclaredObject>,
    /// Its states.
    pub states: Vec<DeclaredState>,
    /// No code of the module refers to its flags or states, so they are what they will be when it
    /// is enabled. An init function may set them from parameters.
    pub settled: bool,
}

/// A `struct klp_object`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredObject {
    /// The library's name, `None` for the main executable.
    pub name: Option<String>,
    /// The functions that it replaces.
    pub functions: Vec<DeclaredFunction>,
    /// Names of the callbacks that are set: `pre_patch` and so on.
    pub callbacks: Vec<&'static str>,
}

/// A `struct klp_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredState {
    /// Its id.
    pub id: u64,
    /// Its version.
    pub version: u32,
    /// Names of the callbacks that are set, `shadow_dtor` among them.
    pub callbacks: Vec<&'static str>,
    /// It owns the shadow variables with its id.
    pub is_shadow: bool,
    /// It cannot be taken back.
    pub block_disable: bool,
}

/// A `struct klp_func`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredFunction {
    /// Name of the function to be replaced.
    pub old_name: String,
    /// Which of several functions of that name; 0 when it is the only one.
    pub old_sympos: u64,
    /// Name of the replacement, empty if none is set.
    pub new_func: String,
    /// Its position in [`PatchModule::symbols`].
    pub new_symbol: Option<usize>,
}

/// A place in a module: position in [`PatchModule::sections`], and offset.
type Place = (usize, u64);

/// The pointers in a module's data, as its relocations describe them.
pub(crate) struct Pointers<'a> {
    module: &'a PatchModule,
    targets: HashMap<Place, (usize, i64)>,
    functions: HashMap<Place, usize>,
    this_module: Option<usize>,
    /// Places that the module's code refers to: sections, and the offsets in the instructions.
    used_by_code: Vec<(usize, i64)>,
    entries_left: Cell<u32>,
}

impl<'a> Pointers<'a> {
    pub(crate) fn of(module: &'a PatchModule) -> Self {
        let absolute = module
            .relocations
            .iter()
            .filter(|relocation| relocation.kind == RelocationKind::Absolute64);
        let target = |r: &crate::Relocation| ((r.section, r.offset), (r.symbol, r.addend));
        let symbols = || module.symbols.iter().enumerate();
        let function = |(index, symbol): (usize, &Symbol)| match symbol.definition {
            Definition::Section { section, offset } if symbol.kind == SymbolKind::Function => {
                Some(((section, offset), index))
            }
            _ => None,
        };
        let by_code = module
            .relocations
            .iter()
            .filter(|relocation| module.sections[relocation.section].region == Region::Text);
        let used = |r: &crate::Relocation| match module.symbols[r.symbol].definition {
            Definition::Section { section, offset } => {
                Some((section, offset.cast_signed().wrapping_add(r.addend)))
            }
            _ => None,
        };
        Self {
            module,
            used_by_code: by_code.filter_map(used).collect(),
            targets: absolute.map(target).collect(),
            functions: symbols().filter_map(function).collect(),
            this_module: symbols()
                .find(|(_, symbol)| symbol.name == "__this_module")
                .map(|(index, _)| index),
            entries_left: Cell::new(MAX_ENTRIES),
        }
    }

    /// The place of entry `index` of an array.
    fn entry(&self, (section, offset): Place, index: u64, size: usize) -> Option<Place> {
        self.entries_left
            .set(self.entries_left.get().checked_sub(1)?);
        let distance = index.checked_mul(size as u64)?;
        Some((section, offset.checked_add(distance)?))
    }

    /// The pointer at `place` is THIS_MODULE.
    fn is_this_module(&self, place: Place) -> bool {
        let (Some(this_module), Some(symbol)) = (self.this_module, self.symbol(place)) else {
            return false;
        };
        symbol == this_module
            || match self.module.symbols[this_module].definition {
                Definition::Section { section, offset } => {
                    self.target(place) == Some((section, offset))
                }
                _ => false,
            }
    }

    /// The symbol that the pointer at `place` refers to.
    pub(crate) fn symbol(&self, place: Place) -> Option<usize> {
        self.targets.get(&place).map(|target| target.0)
    }

    /// Whether the pointer at `place` is not NULL. A weak reference that nothing defines is.
    fn is_set(&self, place: Place) -> bool {
        self.symbol(place).is_some_and(|index| {
            let definition = &self.module.symbols[index].definition;
            !matches!(definition, Definition::Undefined(reference) if reference.weak)
        })
    }

    /// Where the pointer at `place` leads.
    fn target(&self, place: Place) -> Option<Place> {
        let &(symbol, addend) = self.targets.get(&place)?;
        match self.module.symbols[symbol].definition {
            Definition::Section { section, offset } => {
                Some((section, offset.checked_add_signed(addend)?))
            }
            _ => None,
        }
    }

    /// The zero-terminated text that the pointer at `place` leads to.
    pub(crate) fn text(&self, place: Place) -> Option<String> {
        /// KSYM_NAME_LEN.
        const MAX_TEXT: usize = 512;
        let (section, offset) = self.target(place)?;
        let rest = self.bytes(section)?.get(usize::try_from(offset).ok()?..)?;
        let length = rest.iter().take(MAX_TEXT).position(|&byte| byte == 0)?;
        Some(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    /// The symbol of the function that the pointer at `place` leads to.
    fn function(&self, place: Place) -> Option<usize> {
        let symbol = self.symbol(place)?;
        if self.module.symbols[symbol].kind != SymbolKind::Section {
            return Some(symbol);
        }
        self.functions.get(&self.target(place)?).copied()
    }

    /// Whether code refers to any of the bytes from `start` on. The offset in an instruction may
    /// be up to [`NEXT_INSTRUCTION`] less than what is meant.
    fn is_used_by_code(&self, (section, start): Place, length: usize) -> bool {
        let end = start.saturating_add(length as u64).cast_signed();
        self.used_by_code.iter().any(|(other, offset)| {
            let meant = *offset..=offset.saturating_add(NEXT_INSTRUCTION);
            *other == section && *meant.start() < end && *meant.end() >= start.cast_signed()
        })
    }

    /// Data without contents in the file are zero, unless the module's code may fill them in.
    fn word(&self, (section, offset): Place) -> Option<u64> {
        if let Contents::Zero(size) = self.module.sections[section].contents {
            let inside = offset.checked_add(8).is_some_and(|end| end <= size);
            let used = self.used_by_code.iter().any(|(other, _)| *other == section);
            return (inside && !used).then_some(0);
        }
        let offset = usize::try_from(offset).ok()?;
        let word = self.bytes(section)?.get(offset..offset.checked_add(8)?)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    }

    fn bytes(&self, section: usize) -> Option<&[u8]> {
        match &self.module.sections[section].contents {
            Contents::Bytes(bytes) => Some(bytes),
            Contents::Zero(_) => None,
        }
    }
}

pub(crate) fn read(module: &PatchModule) -> Vec<DeclaredPatch> {
    let pointers = Pointers::of(module);
    let candidates = module.symbols.iter().filter(|symbol| {
        symbol.kind == SymbolKind::Object && symbol.size == size_of::<KlpPatch>() as u64
    });
    candidates
        .filter_map(|symbol| match symbol.definition {
            Definition::Section { section, offset } => read_patch(&pointers, (section, offset)),
            _ => None,
        })
        .collect()
}

fn read_patch(pointers: &Pointers<'_>, place: Place) -> Option<DeclaredPatch> {
    if !pointers.is_this_module(field(place, offset_of!(KlpPatch, module))) {
        return None;
    }
    let objects = pointers.target(field(place, offset_of!(KlpPatch, objects)))?;
    // Both flags and the set lie in one word.
    let flags = pointers.word(field(place, offset_of!(KlpPatch, replace)))?;
    let listed = pointers.target(field(place, offset_of!(KlpPatch, states)));
    let states = listed.map_or(Some(Vec::new()), |states| read_states(pointers, states))?;
    // Its own address is what it is enabled by, and no use of what is in it.
    let first = offset_of!(KlpPatch, objects);
    let fields = (field(place, first), size_of::<KlpPatch>() - first);
    let list = listed.map(|list| (list, size_of::<KlpState>() * states.len()));
    let used = |(start, length)| pointers.is_used_by_code(start, length);
    Some(DeclaredPatch {
        replace: flags & 0xff != 0,
        replace_set: (flags >> 32) as u32,
        objects: read_objects(pointers, objects)?,
        states,
        settled: !used(fields) && !list.is_some_and(used),
    })
}

fn read_objects(pointers: &Pointers<'_>, start: Place) -> Option<Vec<DeclaredObject>> {
    let mut objects = Vec::new();
    for index in 0.. {
        let place = pointers.entry(start, index, size_of::<KlpObject>())?;
        let name = field(place, offset_of!(KlpObject, name));
        let functions = field(place, offset_of!(KlpObject, funcs));
        if pointers.symbol(name).is_none() && pointers.symbol(functions).is_none() {
            // An array that is cut off or filled in by code has no terminator to be read.
            pointers.word(functions)?;
            return Some(objects);
        }
        objects.push(DeclaredObject {
            name: match pointers.symbol(name) {
                Some(_) => Some(pointers.text(name)?),
                None => None,
            },
            functions: match pointers.target(functions) {
                Some(functions) => read_functions(pointers, functions)?,
                None => Vec::new(),
            },
            callbacks: read_callbacks(pointers, field(place, offset_of!(KlpObject, callbacks))),
        });
    }
    None
}

/// Names of the callbacks that are set in the structure at `start`.
fn read_callbacks(pointers: &Pointers<'_>, start: Place) -> Vec<&'static str> {
    const CALLBACKS: [(&str, usize); 4] = [
        ("pre_patch", offset_of!(KlpCallbacks, pre_patch)),
        ("post_patch", offset_of!(KlpCallbacks, post_patch)),
        ("pre_unpatch", offset_of!(KlpCallbacks, pre_unpatch)),
        ("post_unpatch", offset_of!(KlpCallbacks, post_unpatch)),
    ];
    let callbacks = CALLBACKS.iter();
    let set = callbacks.filter(|(_, offset)| pointers.is_set(field(start, *offset)));
    set.map(|(name, _)| *name).collect()
}

fn read_functions(pointers: &Pointers<'_>, start: Place) -> Option<Vec<DeclaredFunction>> {
    let mut functions = Vec::new();
    for index in 0.. {
        let place = pointers.entry(start, index, size_of::<KlpFunc>())?;
        let old_name = field(place, offset_of!(KlpFunc, old_name));
        let new_func = field(place, offset_of!(KlpFunc, new_func));
        let Some(_) = pointers.symbol(old_name) else {
            pointers.word(old_name)?;
            return Some(functions);
        };
        let new_symbol = match pointers.symbol(new_func) {
            Some(_) => Some(pointers.function(new_func)?),
            None => None,
        };
        functions.push(DeclaredFunction {
            old_name: pointers.text(old_name)?,
            old_sympos: pointers.word(field(place, offset_of!(KlpFunc, old_sympos)))?,
            new_func: new_symbol.map_or_else(String::new, |symbol| {
                pointers.module.symbols[symbol].name.clone()
            }),
            new_symbol,
        });
    }
    None
}

fn read_states(pointers: &Pointers<'_>, start: Place) -> Option<Vec<DeclaredState>> {
    let mut states = Vec::new();
    for index in 0.. {
        let place = pointers.entry(start, index, size_of::<KlpState>())?;
        let id = pointers.word(field(place, offset_of!(KlpState, id)))?;
        if id == 0 {
            return Some(states);
        }
        let version = pointers.word(field(place, offset_of!(KlpState, version)))?;
        // Both flags lie in one word.
        let flags = pointers.word(field(place, offset_of!(KlpState, is_shadow)))?;
        let own = field(place, offset_of!(KlpState, callbacks));
        let mut callbacks = read_callbacks(pointers, own);
        if pointers.is_set(field(own, offset_of!(KlpStateCallbacks, shadow_dtor))) {
            callbacks.push("shadow_dtor");
        }
        states.push(DeclaredState {
            id,
            version: version as u32,
            callbacks,
            is_shadow: flags & 0xff != 0,
            block_disable: flags & 0xff00 != 0,
        });
    }
    None
}

fn field((section, offset): Place, distance: usize) -> Place {
    (section, offset.saturating_add(distance as u64))
}
