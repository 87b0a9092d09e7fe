//! What debuggers need to see patches: a symbol file for the memory that they lie in.
//!
//! Debuggers know the code of files that the dynamic linker has loaded. Memory of ours is none
//! of them, so they see no functions there and cannot unwind through them.

use std::collections::HashMap;
use std::ops::Range;

use engraft_core::{Func, Replacement, State};
use engraft_elf::NewSymbolFile;
use engraft_unwind::{Section, encode_debug_frame};
use nix::errno::Errno;

use crate::attached::Attached;
use crate::database::Records;
use crate::error::Error;
use crate::space::Span;
use crate::status::load_quietly;

/// A symbol file for everything that has been loaded into a process, without disturbing it. It
/// gives patched functions their own names, and says how to unwind through them.
///
/// # Errors
///
/// ESRCH, EPERM, ENOEXEC; ENOENT when nothing has been loaded.
pub fn read_symbol_file(pid: i32) -> Result<Vec<u8>, Error> {
    let process = Attached::look(pid)?;
    let (state, records) = load_patched(&process)?;
    let code = records.arenas.iter().enumerate();
    let code = code.map(|(index, arena)| {
        let span = arena.executable.span();
        (format!(".text.engraft.{index}"), range(span))
    });
    let file = NewSymbolFile {
        code: code.collect(),
        functions: list_functions(&state, &records),
        debug_frame: encode_debug_frame(&read_frames(&process, &records)),
    };
    Ok(file.to_bytes())
}

/// What is known of a process into which something has been loaded.
pub(crate) fn load_patched(process: &Attached) -> Result<(State, Records), Error> {
    load_quietly(process)?.ok_or_else(|| {
        let context = format!("process {}", process.pid);
        let message = "nothing has been loaded into it, so a debugger sees all there is";
        Error::other(context, Errno::ENOENT, message)
            .with_help("load a patch first, or give the right process")
    })
}

/// The functions of modules; replacements by the names of what they replace.
pub(crate) fn list_functions(state: &State, records: &Records) -> Vec<(String, Range<u64>)> {
    let patches = state.stack.iter().chain(&state.replaced);
    let funcs = patches
        .flat_map(|patch| &patch.objects)
        .flat_map(|object| &object.funcs);
    let replaced: HashMap<u64, &Func> = funcs
        .filter_map(|func| match &func.replacement {
            Replacement::New(code) => Some((code.entry(), func)),
            Replacement::Nop => None,
        })
        .collect();
    let functions = records.modules.iter().flat_map(|module| &module.functions);
    let mut listed: Vec<(String, Range<u64>)> = functions
        .map(|function| {
            let replacement = replaced.get(&function.span.start);
            let name = replacement.map_or(&function.name, |func| &func.old_name);
            (name.clone(), range(function.span))
        })
        .collect();
    // A replacement may have several names in its module.
    listed.sort_by_key(|(_, range)| (range.start, range.end));
    listed.dedup();
    listed
}

/// The call frame information of modules, thunks and the runtime.
pub(crate) fn read_frames(process: &Attached, records: &Records) -> Vec<Section> {
    let spans = records.frames.iter().map(|frames| frames.section());
    let spans = spans.chain(records.runtime.eh_frame);
    spans
        .filter_map(|span| {
            let mut bytes = vec![0; usize::try_from(span.size).ok()?];
            process.memory.read_bytes(span.start, &mut bytes).ok()?;
            Some(Section {
                address: span.start,
                bytes: bytes.into(),
            })
        })
        .collect()
}

pub(crate) fn range(span: Span) -> Range<u64> {
    span.start..span.end()
}
