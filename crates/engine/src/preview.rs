//! What stands against loading a module, worked out without touching the target.
//!
//! The dry run lists all of it; loading refuses for the first. The module is linked to where
//! it would go, so that even its code can be examined before it is there.

use engraft_abi::HEADERS_VERSION;
use engraft_core::{
    Callbacks, Code, Func, NewObject, NewPatch, Replacement, RouteFailure, State, SystemState,
    Upkeep,
};
use engraft_elf::SliceMemory;
use engraft_module::{
    DeclaredFunction, DeclaredObject, DeclaredPatch, DeclaredState, PatchModule, RequiredBuild,
};
use nix::errno::Errno;

use crate::attached::Attached;
use crate::control;
use crate::database::{Records, Stage};
use crate::describe::{locate_new, locate_old};
use crate::error::Error;
use crate::loading::LoadRequest;
use crate::matching::{Matches, match_module};
use crate::objects::{LoadedObject, Objects};
use crate::params::assign;
use crate::redirect::{Implementation, Overlay, Planner, Text};
use crate::space::Span;
use crate::trial::{Trial, link_on_trial};

/// A target as it is.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) process: &'a Attached,
    pub(crate) objects: &'a Objects,
    /// What it holds of ours.
    pub(crate) database: Option<(&'a State, &'a Records)>,
}

/// What loading a module would meet.
#[derive(Default)]
pub(crate) struct Preview {
    /// What stands against it, weightiest first.
    pub(crate) problems: Vec<Error>,
    /// The functions that it replaces, as far as it declares them statically.
    pub(crate) functions: Vec<FoundFunction>,
    /// Where its pre-patch code is.
    pub(crate) matches: Matches,
}

/// A function that is to be replaced.
pub(crate) struct FoundFunction {
    pub(crate) object: String,
    pub(crate) name: String,
    pub(crate) code: Code,
    /// The code is the pre-patch code that the module carries.
    pub(crate) matched: bool,
    /// Why it cannot be redirected.
    pub(crate) failure: Option<RouteFailure>,
}

/// Looks at a module and a target.
///
/// # Errors
///
/// When the target cannot be looked at; what is wrong with the module is in the preview.
pub(crate) fn preview(
    view: View<'_>,
    module: &PatchModule,
    request: &LoadRequest<'_>,
) -> Result<Preview, Error> {
    let mut preview = Preview::default();
    if view.database.is_none() {
        preview.note(control::require_features(view.process));
    }
    preview.note(check_headers(module));
    preview.note(view.check_duplicate(module));
    for build in &module.required_builds {
        preview.note(view.check_build(module, build));
    }
    let Some(matches) = preview.note(match_module(view, module)) else {
        return Ok(preview);
    };
    preview.matches = matches;
    let linked = link_on_trial(view, &preview.matches, module);
    let Some(trial) = preview.note(linked) else {
        return Ok(preview);
    };
    preview.note(assign(&module.name, &trial.linked, request.parameters));
    preview.note(trial.check_init(module));
    for declared in module.declared_patches() {
        preview.add_patch(view, &trial, &declared, request.enable)?;
    }
    Ok(preview)
}

impl View<'_> {
    pub(crate) fn records(&self) -> Option<&Records> {
        self.database.map(|(_, records)| records)
    }

    fn check_duplicate(&self, module: &PatchModule) -> Result<(), Error> {
        let modules = self.records().map_or(&[][..], |records| &records.modules);
        let loaded = |other: &crate::database::Module| {
            other.stage != Stage::Retired && other.name == module.name
        };
        if !modules.iter().any(loaded) {
            return match self.database {
                Some((state, _)) => Ok(state.check_name(&module.name)?),
                None => Ok(()),
            };
        }
        let message = "a module of that name is loaded";
        Err(Error::other(format!("load '{}'", module.name), Errno::EEXIST, message)
            .with_help(format!(
                "enable it again if it is only disabled; unload it first if it was replaced: engraft unload {}",
                module.name
            )))
    }

    /// What counts is what is mapped: the file may have been upgraded or deleted since.
    fn check_build(&self, module: &PatchModule, build: &RequiredBuild) -> Result<(), Error> {
        let Some(object) = self.objects.find(build.object.as_deref())? else {
            return Ok(());
        };
        let found = match &object.image.build_id {
            Some(id) if *id == build.build_id => return Ok(()),
            Some(id) => format!("has build-id {id}"),
            None => "has no build-id".to_owned(),
        };
        let message = format!(
            "the module was made for {} with build-id {}, but the one mapped in process {} {found}",
            object.name, build.build_id, self.process.pid
        );
        let context = format!("load '{}'", module.name);
        Err(Error::other(context, Errno::ENOEXEC, message).with_help(
            "make the module for the build that is running, or restart the program with the build that it was made for",
        ))
    }
}

impl Preview {
    /// Keeps the error, if it is one.
    fn note<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.problems.push(error)).ok()
    }

    fn add_patch(
        &mut self,
        view: View<'_>,
        trial: &Trial,
        declared: &DeclaredPatch,
        enable: bool,
    ) -> Result<(), Error> {
        let before = self.problems.len();
        let mut objects = Vec::new();
        for object in &declared.objects {
            let loaded = self
                .note(view.objects.find(object.name.as_deref()))
                .flatten();
            objects.push((loaded, self.add_object(trial, loaded, object)));
        }
        let all_found = self.problems.len() == before;
        let together: Vec<u64> = objects
            .iter()
            .flat_map(|(_, object)| object.funcs.iter().filter_map(Func::entry))
            .collect();
        for (loaded, object) in &objects {
            if let Some(loaded) = loaded.filter(|_| !object.funcs.is_empty()) {
                self.add_redirects(view, trial, loaded, object, &together)?;
            }
        }
        // What the init function sets can only be judged when it asks.
        if all_found && declared.settled {
            let patch = NewPatch {
                name: trial.record.name.clone(),
                replace: declared.replace,
                replace_set: declared.replace_set,
                objects: objects.into_iter().map(|(_, object)| object).collect(),
                states: list_states(declared, trial.record.text.start),
                handle: 0,
            };
            let fresh = State::new(view.process.identity.name());
            let state = view.database.map_or(&fresh, |(state, _)| state);
            let context = format!("load '{}'", trial.record.name);
            let accepted = state.check_loadable(patch, enable);
            self.note(accepted.map_err(|refusal| Error::new(context, refusal)));
        }
        Ok(())
    }

    /// The object as the rules know it, without the functions that cannot be found.
    fn add_object(
        &mut self,
        trial: &Trial,
        loaded: Option<&LoadedObject>,
        declared: &DeclaredObject,
    ) -> NewObject {
        let mut funcs = Vec::new();
        for function in &declared.functions {
            let located = locate(trial, loaded, &self.matches, function);
            let Some(func) = self.note(located) else {
                continue;
            };
            if let (Some(object), Some(code)) = (loaded, &func.old) {
                self.functions.push(FoundFunction {
                    object: object.name.clone(),
                    name: function.old_name.clone(),
                    code: code.clone(),
                    matched: self
                        .matches
                        .code(object, &function.old_name, function.old_sympos)
                        .is_some(),
                    failure: None,
                });
            }
            funcs.push(func);
        }
        NewObject {
            name: declared.name.clone(),
            loaded: loaded.is_some(),
            load: 0,
            funcs,
            callbacks: list_callbacks(&declared.callbacks, trial.record.text.start),
            handle: 0,
        }
    }

    /// Plans the redirects of one object's functions as the load would.
    fn add_redirects(
        &mut self,
        view: View<'_>,
        trial: &Trial,
        loaded: &LoadedObject,
        object: &NewObject,
        together: &[u64],
    ) -> Result<(), Error> {
        let entries = view.records().map(|records| &records.entries);
        let text = Text::of_object(
            view.process,
            loaded,
            entries.into_iter().flat_map(|entries| entries.values()),
        )?;
        let (index, module_text) = (text.index(), trial.text());
        let module = module_text.index();
        let (linked, placement) = (&trial.linked, &trial.linked.placement);
        let piece = |address, bytes| SliceMemory { address, bytes };
        let memory = Overlay {
            below: &view.process.memory,
            pieces: vec![
                piece(placement.text, &linked.text),
                piece(placement.read_only, &linked.read_only),
                piece(placement.data, &linked.data),
            ],
        };
        let planner = Planner {
            memory: &memory,
            objects: view.objects,
            object: loaded,
            index: &index,
        };
        for func in &object.funcs {
            let (Some(old), Replacement::New(new)) = (&func.old, &func.replacement) else {
                continue;
            };
            let function = Span {
                start: old.body.start,
                size: old.body.len,
            };
            let known = entries.and_then(|entries| entries.get(&function.start));
            let implementation = Implementation {
                entry: new.entry(),
                module: &module,
                together,
                compiled_with_callers: trial.record.built,
            };
            let Err(unfit) = planner.plan(function, known, &[implementation]) else {
                continue;
            };
            let failure = unfit.of_function(object.name.as_deref(), &func.old_name);
            let mut found = self.functions.iter_mut();
            if let Some(found) = found.find(|found| found.code.entry() == function.start) {
                found.failure = Some(failure.clone());
            }
            let context = format!("load '{}'", trial.record.name);
            self.problems.push(Error::new(context, failure));
        }
        Ok(())
    }
}

/// The structures of a module are those of the headers that it was compiled with.
fn check_headers(module: &PatchModule) -> Result<(), Error> {
    let found = match module.info("engraft") {
        Some(HEADERS_VERSION) => return Ok(()),
        None if !module.is_livepatch() => return Ok(()),
        Some(version) => format!("headers of version {version}, not {HEADERS_VERSION}"),
        None => "other headers than engraft's".to_owned(),
    };
    let context = format!("load '{}'", module.name);
    let message = format!("it was compiled with {found}");
    Err(Error::other(context, Errno::ENOEXEC, message)
        .with_help("compile it again, with `engraft cc` or `engraft build`"))
}

fn locate(
    trial: &Trial,
    loaded: Option<&LoadedObject>,
    matches: &Matches,
    function: &DeclaredFunction,
) -> Result<Func, Error> {
    let name = &function.old_name;
    let old = loaded
        .map(|object| locate_old(object, matches, name, function.old_sympos))
        .transpose()?;
    let new = locate_new(&trial.record, name, trial.address_of(function))?;
    Ok(Func {
        old_name: name.clone(),
        old_sympos: function.old_sympos,
        old,
        replacement: Replacement::New(new),
    })
}

/// For the rules it only matters which callbacks there are, not where.
fn list_callbacks(names: &[&str], place: u64) -> Callbacks {
    let present = |name| names.contains(&name).then_some(place);
    Callbacks {
        pre_patch: present("pre_patch"),
        post_patch: present("post_patch"),
        pre_unpatch: present("pre_unpatch"),
        post_unpatch: present("post_unpatch"),
    }
}

fn list_states(declared: &DeclaredPatch, place: u64) -> Vec<SystemState> {
    let state = |declared: &DeclaredState| {
        let has_dtor = declared.callbacks.contains(&"shadow_dtor");
        let upkeep = Upkeep {
            callbacks: list_callbacks(&declared.callbacks, place),
            owns_shadows: declared.is_shadow,
            shadow_dtor: has_dtor.then_some(place),
            block_disable: declared.block_disable,
            handle: 0,
        };
        SystemState {
            id: declared.id,
            version: declared.version,
            upkeep: upkeep.is_needed().then_some(upkeep),
        }
    };
    declared.states.iter().map(state).collect()
}
