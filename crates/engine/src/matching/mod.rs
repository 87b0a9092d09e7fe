//! Run-pre matching: is the running program the one that a patch was built for, and where in
//! it are the functions and variables that the patch needs?
//!
//! A built module carries the code that the compiler made of the source before the change
//! ([`engraft_module::PreCode`]). Every function that is to be replaced must be in the
//! program, instruction by instruction, with the constants and texts that it uses; what its
//! references lead to tells where other symbols are, stripped or not. Any doubt is a refusal.
//!
//! - `pre`: the pre-patch code, indexed.
//! - `program`: the running code, PLT entries and GOT slots.
//! - `names`: what symbol tables say.
//! - `compare`: one function at one address.
//! - `solve`: which function is where.

mod by_name;
mod claim;
mod compare;
mod names;
mod pre;
mod program;
mod reason;
mod refusal;
mod solve;

use std::collections::{BTreeMap, HashMap};

use engraft_core::{Code, Range};
use engraft_module::{PatchModule, PreFunction, PreObject, ResolveError, Resolved};
use nix::errno::Errno;

use crate::bind::locate_thread_local;
use crate::error::Error;
use crate::objects::LoadedObject;
use crate::preview::View;
use by_name::find_by_name;
use compare::Comparison;
use pre::{PreIndex, SymbolId};
use program::{Found, Program};
use refusal::Refusal;
use solve::Solver;

/// What matching has found for one module.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    /// By object of the pre-patch code; `None` where it is not loaded.
    objects: Vec<Option<ObjectMatch>>,
}

/// What matching has found in one object.
#[derive(Debug)]
struct ObjectMatch {
    /// Address of its ELF header, which tells objects apart.
    header: u64,
    /// By `klp_func.old_name` and `klp_func.old_sympos`.
    functions: HashMap<(String, u64), Code>,
    /// By symbol: its value, or why there is none.
    symbols: Vec<Result<Resolved, String>>,
    /// Positions of global symbols that are defined outside what was built.
    outside: HashMap<String, usize>,
}

impl Matches {
    /// The original code of a function of an object, if the module carries its pre-patch code.
    pub(crate) fn code(&self, object: &LoadedObject, name: &str, sympos: u64) -> Option<&Code> {
        let header = object.image.header_address;
        let mut matches = self.objects.iter().flatten();
        let found = matches.find(|it| it.header == header)?;
        found.functions.get(&(name.to_owned(), sympos))
    }

    /// The value of a global symbol that is defined outside what was built, if the pre-patch
    /// code tells: a program that was linked statically may have no name for it.
    pub(crate) fn resolve_outside(&self, name: &str) -> Option<Resolved> {
        let mut objects = self.objects.iter().flatten();
        objects.find_map(|object| {
            let position = object.outside.get(name)?;
            object.symbols[*position].as_ref().ok().copied()
        })
    }

    /// The value of a symbol of the pre-patch code.
    pub(crate) fn resolve(&self, object: usize, symbol: usize) -> Result<Resolved, ResolveError> {
        let Some(Some(found)) = self.objects.get(object) else {
            return Ok(Resolved::Absent);
        };
        match found.symbols.get(symbol) {
            Some(Ok(value)) => Ok(*value),
            Some(Err(reason)) => Err(reason.clone().into()),
            None => Err("it was not looked for".into()),
        }
    }
}

/// Compares all pre-patch code of a module with the process.
///
/// # Errors
///
/// ENOEXEC when a function differs, EINVAL when it cannot be told apart from another.
pub(crate) fn match_module(view: View<'_>, module: &PatchModule) -> Result<Matches, Error> {
    let mut matches = Matches::default();
    for object in module.pre_code.iter().flat_map(|code| &code.objects) {
        let found = match view.objects.find(object.name.as_deref())? {
            Some(loaded) => {
                let records = view.records().into_iter();
                let redirected = records.flat_map(|records| records.entries.values());
                let program = Program::read(view.process, view.objects, loaded, redirected)?;
                Some(match_object(&program, object)?)
            }
            None => None,
        };
        matches.objects.push(found);
    }
    Ok(matches)
}

fn match_object(program: &Program<'_>, object: &PreObject) -> Result<ObjectMatch, Error> {
    let pre = PreIndex::new(object);
    let mut solver = Solver::new(&pre, program);
    let explain = |refusal: Refusal| refusal.explain(&pre, program);
    solver.solve().map_err(explain)?;
    let mut functions = HashMap::new();
    let mut places: BTreeMap<u64, SymbolId> = BTreeMap::new();
    for function in &object.functions {
        let code = code_of(&solver, function).ok_or_else(|| broken(program))?;
        let id = pre.canonical(function.symbol);
        let other = *places.entry(code.entry()).or_insert(id);
        if other != id {
            return Err(explain(Refusal::Folded(id, other, code.entry())));
        }
        functions.insert((function.old_name.clone(), function.old_sympos), code);
    }
    let symbols = (0..object.symbols.len() as u32).map(|id| {
        let found = find_symbol(&pre, program, &solver, id)?;
        value_of(program, found)
    });
    let outside = object.symbols.iter().enumerate();
    let outside = outside
        .filter(|(_, symbol)| symbol.wanted && symbol.file.is_none() && symbol.place.is_none());
    Ok(ObjectMatch {
        header: program.object.image.header_address,
        functions,
        symbols: symbols.collect(),
        outside: outside
            .map(|(position, symbol)| (symbol.name.clone(), position))
            .collect(),
    })
}

fn broken(program: &Program<'_>) -> Error {
    let context = format!("pre-patch code of {}", program.object.name);
    let message = "a function that it replaces has no code";
    Error::other(context, Errno::ENOEXEC, message).with_help("build the module again")
}

fn code_of(solver: &Solver<'_>, function: &PreFunction) -> Option<Code> {
    let range = |comparison: &Comparison| Range {
        start: comparison.address,
        len: comparison.matched.length as u64,
    };
    let cold = function
        .cold
        .iter()
        .map(|part| solver.settled(*part).map(range));
    Some(Code {
        body: range(solver.settled(function.symbol)?),
        cold: cold.collect::<Option<_>>()?,
    })
}

/// What a wanted symbol is: as matched functions use it, where it was matched, or by name.
fn find_symbol(
    pre: &PreIndex<'_>,
    program: &Program<'_>,
    solver: &Solver<'_>,
    id: SymbolId,
) -> Result<Found, String> {
    let symbol = pre.symbol(id);
    if !symbol.wanted {
        return Err("the pre-patch code does not mark it as wanted".to_owned());
    }
    if let Some(claim) = solver.claim(id) {
        let canonical = claim.binding.canonical.map(Found::Address);
        return Ok(canonical.unwrap_or(claim.binding.found));
    }
    if let Some(settled) = solver.settled(id) {
        return Ok(Found::Address(settled.address));
    }
    if pre.is_carried(id) {
        return Err("no function that was compared uses this constant".to_owned());
    }
    find_by_name(program, symbol)
}

fn value_of(program: &Program<'_>, found: Found) -> Result<Resolved, String> {
    match found {
        Found::Address(address) => Ok(Resolved::Address(address)),
        Found::Ifunc(resolver) => Ok(Resolved::Ifunc(resolver)),
        Found::Tls(offset) => Ok(Resolved::TlsOffset(offset)),
        Found::TlsBlock(header, offset) => {
            let mut objects = program.objects.iter();
            let object = objects
                .find(|object| object.image.header_address == header)
                .ok_or("its object is gone")?;
            let offset = offset.cast_unsigned();
            locate_thread_local(program.process, program.objects, object, offset)
                .map_err(|error| error.to_string())
        }
    }
}
