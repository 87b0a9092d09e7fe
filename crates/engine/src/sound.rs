//! Whether a database read back from a target contradicts itself. The target may have
//! written over them, by accident or on purpose.
//!
//! What is checked is what this tool's own safety rests on: no number overflows, no size is
//! beyond what is mapped, every index has something behind it. A target that lies about what
//! lies where within its own memory harms itself.

use engraft_core::State;

use crate::arena::Arena;
use crate::arrivals::PlanRecord;
use crate::database::{Module, Records, Runtime};
use crate::redirect::Entry;
use crate::space::Span;

/// No counter gets there by counting.
const MAX_COUNT: u64 = 1 << 62;

/// Longest sequence of displaced instructions: five bytes are overwritten, the last
/// instruction of up to fifteen may begin at the fifth.
const MAX_DISPLACED: usize = 19;

/// Finds contradictions in a database that was found at `control`.
pub(crate) fn check(state: &State, records: &Records, control: u64) -> Result<(), &'static str> {
    state.check_sound()?;
    check_records(records, control)?;
    let arenas = Arenas(&records.arenas);
    for patch in state.patches().filter(|patch| patch.handle != 0) {
        let size = size_of::<engraft_abi::KlpPatch>() as u64;
        require(arenas.hold(patch.handle, size), "a patch lies outside")?;
    }
    Ok(())
}

fn check_records(records: &Records, control: u64) -> Result<(), &'static str> {
    let arenas = Arenas(&records.arenas);
    require(
        arenas.0.iter().all(Arena::is_sound),
        "memory for patches is where none can be",
    )?;
    require(
        records.control == control && arenas.hold(control, 1),
        "the control mapping is not where it was found",
    )?;
    require(records.next_command < MAX_COUNT, "too many commands")?;
    check_runtime(&records.runtime, &arenas)?;
    for module in &records.modules {
        check_module(module, &arenas)?;
    }
    for (function, entry) in &records.entries {
        require(
            entry.function == *function,
            "an entry is another function's",
        )?;
        check_entry(entry, &arenas)?;
    }
    for selector in &records.selectors {
        require(arenas.have(selector.span), "a selector lies outside")?;
    }
    for frames in &records.frames {
        require(arenas.have(frames.section()), "frames lie outside")?;
    }
    check_watch(records, &arenas)
}

fn check_watch(records: &Records, arenas: &Arenas<'_>) -> Result<(), &'static str> {
    let watch = &records.watch;
    let sizes = [
        size_of::<engraft_abi::Module>(),
        size_of::<engraft_abi::LibraryStatus>(),
    ];
    let [module, status] = sizes.map(|size| size as u64);
    let mut libraries = watch.libraries.values();
    let inside = libraries
        .all(|library| arenas.hold(library.module, module) && arenas.hold(library.status, status));
    require(inside, "a library's record lies outside")?;
    let parts = watch
        .parts
        .iter()
        .all(|part| part.is_sound() && arenas.have(part.place));
    let plans = watch.plan.iter().map(PlanRecord::place);
    let spans = plans.chain(watch.retired.iter().copied());
    require(
        parts && spans.clone().all(|span| arenas.have(span)),
        "what libraries are waited for with lies outside",
    )?;
    let hooks = [watch.hook, watch.former_hook];
    let hook = hooks
        .into_iter()
        .flatten()
        .all(|hook| arenas.have(hook.router) && arenas.hold(hook.slot, 8) && hook.site < MAX_COUNT);
    require(
        hook && watch.generation < MAX_COUNT,
        "the linker's notification leads outside",
    )
}

struct Arenas<'a>(&'a [Arena]);

impl Arenas<'_> {
    fn have(&self, span: Span) -> bool {
        self.0.iter().any(|arena| arena.span().covers(span))
    }

    fn hold(&self, start: u64, size: u64) -> bool {
        self.have(Span { start, size })
    }
}

fn check_runtime(runtime: &Runtime, arenas: &Arenas<'_>) -> Result<(), &'static str> {
    use engraft_abi::{Arrivals, RuntimeConfig};
    use engraft_abi::{CallFrame, Mailbox, PatchTable, RING_BYTES, RingHeader};
    let ring = size_of::<RingHeader>() + RING_BYTES;
    let inside = [
        (runtime.frame, size_of::<CallFrame>()),
        (runtime.mailbox, size_of::<Mailbox>()),
        (runtime.patch_table, size_of::<PatchTable>()),
        (runtime.ring, ring),
        (runtime.config, size_of::<RuntimeConfig>()),
        (runtime.arrivals, size_of::<Arrivals>()),
    ]
    .into_iter()
    .all(|(start, size)| arenas.hold(start, size as u64));
    let frames = runtime.eh_frame.is_none_or(|span| arenas.have(span));
    let (leave, leave_end) = runtime.leave;
    let code = [runtime.enter, leave, runtime.arrival, runtime.watch]
        .into_iter()
        .all(|address| runtime.text.contains(address));
    require(
        inside
            && frames
            && arenas.have(runtime.text)
            && arenas.have(runtime.stack)
            && code
            && (leave..=runtime.text.end()).contains(&leave_end),
        "the runtime lies outside the memory for patches",
    )
}

fn check_module(module: &Module, arenas: &Arenas<'_>) -> Result<(), &'static str> {
    let regions = [module.text, module.read_only, module.data];
    let functions = module.functions.iter().map(|function| function.span);
    let code = functions.chain([module.stubs]);
    let entries = [module.init, module.exit].into_iter().flatten();
    let this_module = module.this_module.into_iter();
    let size = size_of::<engraft_abi::Module>() as u64;
    let slots = module.ifuncs.iter().map(|(slot, ..)| *slot);
    require(
        regions.into_iter().all(|span| arenas.have(span))
            && code.clone().all(|span| module.text.covers(span))
            && entries.clone().all(|entry| module.text.contains(entry))
            && this_module.clone().all(|at| arenas.hold(at, size))
            && slots.clone().all(|slot| arenas.hold(slot, 8))
            && module
                .bindings
                .iter()
                .all(|binding| arenas.hold(binding.place, 8))
            && module.eh_frame.is_none_or(|span| arenas.have(span)),
        "a module lies outside the memory for patches",
    )
}

fn check_entry(entry: &Entry, arenas: &Arenas<'_>) -> Result<(), &'static str> {
    let thunks = entry.thunks.iter().map(|thunk| thunk.span);
    let copies = std::iter::once(entry.copy).chain(thunks);
    let status = size_of::<engraft_abi::LibraryStatus>() as u64;
    let mut start = entry.copy.start;
    let calls_in_order = entry.calls.iter().all(|call| {
        let follows = call.start >= start && entry.copy.covers(*call);
        start = call.start.saturating_add(call.size);
        follows
    });
    let boundaries = entry.boundaries.iter();
    require(
        copies.clone().all(|span| arenas.have(span))
            && (entry.load.is_some() || arenas.have(entry.router) && arenas.hold(entry.slot, 8))
            && entry.router.start.max(entry.slot) < MAX_COUNT
            && entry
                .load
                .is_none_or(|load| arenas.hold(load.status, status))
            && calls_in_order
            && boundaries
                .clone()
                .all(|(_, copy)| entry.copy.contains(*copy))
            && (entry.function..entry.function.saturating_add(16)).contains(&entry.site)
            && entry.site < MAX_COUNT
            && (5..=MAX_DISPLACED).contains(&entry.original.len()),
        "an entry's code lies outside the memory for patches",
    )
}

fn require(condition: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use engraft_core::{
        Blocker, CallbackCall, Callbacks, Code, Driver, Func, NewObject, NewPatch, Order, Pass,
        Replacement, RouteFailure, Sighting, Switch, SystemState, Target, Verdict, forbidden,
        routes,
    };
    use engraft_process::ArenaPlan;
    use engraft_unwind::CodeMap;

    use super::*;
    use crate::arena::{ARENA_NAME, Part, find_room};
    use crate::arrivals::{Hook, Known, Library, PartRecord, PlanRecord, Watch};
    use crate::database::{Binding, Function, Stage, parse, serialize};
    use crate::migrate::BlockerDetail;
    use crate::redirect::{Selector, sample_entry, sample_selector};
    use crate::status::{list_patches, transition_status};

    const CONTROL: u64 = 0x5555_0000_0000;

    /// A target in which a thread is in the way.
    struct Blocked;

    fn blocker() -> Blocker {
        Blocker {
            tid: 7,
            comm: "worker".into(),
            verdict: Verdict::OnStack("linger".into()),
        }
    }

    impl Target for Blocked {
        type Error = ();
        fn save(&mut self, _: &State) -> Result<(), ()> {
            Ok(())
        }
        fn run_callback(&mut self, _: &CallbackCall) -> Result<i32, ()> {
            Ok(0)
        }
        fn sight_objects(&mut self, _: &State) -> Result<Vec<Sighting>, ()> {
            Ok(Vec::new())
        }
        fn apply_routes(&mut self, _: &State) -> Result<Result<(), RouteFailure>, ()> {
            Ok(Ok(()))
        }
        fn switch_threads(&mut self, state: &State, _: Switch) -> Result<Pass, ()> {
            let first = state.stack.len() == 1;
            Ok(Pass {
                switched: 1,
                total: 2,
                blockers: if first { Vec::new() } else { vec![blocker()] },
                complete: first,
            })
        }
        fn now(&self) -> u64 {
            1
        }
        fn log_position(&self) -> u64 {
            64
        }
    }

    fn patch(name: &str, place: u64) -> NewPatch {
        let func = |number: u64| Func {
            old_name: format!("function_{number}"),
            old_sympos: number % 2,
            old: Some(Code::new(0x40_0000 + number * 64, 48)),
            replacement: Replacement::New(Code::new(place + number * 64, 32)),
        };
        let object = |name: Option<&str>, loaded, funcs| NewObject {
            name: name.map(str::to_owned),
            loaded,
            load: 0,
            funcs,
            callbacks: Callbacks {
                post_patch: Some(place),
                ..Callbacks::default()
            },
            handle: place,
        };
        NewPatch {
            name: name.into(),
            replace: true,
            replace_set: 0,
            objects: vec![
                object(None, true, (0..3).map(func).collect()),
                object(Some("libabsent.so"), false, Vec::new()),
            ],
            states: vec![SystemState::plain(3, 1)],
            handle: CONTROL + 0x1000,
        }
    }

    fn sample() -> (State, Records) {
        let mut state = State::new("program");
        let mut target = Blocked;
        let mut driver = Driver::new(&mut state, &mut target);
        for (name, place) in [("first", 0x10_0000), ("second", 0x10_1000)] {
            driver.register(patch(name, CONTROL + place)).unwrap();
            driver.enable(name, Order::Reverse).unwrap();
        }
        assert!(state.transition.is_some() && state.log.lines().len() > 4);
        let mut arena = Arena::new(&ArenaPlan {
            name: ARENA_NAME,
            address: CONTROL,
            read_only: 1 << 20,
            executable: 1 << 20,
            writable: 1 << 20,
        });
        let mut take = |part, size| arena.part(part).take(size, 64).unwrap();
        let read_only = take(Part::ReadOnly, 0x8000);
        let text = take(Part::Executable, 0x8000);
        let data = take(Part::Writable, 0x8_0000);
        let gone = take(Part::Writable, 64);
        take(Part::Writable, 64);
        let at = |span: Span, offset, size| Span {
            start: span.start + offset,
            size,
        };
        let runtime = Runtime {
            enter: text.start,
            frame: data.start,
            mailbox: data.start + 0x5000,
            stack: at(data, 0x7000, 0x1000),
            leave: (text.start + 32, text.start + 64),
            patch_table: read_only.start + 64,
            ring: data.start + 0x8000,
            config: read_only.start + 0x1800,
            arrival: text.start + 0x200,
            arrivals: data.start + 0x6800,
            watch: text.start + 0x300,
            text: at(text, 0, 0x1000),
            eh_frame: Some(at(read_only, 0x1000, 0x100)),
            exports: BTreeMap::from([("printk".to_owned(), text.start + 128)]),
        };
        let module = Module {
            name: "first".into(),
            stage: Stage::Initialising(4),
            livepatch: true,
            enable: true,
            built: false,
            text: at(text, 0x1000, 0x1000),
            read_only: at(read_only, 0x2000, 0x1000),
            data: at(data, 0x6_0000, 0x1000),
            init: Some(text.start + 0x1000),
            exit: None,
            this_module: Some(data.start + 0x6_0000),
            eh_frame: Some(at(read_only, 0x2000, 0x80)),
            ifuncs: vec![(read_only.start + 0x2100, text.start, -8)],
            functions: vec![Function {
                name: "new_function".into(),
                span: at(text, 0x1000, 0x40),
            }],
            stubs: at(text, 0x1800, 0x40),
            bindings: vec![Binding {
                object: "libc.so.6".into(),
                name: "environ".into(),
                sympos: 0,
                place: read_only.start + 0x2180,
                addend: 8,
                protected: true,
            }],
            fixed: Vec::new(),
            absent: Vec::new(),
        };
        let entry = sample_entry(0x40_0000, at(text, 0x3000, 0x100), read_only.start + 0x3000);
        let selector: Selector = sample_selector(0x40_0000, at(text, 0x4000, 0x40));
        arena.part(Part::Writable).give(gone);
        let library = Library {
            module: data.start + 0x6_1000,
            status: data.start + 0x6_1100,
        };
        let records = Records {
            control: CONTROL,
            arenas: vec![arena],
            runtime,
            modules: vec![module],
            frames: Vec::new(),
            entries: BTreeMap::from([(0x40_0000, entry)]),
            selectors: vec![selector],
            watch: Watch {
                hook: Some(Hook {
                    site: 0x40_1000,
                    original: [0xc3; 5],
                    router: at(text, 0x5000, 8),
                    slot: read_only.start + 0x3100,
                }),
                former_hook: None,
                libraries: BTreeMap::from([("libc.so.6".to_owned(), library)]),
                parts: vec![PartRecord {
                    patch: 1,
                    object: 0,
                    functions: 1,
                    place: at(data, 0x6_2000, 64),
                }],
                plan: Some(PlanRecord::sample(at(read_only, 0x3200, 64))),
                known: vec![Known {
                    patch: 1,
                    object: 0,
                    bias: 0x7f00_0000_0000,
                    identity: 1,
                    functions: vec![Code::new(0x7f00_0000_1000, 64)],
                }],
                retired: vec![at(read_only, 0x3300, 64)],
                generation: 3,
            },
            blockers: vec![BlockerDetail {
                blocker: blocker(),
                state: 'S',
                stack: vec!["linger+0x3".into()],
            }],
            threads_seen: 2,
            next_command: 6,
        };
        (state, records)
    }

    /// All that is done with a database without its target.
    fn work_with(state: &State, records: &mut Records) {
        let _ = (routes(state), forbidden(state), state.listed());
        let _ = (
            list_patches(state, records),
            transition_status(state, records),
        );
        let _ = records.runtime.places();
        let mut code = CodeMap::new();
        for entry in records.entries.values_mut() {
            entry.add_to(&mut code);
            let _ = (entry.jump(), entry.overwritten());
            entry.forget(&[0]);
        }
        for selector in &records.selectors {
            selector.add_to(&mut code);
        }
        for room in [[64, 64, 64], [1 << 20; 3]] {
            let place = Span {
                start: 0x40_0000,
                size: 1 << 20,
            };
            let _ = find_room(&records.arenas, place, room);
        }
        for arena in &mut records.arenas {
            for part in [Part::ReadOnly, Part::Executable, Part::Writable] {
                if let Some(span) = arena.part(part).take(4096, 4096) {
                    arena.part(part).give(span);
                }
            }
        }
        let bytes = serialize(state, records).expect("what was read can be written");
        let again = parse(&bytes, CONTROL).expect("and read again");
        assert_eq!((&again.0, &again.1), (state, &*records));
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }
    }

    fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
        let at = random.below(bytes.len().max(1)).min(bytes.len());
        if at == bytes.len() {
            return bytes.push(random.below(256) as u8);
        }
        match random.below(8) {
            0 => bytes[at] = 0,
            1 => bytes[at] = 0xff,
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = random.below(256) as u8,
            4 => bytes.truncate(at),
            5 => drop(bytes.remove(at)),
            // The largest numbers that the encoding has, where a length or an address was.
            6 => drop(bytes.splice(at..at, [0xff; 9].into_iter().chain([1]))),
            _ => {
                let length = random.below(12).min(bytes.len() - at);
                let junk: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
                bytes[at..at + length].copy_from_slice(&junk);
            }
        }
    }

    #[test]
    fn what_was_written_is_sound() {
        let (state, mut records) = sample();
        assert_eq!(check(&state, &records, CONTROL), Ok(()));
        work_with(&state, &mut records);
    }

    #[test]
    fn contradictions_are_named() {
        let refused = |spoil: &dyn Fn(&mut State, &mut Records)| {
            let (mut state, mut records) = sample();
            spoil(&mut state, &mut records);
            let bytes = serialize(&state, &records).unwrap();
            let error = parse(&bytes, CONTROL).expect_err("it contradicts itself");
            assert!(
                error
                    .help()
                    .is_some_and(|help| help.contains("restart the target"))
            );
            error.to_string()
        };
        for (said, spoil) in [
            (
                "the control mapping is not where it was found",
                &(|_: &mut State, r: &mut Records| r.control += 1)
                    as &dyn Fn(&mut State, &mut Records),
            ),
            ("too many commands", &|_, r| r.next_command = u64::MAX),
            ("a module lies outside", &|_, r| {
                r.modules[0].text.size = u64::MAX
            }),
            ("a module lies outside", &|_, r| {
                r.modules[0].stubs.start = 0
            }),
            ("the runtime lies outside", &|_, r| {
                r.runtime.ring = u64::MAX
            }),
            ("an entry's code lies outside", &|_, r| {
                r.entries.get_mut(&0x40_0000).unwrap().boundaries[0].1 = 1;
            }),
            ("a selector lies outside", &|_, r| {
                r.selectors[0].span.start = 0
            }),
            ("two patches have one name", &|s, _| {
                s.stack[1].name = "first".into()
            }),
            ("is not on the stack", &|s, _| drop(s.stack.pop())),
            ("without its object", &|s, _| {
                s.stack[0].objects[0].loaded = false
            }),
            ("outside the address space", &|s, _| {
                s.stack[0].objects[0].funcs[0].old = Some(Code::new(u64::MAX, 2));
            }),
            ("a patch lies outside", &|s, _| s.stack[0].handle = u64::MAX),
        ] {
            let error = refused(spoil);
            assert!(error.contains(said), "no {said:?} in: {error}");
        }
    }

    #[test]
    fn mutated_bytes_are_refused_or_harmless() {
        let seed = std::env::var("ENGRAFT_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
        println!("ENGRAFT_SEED={seed}");
        let mut random = Random(seed);
        let (state, records) = sample();
        let original = serialize(&state, &records).unwrap();
        let (mut refused, mut read) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = original.clone();
            for _ in 0..=random.below(3) {
                mutate(&mut bytes, &mut random);
            }
            match parse(&bytes, CONTROL) {
                Err(_) => refused += 1,
                Ok((state, mut records)) => {
                    read += 1;
                    work_with(&state, &mut records);
                }
            }
        }
        println!("{refused} refused, {read} read");
        assert!(
            refused > 5_000 && read > 500,
            "{refused}, {read}, seed {seed}"
        );
    }

    #[test]
    fn false_lengths_cost_nothing() {
        let (state, records) = sample();
        let original = serialize(&state, &records).unwrap();
        // Every byte in turn becomes the largest number: lengths among them.
        for at in 4..original.len() {
            let mut bytes = original.clone();
            bytes.splice(at..=at, [0xff; 9].into_iter().chain([1]));
            if let Ok((state, mut records)) = parse(&bytes, CONTROL) {
                work_with(&state, &mut records);
            }
        }
    }
}
