//! Preparing a target: the first memory of ours in it, and the runtime.

use std::time::Duration;

use engraft_abi::{ControlHeader, PatchTable, RING_BYTES, RingHeader, RuntimeConfig};
use engraft_core::State;
use engraft_module::{Layout, PatchModule, Placement, Reference, Resolve, ResolveError, Resolved};
use engraft_process::{
    ArenaPlan, Kind, Mapping, Slack, StopOutcome, bytes_of, clear_slack, create_arena,
    list_threads, living_thread, read_thread_stat,
};
use nix::errno::Errno;

use crate::arena::{ARENA_NAME, Arena, CONTROL_NAME, DEFAULT_ROOM, Part, plan_arena};
use crate::arrivals::Watch;
use crate::attached::Attached;
use crate::database::{Records, Runtime, is_control};
use crate::error::Error;
use crate::objects::{Objects, read_auxv};
use crate::space::Span;

const PAGE: u64 = 4096;

/// Stack that callbacks and init functions run on.
const SERVICE_STACK: u64 = 256 << 10;

/// Heap that the runtime has before it must ask for more.
const FIRST_HEAP: u64 = 128 << 10;

const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// How often the threads are looked through for one that no signal is about to be delivered to.
const ATTEMPTS: u32 = 200;

const PAUSE: Duration = Duration::from_millis(1);

const AT_HWCAP2: u64 = 26;
/// User space may read and write the GS base (getauxval(3), Linux 5.9).
const HWCAP2_FSGSBASE: u64 = 2;

/// Address of the control mapping, if there is one.
pub(crate) fn find(maps: &[Mapping]) -> Option<u64> {
    maps.iter()
        .find(|mapping| is_control(&mapping.path) && mapping.offset == 0)
        .map(|m| m.start)
}

/// Refuses a target that lacks what patching rests on.
pub(crate) fn require_features(process: &Attached) -> Result<(), Error> {
    let context = || format!("process {}", process.pid);
    // It is the same for all processes, and this one does not change meanwhile.
    let own = std::process::id().cast_signed();
    let hwcap2 = read_auxv(own, AT_HWCAP2).unwrap_or(0);
    if hwcap2 & HWCAP2_FSGSBASE == 0 {
        let message = "the processor or kernel has no FSGSBASE, which threads are told apart by";
        return Err(Error::other(context(), Errno::EOPNOTSUPP, message)
            .with_help("use a processor of 2012 or later, and boot without `nofsgsbase`"));
    }
    engraft_process::require_liftable(process.pid)?;
    if process.identity.shadow_stack {
        let message = "it has a shadow stack, which does not know the return addresses that \
                       displaced calls push";
        return Err(Error::other(context(), Errno::EOPNOTSUPP, message)
            .with_help("start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off to patch it"));
    }
    Ok(())
}

/// Maps memory in the target: near `object`, with at least the given room in each part.
/// Memory that a killed tool has mapped and not recorded is taken over. The borrowed thread,
/// if any, is busy and is not used.
pub(crate) fn map_arena(
    process: &Attached,
    objects: &Objects,
    records: Option<&Records>,
    object: Span,
    name: &'static str,
    room: [u64; 3],
    borrowed: Option<i32>,
) -> Result<Arena, Error> {
    let maps = process.maps()?;
    if let Some(arena) = find_orphan(&maps, records, object, name, room) {
        return Ok(arena);
    }
    let plan = plan_mapping(process, &maps, object, name, room, 0)?;
    let slack = find_slack(objects)?;
    clear_slack(&process.tracer, &process.memory, &slack)?;
    let mut refusal = engraft_process::Error {
        pid: process.pid,
        context: "map memory".into(),
        kind: Kind::Suspended,
    };
    for _ in 0..ATTEMPTS {
        let mut later = false;
        for tid in order_threads(process.pid)
            .into_iter()
            .filter(|tid| Some(*tid) != borrowed)
        {
            let StopOutcome::Stopped(thread) = process.tracer.stop(tid, STOP_PATIENCE)? else {
                continue;
            };
            if thread.in_group_stop() {
                continue;
            }
            if thread.has_signal() || thread.is_in_restartable_sequence(&process.memory)? {
                later = true;
                continue;
            }
            match create_arena(thread, &process.memory, &slack, &plan) {
                Ok(()) => return Ok(Arena::new(&plan)),
                Err(error) if matches!(error.kind, Kind::Gone) => refusal = error,
                Err(error) => return Err(error.into()),
            }
        }
        if !later {
            break;
        }
        let text = "whenever its threads are stopped, signals are about to be delivered; try again";
        refusal.kind = Kind::Strayed(text.into());
        std::thread::sleep(PAUSE);
    }
    Err(refusal.into())
}

/// Plans memory near `object`, where the address space and its limits have room for it and
/// `more` bytes besides.
pub(crate) fn plan_mapping(
    process: &Attached,
    maps: &[Mapping],
    object: Span,
    name: &'static str,
    room: [u64; 3],
    more: u64,
) -> Result<ArenaPlan, Error> {
    let plan = plan_arena(maps, object, name, room).ok_or_else(|| {
        let message = format!(
            "no {} KiB are free in the address space within 2 GiB of the code at {:#x}",
            room.iter().sum::<u64>() / 1024,
            object.start
        );
        Error::other("map memory in the target", Errno::ENOMEM, message)
            .with_help("make the program map its memory elsewhere, or restart it")
    })?;
    check_limits(process, plan.length() + more)?;
    Ok(plan)
}

/// Sleeping threads first: they lose nothing by being borrowed.
pub(crate) fn order_threads(pid: i32) -> Vec<i32> {
    let mut threads = list_threads(pid);
    threads.sort_by_key(
        |tid| match read_thread_stat(pid, *tid).map(|stat| stat.state) {
            Some('S') => 0,
            Some('R') => 1,
            _ => 2,
        },
    );
    threads
}

/// A mapping of that name and at least that shape which no record knows.
fn find_orphan(
    maps: &[Mapping],
    records: Option<&Records>,
    object: Span,
    name: &str,
    room: [u64; 3],
) -> Option<Arena> {
    let path = format!("/memfd:{name} (deleted)");
    let ours: Vec<&Mapping> = maps.iter().filter(|mapping| mapping.path == path).collect();
    ours.windows(3).find_map(|parts| {
        let [read_only, executable, writable] = parts else {
            return None;
        };
        let shaped = read_only.offset == 0
            && executable.execute
            && writable.write
            && read_only.inode == writable.inode
            && read_only.end == executable.start
            && executable.end == writable.start;
        let size = |mapping: &Mapping| mapping.end - mapping.start;
        let plan = ArenaPlan {
            name: ARENA_NAME,
            address: read_only.start,
            read_only: size(read_only),
            executable: size(executable),
            writable: size(writable),
        };
        let fits =
            plan.read_only >= room[0] && plan.executable >= room[1] && plan.writable >= room[2];
        let arena = Arena::new(&plan);
        let known = records.is_some_and(|records| {
            records
                .arenas
                .iter()
                .any(|other| other.span().start == plan.address)
        });
        (shaped && fits && !known && arena.reaches(object)).then_some(arena)
    })
}

fn check_limits(process: &Attached, needed: u64) -> Result<(), Error> {
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap_or_default();
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let used = std::fs::read_to_string(format!("/proc/{}/statm", living_thread(process.pid)))
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map(|pages| pages * PAGE);
    match (limit, used) {
        (Some(limit), Some(used)) if used + needed > limit => {
            let message = format!(
                "its RLIMIT_AS leaves {} KiB, {} KiB are needed",
                limit.saturating_sub(used) / 1024,
                needed / 1024
            );
            Err(
                Error::other("map memory in the target", Errno::ENOMEM, message)
                    .with_help(format!("raise it: prlimit --pid {} --as=...", process.pid)),
            )
        }
        _ => Ok(()),
    }
}

/// Executable bytes that the target never executes: behind the end of a text segment, up to
/// the end of its page. The vDSO has some, too.
pub(crate) fn find_slack(objects: &Objects) -> Result<Slack, Error> {
    let segments = objects
        .iter()
        .flat_map(|object| object.image.segments.iter().map(move |s| (object, s)));
    for (object, segment) in segments {
        let address = (segment.address + segment.size).next_multiple_of(16);
        let room = address.next_multiple_of(PAGE) - address;
        if segment.executable
            && segment.size == segment.file_size
            && room >= ArenaPlan::CODE_ROOM as u64
        {
            return Ok(Slack {
                address,
                original: object.bytes_in_file(segment, address),
            });
        }
    }
    let message = "no text segment has unused bytes behind its end to start from";
    Err(
        Error::other("map memory in the target", Errno::ENOMEM, message)
            .with_help("restart the program, linked otherwise, or load into another one"),
    )
}

/// Takes away code that a tool was killed over while it mapped memory.
pub(crate) fn remove_leftover(process: &Attached, objects: &Objects) -> Result<(), Error> {
    match find_slack(objects) {
        Ok(slack) => Ok(clear_slack(&process.tracer, &process.memory, &slack)?),
        Err(_) => Ok(()),
    }
}

struct NoReferences;

impl Resolve for NoReferences {
    fn resolve(&self, reference: &Reference) -> Result<Resolved, ResolveError> {
        Err(format!("the runtime may not refer to {reference}").into())
    }
}

fn runtime_module() -> Result<PatchModule, Error> {
    PatchModule::parse(engraft_runtime::OBJECT, "runtime")
        .map_err(|error| Error::new("prepare the target", error))
}

/// What preparing takes from the first arena.
struct Places {
    header: Span,
    table: Span,
    ring: Span,
    stack: Span,
    heap: Span,
    text: Span,
    read_only: Span,
    data: Span,
}

impl Places {
    fn take(arena: &mut Arena, runtime: &Layout) -> Result<Self, Error> {
        let mut take = |part, size, alignment| {
            arena.part(part).take(size, alignment).ok_or_else(|| {
                let message = "the control mapping is too small";
                Error::other("prepare the target", Errno::ENOMEM, message)
            })
        };
        let ring = size_of::<RingHeader>() + RING_BYTES;
        let Layout {
            text,
            read_only,
            data,
            ..
        } = runtime;
        Ok(Self {
            header: take(Part::ReadOnly, PAGE, PAGE)?,
            table: take(Part::ReadOnly, size_of::<PatchTable>() as u64, 64)?,
            ring: take(Part::Writable, ring as u64, 64)?,
            stack: take(Part::Writable, SERVICE_STACK, PAGE)?,
            heap: take(Part::Writable, FIRST_HEAP, PAGE)?,
            text: take(Part::Executable, text.size, text.alignment)?,
            read_only: take(Part::ReadOnly, read_only.size, read_only.alignment)?,
            data: take(Part::Writable, data.size, data.alignment)?,
        })
    }
}

/// The arena that preparing would map, with what it would take from it taken.
pub(crate) fn plan_control(
    process: &Attached,
    maps: &[Mapping],
    near: Span,
) -> Result<Arena, Error> {
    let plan = plan_mapping(process, maps, near, CONTROL_NAME, DEFAULT_ROOM, 0)?;
    let mut arena = Arena::new(&plan);
    Places::take(&mut arena, &Layout::of(&runtime_module()?))?;
    Ok(arena)
}

/// Puts the runtime into a target that holds nothing of ours yet. The target counts as
/// prepared once the database is saved.
pub(crate) fn prepare(process: &Attached, objects: &Objects) -> Result<(State, Records), Error> {
    require_features(process)?;
    let near = objects.main().span();
    let mut arena = map_arena(
        process,
        objects,
        None,
        near,
        CONTROL_NAME,
        DEFAULT_ROOM,
        None,
    )?;
    let module = runtime_module()?;
    let Places {
        header,
        table,
        ring,
        stack,
        heap,
        text,
        read_only,
        data,
    } = Places::take(&mut arena, &Layout::of(&module))?;
    let placement = Placement {
        text: text.start,
        read_only: read_only.start,
        data: data.start,
    };
    let linked = engraft_module::link(&module, &placement, &NoReferences)
        .map_err(|error| Error::new("prepare the target", error))?;
    let symbol = |name: &str| {
        linked.symbol(name).ok_or_else(|| {
            Error::other(
                "prepare the target",
                Errno::ENOENT,
                format!("the runtime lacks {name}"),
            )
        })
    };
    let exports = engraft_runtime::EXPORTS
        .iter()
        .map(|name| Ok(((*name).to_owned(), symbol(name)?)))
        .collect::<Result<_, Error>>()?;
    let runtime = Runtime {
        enter: symbol(engraft_runtime::SYM_ENTER)?,
        frame: symbol(engraft_runtime::SYM_FRAME)?,
        mailbox: symbol(engraft_runtime::SYM_MAILBOX)?,
        stack,
        leave: (
            symbol(engraft_runtime::SYM_LEAVE)?,
            symbol(engraft_runtime::SYM_LEAVE_END)?,
        ),
        patch_table: table.start,
        ring: ring.start,
        config: symbol(engraft_runtime::SYM_CONFIG)?,
        arrival: symbol(engraft_runtime::SYM_ARRIVAL)?,
        arrivals: symbol(engraft_runtime::SYM_ARRIVALS)?,
        watch: symbol(engraft_runtime::SYM_WATCH)?,
        text,
        eh_frame: linked.eh_frame.as_ref().map(|range| Span {
            start: range.start,
            size: range.end - range.start,
        }),
        exports,
    };
    let config = RuntimeConfig {
        patch_table: table.start,
        ring: ring.start,
        heap: heap.start,
        heap_length: heap.size,
        xsave_mask: engraft_process::xsave_mask(),
        // Strict mode also disables the time stamp counter (prctl PR_SET_TSC).
        tsc_allowed: u64::from(process.identity.seccomp != 1),
        debug: 0,
        plan: 0,
    };
    let memory = &process.memory;
    memory.write_bytes(text.start, &linked.text)?;
    memory.write_bytes(read_only.start, &linked.read_only)?;
    memory.write_bytes(data.start, &linked.data)?;
    memory.write_bytes(symbol(engraft_runtime::SYM_CONFIG)?, bytes_of(&config))?;
    memory.write(header.start, &ControlHeader::default())?;

    let records = Records {
        control: header.start,
        arenas: vec![arena],
        runtime,
        modules: Vec::new(),
        frames: Vec::new(),
        entries: std::collections::BTreeMap::new(),
        selectors: Vec::new(),
        watch: Watch::default(),
        blockers: Vec::new(),
        threads_seen: 0,
        next_command: 2,
    };
    Ok((State::new(process.identity.name()), records))
}
