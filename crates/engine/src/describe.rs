//! From the author's `struct klp_patch` in the target's memory to what the rules work with.

use engraft_abi::{KlpCallbacks, KlpFunc, KlpObject, KlpPatch, KlpState, ModuleState};
use engraft_core::{
    Callbacks, Code, Func, NewObject, NewPatch, Range, Refusal, RefusalKind, Replacement,
    SystemState, Upkeep,
};
use engraft_elf::Symbol;
use engraft_process::{Memory, Pod};
use nix::errno::Errno;

use crate::database::Module;
use crate::error::{Error, Kind};
use crate::matching::Matches;
use crate::objects::{LoadedObject, Objects};

/// Limits for arrays that end with a terminator which a broken module may lack.
const MAX_OBJECTS: usize = 1024;
const MAX_FUNCS: usize = 65536;
const MAX_STATES: usize = 4096;
const MAX_STRING: usize = 8192;

/// What the author wrote, before anything in it is looked up.
#[derive(Clone)]
pub(crate) struct WrittenPatch {
    /// Name, flag, states; no objects yet.
    pub(crate) patch: NewPatch,
    /// The objects with their addresses.
    objects: Vec<(u64, KlpObject)>,
}

impl WrittenPatch {
    /// Whether it is for more than the main executable.
    pub(crate) fn names_libraries(&self) -> bool {
        self.objects.iter().any(|(_, object)| object.name != 0)
    }
}

/// Reads a patch. What the kernel refuses before anything else is refused here (spec
/// section 2, steps 1 and 2).
pub(crate) fn read_patch(
    memory: &Memory,
    module: &Module,
    address: u64,
) -> Result<WrittenPatch, Error> {
    let refuse = |message: &str, help: &str| {
        let context = format!("klp_enable_patch() in module '{}'", module.name);
        Error::other(context, Errno::EINVAL, message).with_help(help)
    };
    if address == 0 {
        return Err(refuse(
            "the patch is NULL",
            "pass the address of a struct klp_patch",
        ));
    }
    let patch: KlpPatch = memory.read(address)?;
    if patch.module == 0 || module.this_module.is_some_and(|own| own != patch.module) {
        return Err(refuse(
            "klp_patch.mod is not this module",
            "set it to THIS_MODULE",
        ));
    }
    if patch.objects == 0 {
        let help = "let it point to an array of objects that ends with an empty entry";
        return Err(refuse("klp_patch.objs is not set", help));
    }
    let listed = read_array(memory, patch.objects, MAX_OBJECTS, |o: &KlpObject| {
        o.name == 0 && o.funcs == 0
    })?;
    if let Some(index) = listed.entries.iter().position(|object| object.funcs == 0) {
        let message = format!("klp_patch.objs[{index}].funcs is not set");
        return Err(refuse(&message, FUNCS_HELP));
    }
    if listed.terminator.callbacks != KlpCallbacks::default() {
        let index = listed.entries.len();
        let message = format!(
            "klp_patch.objs[{index}] has callbacks, but neither name nor funcs, which ends the list"
        );
        return Err(refuse(&message, FUNCS_HELP));
    }
    let at = |index: usize| patch.objects + (index * size_of::<KlpObject>()) as u64;
    let objects = listed.entries.into_iter().enumerate();
    Ok(WrittenPatch {
        patch: NewPatch {
            name: module.name.clone(),
            replace: patch.replace != 0,
            replace_set: patch.replace_set,
            objects: Vec::new(),
            states: read_states(memory, patch.states)?,
            handle: address,
        },
        objects: objects.map(|(index, o)| (at(index), o)).collect(),
    })
}

const FUNCS_HELP: &str =
    "an object with nothing but callbacks needs a funcs array that holds only the empty entry";

/// Looks up the objects and functions of a patch.
pub(crate) fn describe_patch(
    memory: &Memory,
    objects: &Objects,
    matches: &Matches,
    module: &Module,
    written: WrittenPatch,
) -> Result<NewPatch, Error> {
    let WrittenPatch {
        mut patch,
        objects: listed,
    } = written;
    let mut found: Vec<&LoadedObject> = Vec::new();
    for (handle, object) in listed {
        let name = match object.name {
            0 => None,
            at => Some(memory.read_c_string(at, MAX_STRING)?),
        };
        let loaded = objects.find(name.as_deref())?;
        if let Some(loaded) = loaded {
            if found.iter().any(|other| std::ptr::eq(*other, loaded)) {
                let kind = RefusalKind::DuplicateObject(loaded.name.clone());
                let patch = patch.name;
                return Err(Refusal { patch, kind }.into());
            }
            found.push(loaded);
        }
        let shown = name.as_deref().unwrap_or(&objects.main().name);
        let found = (shown, loaded, matches);
        let funcs = describe_funcs(memory, module, found, object.funcs)?;
        patch.objects.push(NewObject {
            loaded: loaded.is_some(),
            load: 0,
            name,
            funcs,
            callbacks: describe_callbacks(&object.callbacks),
            handle,
        });
    }
    Ok(patch)
}

fn describe_funcs(
    memory: &Memory,
    module: &Module,
    (object, loaded, matches): (&str, Option<&LoadedObject>, &Matches),
    address: u64,
) -> Result<Vec<Func>, Error> {
    let funcs = read_array(memory, address, MAX_FUNCS, |f: &KlpFunc| {
        f.old_name == 0 && f.new_func == 0 && f.old_sympos == 0
    })?;
    for (index, func) in funcs.entries.iter().enumerate() {
        for (field, value) in [("old_name", func.old_name), ("new_func", func.new_func)] {
            if value == 0 {
                let context = format!("patch '{}'", module.name);
                let message = format!("funcs[{index}].{field} of object '{object}' is not set");
                return Err(Error::other(context, Errno::EINVAL, message)
                    .with_help("only the last entry of a funcs array may be empty"));
            }
        }
    }
    let mut described = Vec::new();
    for func in &funcs.entries {
        let old_name = memory.read_c_string(func.old_name, MAX_STRING)?;
        let old = match loaded {
            Some(object) => Some(locate_old(object, matches, &old_name, func.old_sympos)?),
            None => None,
        };
        described.push(Func {
            replacement: Replacement::New(locate_new(module, &old_name, func.new_func)?),
            old_sympos: func.old_sympos,
            old_name,
            old,
        });
    }
    Ok(described)
}

fn describe_callbacks(callbacks: &KlpCallbacks) -> Callbacks {
    Callbacks {
        pre_patch: present(callbacks.pre_patch),
        post_patch: present(callbacks.post_patch),
        pre_unpatch: present(callbacks.pre_unpatch),
        post_unpatch: present(callbacks.post_unpatch),
    }
}

/// The original code of a function: where its pre-patch code matches, or else found by name
/// and position.
pub(crate) fn locate_old(
    object: &LoadedObject,
    matches: &Matches,
    name: &str,
    sympos: u64,
) -> Result<Code, Error> {
    if let Some(code) = matches.code(object, name, sympos) {
        return Ok(code.clone());
    }
    let context = || format!("function '{name}' of {}", object.name);
    let symbols = object.symbols();
    let symbol = symbols
        .resolve(name, sympos)
        .map_err(|error| Error::new("old function", error))?;
    if symbol.kind == engraft_elf::SymbolKind::Ifunc {
        let message = "it is an ifunc: what runs is one of several implementations";
        return Err(Error::other(context(), Errno::EINVAL, message)
            .with_help("name the implementation that its resolver chooses"));
    }
    if !object
        .image
        .segment_at(symbol.address)
        .is_some_and(|segment| segment.executable)
    {
        return Err(Error::other(
            context(),
            Errno::EINVAL,
            "it is not a function",
        ));
    }
    let size = symbols
        .function_size(symbol, None)
        .ok_or_else(|| Error::new("old function", Kind::OldSize(name.to_owned())))?;
    let range = |symbol: &Symbol, size| Range {
        start: symbol.address,
        len: size,
    };
    let cold = symbols
        .cold_parts(symbol)
        .into_iter()
        .filter_map(|part| Some(range(part, symbols.function_size(part, None)?)))
        .collect();
    Ok(Code {
        body: range(symbol, size),
        cold,
    })
}

pub(crate) fn locate_new(module: &Module, old_name: &str, address: u64) -> Result<Code, Error> {
    let context = || {
        format!(
            "replacement of function '{old_name}' in module '{}'",
            module.name
        )
    };
    let function = module.function_starting_at(address).ok_or_else(|| {
        let message = match address {
            0 => "klp_func.new_func is not set".to_owned(),
            _ => format!("new_func is {address:#x}, which is no function of the module"),
        };
        Error::other(context(), Errno::EINVAL, message)
    })?;
    if function.span.size == 0 {
        let kind = Kind::NewSize(old_name.to_owned());
        return Err(Error::new("new function", kind));
    }
    let cold_name = format!("{}.cold", function.name);
    let range = |function: &crate::database::Function| Range {
        start: function.span.start,
        len: function.span.size,
    };
    let cold = module
        .functions
        .iter()
        .filter(|part| part.name == cold_name)
        .map(range)
        .collect();
    Ok(Code {
        body: range(function),
        cold,
    })
}

fn read_states(memory: &Memory, address: u64) -> Result<Vec<SystemState>, Error> {
    if address == 0 {
        return Ok(Vec::new());
    }
    let states = read_array(memory, address, MAX_STATES, |state: &KlpState| {
        state.id == 0
    })?;
    let size = size_of::<KlpState>() as u64;
    let places = (address..).step_by(size as usize);
    let described = states.entries.iter().zip(places);
    Ok(described.map(|(s, at)| describe_state(s, at)).collect())
}

fn describe_state(state: &KlpState, handle: u64) -> SystemState {
    let own = &state.callbacks;
    let upkeep = Upkeep {
        callbacks: Callbacks {
            pre_patch: present(own.pre_patch),
            post_patch: present(own.post_patch),
            pre_unpatch: present(own.pre_unpatch),
            post_unpatch: present(own.post_unpatch),
        },
        owns_shadows: state.is_shadow != 0,
        shadow_dtor: present(own.shadow_dtor),
        block_disable: state.block_disable != 0,
        handle,
    };
    SystemState {
        id: state.id,
        version: state.version,
        upkeep: upkeep.is_needed().then_some(upkeep),
    }
}

fn present(address: u64) -> Option<u64> {
    (address != 0).then_some(address)
}

/// An array as it lies in memory.
struct Array<T> {
    entries: Vec<T>,
    terminator: T,
}

fn read_array<T: Pod>(
    memory: &Memory,
    address: u64,
    limit: usize,
    is_end: impl Fn(&T) -> bool,
) -> Result<Array<T>, Error> {
    let mut entries = Vec::new();
    while entries.len() < limit {
        let entry: T = memory.read(address + (entries.len() * size_of::<T>()) as u64)?;
        if is_end(&entry) {
            let terminator = entry;
            return Ok(Array {
                entries,
                terminator,
            });
        }
        entries.push(entry);
    }
    let message = format!("the array at {address:#x} has no terminating entry");
    Err(Error::other(
        "read struct klp_patch",
        Errno::EINVAL,
        message,
    ))
}

/// A `struct module` that stands for a library in `klp_object.mod`.
pub(crate) fn describe_library(name: &str) -> engraft_abi::Module {
    let mut module = engraft_abi::Module {
        state: ModuleState::Live as u32,
        name: [0; engraft_abi::MODULE_NAME_LEN],
        reserved: 0,
    };
    let length = name.len().min(engraft_abi::MODULE_NAME_LEN - 1);
    module.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    module
}
