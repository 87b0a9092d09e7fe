//! The process is the database: what must survive the tool, kept in the target's memory.
//!
//! Two places take turns. A commit writes the bytes to the place that is not in force and
//! makes them valid by one descriptor, so that a tool killed in between leaves the former
//! state in force.

use std::collections::BTreeMap;
use std::mem::offset_of;

use engraft_abi::{CONTROL_MAGIC, ControlHeader, Descriptor, LAYOUT_VERSION};
use engraft_core::State;
use engraft_process::{Memory, RuntimePlaces};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::arena::{Arena, CONTROL_NAME, Part};
use crate::arrivals::Watch;
use crate::error::Error;
use crate::frames::Frames;
use crate::migrate::BlockerDetail;
use crate::redirect::{Entry, Selector};
use crate::sound;
use crate::space::Span;

/// Version of the serialized form; a tool refuses any other.
const FORMAT: u32 = 4;

/// A state beyond this is not read: no sane target has one, a hostile one may claim it.
const MAX_STATE: u64 = 64 << 20;

/// Bytes that are read at once, so that a false length fails before it costs memory.
const PIECE: usize = 1 << 20;

/// No commit counter gets there by counting.
const MAX_GENERATION: u64 = 1 << 62;

/// Everything about a target besides the livepatch state proper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Records {
    /// Address of the control mapping.
    pub(crate) control: u64,
    pub(crate) arenas: Vec<Arena>,
    pub(crate) runtime: Runtime,
    pub(crate) modules: Vec<Module>,
    /// Frames of modules and thunks that unwinders in the target know or are to know.
    pub(crate) frames: Vec<Frames>,
    /// Function entries that are, were, or are about to be redirected, by original address.
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) selectors: Vec<Selector>,
    /// Libraries that come and go.
    pub(crate) watch: Watch,
    /// What the last pass over the threads found in the way.
    pub(crate) blockers: Vec<BlockerDetail>,
    /// Threads that it has seen.
    pub(crate) threads_seen: u32,
    /// Number of the next command that is not a callback.
    pub(crate) next_command: u64,
}

/// Where the runtime lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Runtime {
    pub(crate) enter: u64,
    pub(crate) frame: u64,
    pub(crate) mailbox: u64,
    pub(crate) stack: Span,
    pub(crate) leave: (u64, u64),
    pub(crate) patch_table: u64,
    pub(crate) ring: u64,
    /// Address of its `RuntimeConfig`.
    pub(crate) config: u64,
    /// Where the dynamic linker's notification is to lead.
    pub(crate) arrival: u64,
    /// Address of its `Arrivals`.
    pub(crate) arrivals: u64,
    /// What makes it follow a library.
    pub(crate) watch: u64,
    pub(crate) text: Span,
    pub(crate) eh_frame: Option<Span>,
    /// What modules may be linked against.
    pub(crate) exports: BTreeMap<String, u64>,
}

impl Runtime {
    pub(crate) fn places(&self) -> RuntimePlaces {
        RuntimePlaces {
            enter: self.enter,
            frame: self.frame,
            mailbox: self.mailbox,
            stack_top: self.stack.end() & !15,
            leave: self.leave.0..self.leave.1,
        }
    }
}

/// How far a patch module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Its memory is written, no code of it has run.
    Placed,
    /// Its init function has been started, as command of this number.
    Initialising(u64),
    /// Its init function has succeeded.
    Live,
    /// Its init function has failed; its patch is still being taken back.
    Failed,
    /// Its exit function has been started, as command of this number.
    Exiting(u64),
    /// It is gone; its memory stays, since something may still point into it.
    Retired,
}

/// A patch module in the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) stage: Stage,
    /// Marked with `MODULE_INFO(livepatch, "Y")`.
    pub(crate) livepatch: bool,
    /// Whether `klp_enable_patch` in its init function enables, or registers only.
    pub(crate) enable: bool,
    /// Built from a source change: it carries the pre-patch code of what it replaces.
    pub(crate) built: bool,
    pub(crate) text: Span,
    pub(crate) read_only: Span,
    pub(crate) data: Span,
    pub(crate) init: Option<u64>,
    pub(crate) exit: Option<u64>,
    pub(crate) this_module: Option<u64>,
    pub(crate) eh_frame: Option<Span>,
    /// Slots to be filled by calling a resolver: slot, resolver, addend.
    pub(crate) ifuncs: Vec<(u64, u64, i64)>,
    pub(crate) functions: Vec<Function>,
    pub(crate) stubs: Span,
    /// Places that hold addresses in libraries.
    pub(crate) bindings: Vec<Binding>,
    /// Libraries that it refers to in other ways, too.
    pub(crate) fixed: Vec<String>,
    /// Libraries that it refers to and that were not there when it was linked.
    pub(crate) absent: Vec<String>,
}

/// A place in a patch module that holds an address in a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Binding {
    pub(crate) object: String,
    pub(crate) name: String,
    pub(crate) sympos: u64,
    pub(crate) place: u64,
    pub(crate) addend: i64,
    pub(crate) protected: bool,
}

/// A function of a patch module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) span: Span,
}

impl Module {
    pub(crate) fn function_starting_at(&self, address: u64) -> Option<&Function> {
        self.functions
            .iter()
            .find(|function| function.span.start == address)
    }
}

#[derive(Serialize)]
struct Written<'a> {
    state: &'a State,
    records: &'a Records,
}

#[derive(Deserialize)]
struct Read {
    state: State,
    records: Records,
}

/// Reads the database of a target; `None` when the target holds nothing of ours, or only what
/// a tool left that was killed before it had finished the first preparations.
pub(crate) fn load(memory: &Memory, control: u64) -> Result<Option<(State, Records)>, Error> {
    let header: ControlHeader = memory.read(control)?;
    if header.magic != CONTROL_MAGIC {
        return Ok(None);
    }
    if header.version != LAYOUT_VERSION {
        let message = format!(
            "the target was patched by a version of engraft with layout {}, this one has {LAYOUT_VERSION}",
            header.version
        );
        return Err(Error::other("read the state", Errno::EPROTO, message)
            .with_help("use the version of engraft that patched it, or restart the target"));
    }
    let mut places = header.state;
    if places
        .iter()
        .any(|place| place.generation >= MAX_GENERATION)
    {
        return Err(contradiction("it was written more often than anybody can"));
    }
    places.sort_by_key(|place| std::cmp::Reverse(place.generation));
    for place in places.iter().filter(|place| place.generation != 0) {
        if let Some(bytes) = read_place(memory, place) {
            let (state, records) = parse(&bytes, control)?;
            let unused = |place: &Descriptor| place.capacity == 0;
            let in_arena = |place: &Descriptor| {
                let (start, size) = (place.address, place.capacity);
                let arenas = &records.arenas;
                arenas
                    .iter()
                    .any(|arena| arena.read_only.span().covers(Span { start, size }))
            };
            if !places.iter().all(|place| unused(place) || in_arena(place)) {
                return Err(contradiction(
                    "its own place lies outside the memory for patches",
                ));
            }
            return Ok(Some((state, records)));
        }
    }
    Err(Error::other(
        "read the state",
        Errno::EUCLEAN,
        "the control mapping holds no valid state",
    )
    .with_help(OVERWRITTEN))
}

fn read_place(memory: &Memory, place: &Descriptor) -> Option<Vec<u8>> {
    if place.length > place.capacity.min(MAX_STATE) {
        return None;
    }
    let length = usize::try_from(place.length).ok()?;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let start = bytes.len();
        bytes.resize(length.min(start + PIECE), 0);
        let address = place.address.checked_add(start as u64)?;
        memory.read_bytes(address, &mut bytes[start..]).ok()?;
    }
    (checksum(place.generation, &bytes) == place.checksum).then_some(bytes)
}

/// Reads a state that was found in the control mapping at that address.
pub(crate) fn parse(bytes: &[u8], control: u64) -> Result<(State, Records), Error> {
    let fail = |message: String| {
        Error::other("read the state", Errno::EUCLEAN, message).with_help(OVERWRITTEN)
    };
    let (format, rest) = bytes
        .split_at_checked(4)
        .ok_or_else(|| fail("it is too short".into()))?;
    if format != FORMAT.to_le_bytes() {
        return Err(fail("another version of engraft wrote it".into())
            .with_help("use the version of engraft that patched the target"));
    }
    let read: Read = postcard::from_bytes(rest).map_err(|error| fail(error.to_string()))?;
    sound::check(&read.state, &read.records, control).map_err(contradiction)?;
    Ok((read.state, read.records))
}

fn contradiction(what: &str) -> Error {
    let message = format!("the state in the control mapping contradicts itself: {what}");
    Error::other("read the state", Errno::EUCLEAN, message).with_help(OVERWRITTEN)
}

const OVERWRITTEN: &str =
    "something has overwritten it; restart the target to get rid of the patches";

/// Commits state and records. `records` changes only in its own allocations.
pub(crate) fn save(memory: &Memory, state: &State, records: &mut Records) -> Result<(), Error> {
    debug_assert_eq!(sound::check(state, records, records.control), Ok(()));
    let header: ControlHeader = memory.read(records.control)?;
    let (index, generation) = next_place(&header);
    let mut place = header.state[index];
    let mut bytes = serialize(state, records)?;
    if bytes.len() as u64 > place.capacity {
        // Room for the old piece's return to the free list is counted in, too.
        let capacity = (bytes.len() as u64 * 2).next_multiple_of(4096);
        let span = take_read_only(records, capacity)?;
        if place.capacity > 0 {
            let old = Span {
                start: place.address,
                size: place.capacity,
            };
            give_read_only(records, old);
        }
        (place.address, place.capacity) = (span.start, span.size);
        bytes = serialize(state, records)?;
    }
    place.generation = generation;
    place.length = bytes.len() as u64;
    place.checksum = checksum(generation, &bytes);
    memory.write_bytes(place.address, &bytes)?;
    let at = records.control
        + offset_of!(ControlHeader, state) as u64
        + (index * size_of::<Descriptor>()) as u64;
    memory.write(at, &place)?;
    if header.magic != CONTROL_MAGIC {
        memory.write(
            records.control + offset_of!(ControlHeader, version) as u64,
            &LAYOUT_VERSION,
        )?;
        memory.write(records.control, &CONTROL_MAGIC)?;
    }
    Ok(())
}

fn next_place(header: &ControlHeader) -> (usize, u64) {
    let [a, b] = header.state.map(|place| place.generation);
    (usize::from(a > b), a.max(b) + 1)
}

pub(crate) fn serialize(state: &State, records: &Records) -> Result<Vec<u8>, Error> {
    let bytes = FORMAT.to_le_bytes().to_vec();
    postcard::to_extend(&Written { state, records }, bytes)
        .map_err(|error| Error::other("save the state", Errno::EIO, error.to_string()))
}

fn take_read_only(records: &mut Records, size: u64) -> Result<Span, Error> {
    records
        .arenas
        .iter_mut()
        .find_map(|arena| arena.part(Part::ReadOnly).take(size, 4096))
        .ok_or_else(|| {
            Error::other(
                "save the state",
                Errno::ENOMEM,
                format!("no room for {size} bytes in the target"),
            )
            .with_help("unload patches that were replaced")
        })
}

fn give_read_only(records: &mut Records, span: Span) {
    for arena in &mut records.arenas {
        if arena.read_only.contains(span.start) {
            arena.read_only.give(span);
            return;
        }
    }
}

pub(crate) fn checksum(generation: u64, bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    generation
        .to_le_bytes()
        .iter()
        .chain(bytes)
        .fold(start, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        })
}

/// Whether a mapping's path is that of a control mapping.
pub(crate) fn is_control(path: &str) -> bool {
    path.strip_prefix("/memfd:")
        .and_then(|name| name.strip_suffix(" (deleted)"))
        == Some(CONTROL_NAME)
}
