//! What profilers need to see patches: files in place of the memory that they lie in.
//!
//! A profiler keeps addresses and pieces of stack while it measures, and reads names and unwind
//! information afterwards from the files that were mapped. Memory of ours has none.

use std::ops::Range;

use engraft_core::State;
use engraft_elf::{CodeFile, NewCodeFile};
use engraft_unwind::{Fixed, Section, encode_eh_frame};
use nix::errno::Errno;

use crate::arena::Arena;
use crate::attached::Attached;
use crate::database::Records;
use crate::debugging::{list_functions, load_patched, range, read_frames};
use crate::error::Error;
use crate::redirect::module_stubs;

/// No sane target has an arena beyond this, a hostile one may claim it.
const MAX_ARENA: u64 = 256 << 20;

/// Memory for patches in a process, and a file to read in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedCode {
    /// The addresses at which the file's bytes lie, as if it were mapped there from its start.
    pub range: Range<u64>,
    /// The code there, the names of its functions and how to unwind through them.
    pub file: CodeFile,
}

/// Reads all memory for patches in a process, without disturbing it. Patched functions have
/// their own names.
///
/// Displaced prologues are named only: what unwinds them is in the file of the original.
///
/// # Errors
///
/// ESRCH, EPERM, ENOEXEC; ENOENT when nothing has been loaded.
pub fn read_mapped_code(pid: i32) -> Result<Vec<MappedCode>, Error> {
    let process = Attached::look(pid)?;
    let (state, records) = load_patched(&process)?;
    let stubs = list_stubs(&records);
    let mut frames = read_frames(&process, &records);
    frames.extend(stubs.iter().map(describe));
    let functions = list_all(&state, &records, &stubs);
    let arenas = records.arenas.iter();
    arenas
        .map(|arena| read_arena(&process, arena, &functions, &frames))
        .collect()
}

/// Code of ours that has no call frame information in the target.
fn list_stubs(records: &Records) -> Vec<Fixed> {
    let entries = records.entries.values().flat_map(|entry| entry.stubs());
    let selectors = records.selectors.iter().map(|selector| selector.layout());
    let modules = records.modules.iter();
    let modules = modules.filter_map(|module| module_stubs(&module.name, module.stubs));
    entries.chain(selectors).chain(modules).collect()
}

/// Its addresses are absolute, so it may lie anywhere.
fn describe(stub: &Fixed) -> Section {
    Section {
        address: 0,
        bytes: stub.encode_eh_frame().into(),
    }
}

/// Everything that has a name.
fn list_all(state: &State, records: &Records, stubs: &[Fixed]) -> Vec<(String, Range<u64>)> {
    let copies = records.entries.values();
    let copies = copies.map(|entry| (entry.copy_name(), range(entry.copy)));
    let stubs = stubs.iter();
    let stubs = stubs.map(|stub| (stub.name.to_string(), stub.range.clone()));
    let runtime = ("engraft runtime".to_owned(), range(records.runtime.text));
    let functions = list_functions(state, records).into_iter();
    functions
        .chain(copies)
        .chain(stubs)
        .chain([runtime])
        .collect()
}

fn read_arena(
    process: &Attached,
    arena: &Arena,
    functions: &[(String, Range<u64>)],
    frames: &[Section],
) -> Result<MappedCode, Error> {
    let whole = arena.span();
    if whole.size > MAX_ARENA {
        let context = format!("read the code of process {}", process.pid);
        let message = format!("{} bytes at {:#x} are too many", whole.size, whole.start);
        return Err(Error::other(context, Errno::EUCLEAN, message));
    }
    let executable = range(arena.executable.span());
    let mut code = vec![0; (executable.end - executable.start) as usize];
    process.memory.read_bytes(executable.start, &mut code)?;
    let eh_frame = encode_eh_frame(frames, &executable, executable.end);
    let file = NewCodeFile {
        start: whole.start,
        address: executable.start,
        code,
        functions: functions.to_vec(),
        eh_frame: eh_frame.section,
        eh_frame_hdr: eh_frame.table,
    };
    Ok(MappedCode {
        range: range(whole),
        file: file.finish(),
    })
}
