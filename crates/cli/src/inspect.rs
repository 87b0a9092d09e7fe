//! The inspect command: what a patch module changes and needs.

use engraft_module::{DeclaredObject, DeclaredPatch, DeclaredState, PatchModule};
use serde_json::{Value, json};

use crate::failure::{Failure, Verdict};
use crate::kernel;
use crate::module_file::ModuleFile;
use crate::output::Output;
use crate::render::printable;

pub(crate) fn run(file: &ModuleFile, output: &Output) -> Result<Verdict, Failure> {
    if let Some(module) = kernel::find_module(file) {
        return kernel::inspect(&module, file, output);
    }
    let module = file.parse()?;
    if output.json {
        output.object(&to_json(&module));
    } else {
        output.heading(&format!("module '{}'", printable(&module.name)));
        output.line(&describe(&module));
    }
    Ok(Verdict::Done)
}

fn describe(module: &PatchModule) -> String {
    let mut lines = Vec::new();
    // The builds follow in words; which headers it was compiled with only loading asks.
    let is_shown = |(tag, _): &&(String, String)| tag != "build_id" && tag != "engraft";
    for (tag, text) in module.info.iter().filter(is_shown) {
        lines.push(format!(
            "{}: {}",
            printable(tag),
            printable(text).replace('\n', " ")
        ));
    }
    for build in &module.required_builds {
        lines.push(format!("made for {}", printable(&build.to_string())));
    }
    for param in &module.params {
        let array = if param.array {
            format!("[{}]", param.elements)
        } else {
            String::new()
        };
        lines.push(format!(
            "parameter {}: {:?}{array}",
            printable(&param.name),
            param.kind
        ));
    }
    let patches = module.declared_patches();
    lines.extend(patches.iter().map(describe_patch));
    if patches.is_empty() && module.is_livepatch() {
        lines.push("functions, which of them are replacements is decided at run time:".to_owned());
        lines.extend(
            module
                .functions()
                .map(|f| format!("  {}", printable(&f.name))),
        );
    }
    lines.push("needs:".to_owned());
    let references = module.references();
    lines.extend(
        references
            .iter()
            .map(|reference| format!("  {}", printable(&reference.to_string()))),
    );
    lines.join("\n")
}

fn describe_patch(patch: &DeclaredPatch) -> String {
    let replaces = match (patch.replace, patch.replace_set) {
        (true, 0) => ", replaces all older ones".to_owned(),
        (true, set) => format!(", replaces all older ones of set {set}"),
        (false, 0) => String::new(),
        (false, set) => format!(", of set {set}"),
    };
    let mut text = format!("patch{replaces}:");
    for object in &patch.objects {
        text += &describe_object(object);
    }
    patch.states.iter().for_each(|s| text += &describe_state(s));
    text
}

fn describe_state(state: &DeclaredState) -> String {
    let mut text = format!("\n  state {:#x}, version {}", state.id, state.version);
    if !state.callbacks.is_empty() {
        text += &format!(", callbacks {}", state.callbacks.join(" "));
    }
    for (is_so, words) in [
        (state.is_shadow, "owns its shadow variables"),
        (state.block_disable, "cannot be taken back"),
    ] {
        if is_so {
            text += &format!(", {words}");
        }
    }
    text
}

fn describe_object(object: &DeclaredObject) -> String {
    let name = object.name.as_deref().unwrap_or("main executable");
    let mut text = format!("\n  object {}", printable(name));
    if !object.callbacks.is_empty() {
        text += &format!(", callbacks {}", object.callbacks.join(" "));
    }
    for function in &object.functions {
        let old = printable(&function.old_name);
        text += &match function.old_sympos {
            0 => format!("\n    {old}"),
            sympos => format!("\n    {old},{sympos}"),
        };
        text += &format!(" -> {}", printable(&function.new_func));
    }
    text
}

fn to_json(module: &PatchModule) -> Value {
    let params = module.params.iter().map(|param| {
        let kind = format!("{:?}", param.kind).to_lowercase();
        json!({ "name": param.name, "type": kind, "elements": param.array.then_some(param.elements) })
    });
    let patches = module.declared_patches();
    let patches = patches.iter().map(|patch| {
        let objects = patch.objects.iter().map(|object| {
            let functions = object.functions.iter().map(|function| {
                json!({
                    "old_name": function.old_name,
                    "old_sympos": function.old_sympos,
                    "new_func": function.new_func,
                })
            });
            json!({
                "name": object.name,
                "functions": functions.collect::<Vec<_>>(),
                "callbacks": object.callbacks,
            })
        });
        let states = patch.states.iter().map(|state| {
            json!({
                "id": state.id,
                "version": state.version,
                "callbacks": state.callbacks,
                "is_shadow": state.is_shadow,
                "block_disable": state.block_disable,
            })
        });
        json!({
            "replace": patch.replace,
            "replace_set": patch.replace_set,
            "objects": objects.collect::<Vec<_>>(),
            "states": states.collect::<Vec<_>>(),
        })
    });
    let builds = module
        .required_builds
        .iter()
        .map(|build| json!({ "object": build.object, "build_id": build.build_id.to_string() }));
    let needs = module
        .references()
        .into_iter()
        .map(|r| json!({ "name": r.name, "sympos": r.sympos, "text": r.to_string() }));
    json!({
        "name": module.name,
        "livepatch": module.is_livepatch(),
        "info": module.info,
        "made_for": builds.collect::<Vec<_>>(),
        "parameters": params.collect::<Vec<_>>(),
        "patches": patches.collect::<Vec<_>>(),
        "needs": needs.collect::<Vec<_>>(),
    })
}
