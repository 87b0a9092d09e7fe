//! Displaced prologues and stubs, over memory and call frame information of a few bytes.

use std::ops::Range;

use engraft_unwind::{
    Alias, AliasEntry, Cfi, CodeMap, CodeMapErrorKind, CodeObject, End, Fixed, FixedBase,
    FixedEntry, RangeHit, ReadMemory, ReasonKind, Registers, Section, StackHit, Unreadable, scan,
    walk,
};

const TEXT: Range<u64> = 0x40_0000..0x40_1000;
/// `push %rbp; mov %rsp, %rbp; ...`, called from the entry function.
const FUNCTION: Range<u64> = 0x40_0100..0x40_0200;
const ENTRY: Range<u64> = 0x40_0800..0x40_0820;
const AFTER_CALL: u64 = 0x40_0810;
const EH_FRAME: u64 = 0x48_0000;
const COPY: Range<u64> = 0x50_0000..0x50_0020;
const THUNK: Range<u64> = 0x50_1000..0x50_1020;
const STACK: Range<u64> = 0x70_0000..0x70_0100;

/// Memory of a few pieces.
#[derive(Default)]
struct Pieces(Vec<(u64, Vec<u8>)>);

impl ReadMemory for Pieces {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let length = buffer.len();
        for (start, bytes) in &self.0 {
            let offset = address.wrapping_sub(*start) as usize;
            if let Some(found) = bytes.get(offset..).and_then(|rest| rest.get(..length)) {
                buffer.copy_from_slice(found);
                return Ok(());
            }
        }
        Err(Unreadable { address, length })
    }
}

fn record(id: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    while !(bytes.len() + 4).is_multiple_of(8) {
        bytes.push(0); // DW_CFA_nop
    }
    [
        &(bytes.len() as u32 + 4).to_le_bytes(),
        &id.to_le_bytes(),
        bytes.as_slice(),
    ]
    .concat()
}

/// One CIE (absolute addresses; CFA = rsp+8, return address at CFA-8), a description with a
/// frame pointer set up by the bytes 0 to 4, and one whose return address is undefined.
fn call_frames() -> Cfi {
    let cie = record(
        0,
        &[1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x00, 0x0c, 7, 8, 0x90, 1],
    );
    let mut bytes = cie;
    let description = |at: usize, range: &Range<u64>, program: &[u8]| {
        let length = range.end - range.start;
        let body = [
            &range.start.to_le_bytes()[..],
            &length.to_le_bytes(),
            &[0],
            program,
        ]
        .concat();
        record(at as u32 + 4, &body)
    };
    // advance 1; def_cfa_offset 16; offset rbp at -16; advance 3; def_cfa_register rbp
    let with_frame_pointer = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6];
    let next = description(bytes.len(), &FUNCTION, &with_frame_pointer);
    bytes.extend(next);
    let next = description(bytes.len(), &ENTRY, &[0x07, 16]);
    bytes.extend(next);
    bytes.extend([0; 4]);
    Cfi::new(
        Section {
            address: EH_FRAME,
            bytes: bytes.into(),
        },
        None,
    )
}

fn from_rsp(offset: u32, cfa_from_base: u32) -> FixedEntry {
    FixedEntry {
        offset,
        base: FixedBase::Rsp,
        cfa_from_base,
        rbp_saved: false,
    }
}

fn code_map() -> CodeMap {
    let mut code = CodeMap::new();
    code.add_object(CodeObject {
        name: "program".into(),
        text: vec![TEXT],
        cfi: Some(call_frames().into()),
        entries: vec![ENTRY],
        functions: [].into(),
        starts_threads: false,
    })
    .expect("object");
    code.add_alias(Alias {
        name: "displaced".into(),
        range: COPY,
        entries: vec![
            AliasEntry {
                offset: 0,
                original: FUNCTION.start,
            },
            AliasEntry {
                offset: 1,
                original: FUNCTION.start + 1,
            },
            AliasEntry {
                offset: 4,
                original: FUNCTION.start + 4,
            },
        ],
    })
    .expect("alias");
    code.add_fixed(thunk()).expect("fixed");
    code
}

fn thunk() -> Fixed {
    let aligned = FixedEntry {
        offset: 0x18,
        base: FixedBase::Rbp,
        cfa_from_base: 16,
        rbp_saved: true,
    };
    Fixed {
        name: "thunk".into(),
        range: THUNK,
        entries: vec![from_rsp(0, 8), from_rsp(2, 24), aligned],
    }
}

/// Text full of `call` before the addresses that matter, and a stack of the given words.
fn memory(words: &[(u64, u64)]) -> Pieces {
    let mut text = vec![0x90; 0x1000];
    text[0x810 - 5] = 0xe8;
    let mut thunk = vec![0x90; 0x20];
    thunk[0x10 - 2..0x10].copy_from_slice(&[0xff, 0xd0]);
    let mut stack = vec![0; (STACK.end - STACK.start) as usize];
    for (address, word) in words {
        let at = (address - STACK.start) as usize;
        stack[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    Pieces(vec![
        (TEXT.start, text),
        (THUNK.start, thunk),
        (STACK.start, stack),
    ])
}

fn at(rip: u64, rsp: u64) -> Registers {
    Registers {
        rip,
        rsp,
        rbp: 0x1234,
        ..Registers::default()
    }
}

#[test]
fn encoded_call_frames_say_the_same_as_the_table() {
    let slot = STACK.start + 0x40;
    let memory = memory(&[(slot, AFTER_CALL), (slot - 8, 0x1234)]);
    let by_table = code_map();
    let mut encoded = CodeMap::new();
    encoded
        .add_object(CodeObject {
            name: "program".into(),
            text: vec![TEXT],
            cfi: Some(call_frames().into()),
            entries: vec![ENTRY],
            functions: [].into(),
            starts_threads: false,
        })
        .expect("object");
    let section = Section {
        address: EH_FRAME + 0x1000,
        bytes: thunk().encode_eh_frame().into(),
    };
    let cfi = Cfi::new(section, None);
    assert_eq!(cfi.functions(), [THUNK]);
    let [(range, address)] = &cfi.descriptions()[..] else {
        panic!("one description");
    };
    assert_eq!(*range, THUNK);
    // Behind the record of 24 bytes that both share, at its own length.
    assert_eq!(*address, EH_FRAME + 0x1000 + 24);
    encoded
        .add_object(CodeObject {
            name: "thunk".into(),
            text: vec![THUNK],
            cfi: Some(cfi.into()),
            entries: Vec::new(),
            functions: [].into(),
            starts_threads: false,
        })
        .expect("object");
    for (offset, rsp, rbp) in [
        (0, slot, 0x99),
        (1, slot, 0x99),
        (2, slot - 16, 0x99),
        (0x17, slot - 16, 0x99),
        (0x18, STACK.start, slot - 8),
        (0x1f, STACK.start + 0x20, slot - 8),
    ] {
        let registers = Registers {
            rbp,
            ..at(THUNK.start + offset, rsp)
        };
        let wanted = walk(&by_table, &memory, &registers);
        let found = walk(&encoded, &memory, &registers);
        assert_eq!(wanted.end, End::Bottom, "{offset:#x}");
        assert_eq!(found.end, End::Bottom, "{offset:#x}");
        assert_eq!(found.frames[0].cfa, wanted.frames[0].cfa, "{offset:#x}");
        assert_eq!(found.frames[1..], wanted.frames[1..], "{offset:#x}");
    }
}

#[test]
fn a_displaced_prologue_unwinds_as_its_original() {
    let slot = STACK.start + 0x40;
    let memory = memory(&[(slot, AFTER_CALL), (slot - 8, 0x1234)]);
    let code = code_map();
    // Copy and original at the same instruction: same caller, from every one of them.
    for (offset, original, rsp, rbp) in [
        (0, 0, slot, 0x1234),
        (1, 1, slot - 8, 0x1234),
        (3, 1, slot - 8, 0x1234), // within a rewritten instruction
        (4, 4, slot - 0x20, slot - 8),
        (9, 4, slot - 0x20, slot - 8), // the jump back
    ] {
        let copy = walk(
            &code,
            &memory,
            &Registers {
                rbp,
                ..at(COPY.start + offset, rsp)
            },
        );
        let own = walk(
            &code,
            &memory,
            &Registers {
                rbp,
                ..at(FUNCTION.start + original, rsp)
            },
        );
        assert_eq!(copy.end, End::Bottom, "offset {offset}");
        assert_eq!(copy.frames[0].alias_of, Some(FUNCTION.start + original));
        assert_eq!(copy.frames[0].cfa, Some(slot + 8));
        assert_eq!(copy.frames[1], own.frames[1]);
        assert_eq!(copy.frames[1].slot, Some(slot));
        // A thread in the displaced prologue is in the function, and the other way round not.
        let hit = Some(RangeHit { frame: 0, range: 0 });
        assert_eq!(copy.first_hit(&[FUNCTION]), hit);
        assert_eq!(copy.first_hit(&[COPY]), hit);
        assert_eq!(own.first_hit(&[COPY]), None);
    }
}

#[test]
fn a_stub_unwinds_by_its_table() {
    let slot = STACK.start + 0x40;
    let memory = memory(&[(slot, AFTER_CALL)]);
    let code = code_map();
    for (offset, rsp) in [(0, slot), (1, slot), (2, slot - 16), (0x17, slot - 16)] {
        let trace = walk(&code, &memory, &at(THUNK.start + offset, rsp));
        assert_eq!(trace.end, End::Bottom, "offset {offset}");
        assert_eq!(trace.frames.len(), 2);
        assert_eq!(trace.frames[1].slot, Some(slot));
    }
}

#[test]
fn a_stub_that_aligns_its_stack_unwinds_by_its_frame_pointer() {
    let slot = STACK.start + 0x60;
    let mut memory = memory(&[(slot, AFTER_CALL)]);
    let registers = Registers {
        rbp: slot - 8,
        ..at(THUNK.start + 0x18, STACK.start + 0x20)
    };
    let trace = walk(&code_map(), &memory, &registers);
    assert_eq!(trace.end, End::Bottom);
    assert_eq!(trace.frames[0].cfa, Some(slot + 8));
    assert_eq!(trace.frames[1].slot, Some(slot));

    // A function above it finds its frame by the saved value.
    let in_function = FUNCTION.start + 0x20;
    let put = |memory: &mut Pieces, address: u64, word: u64| {
        let at = (address - STACK.start) as usize;
        memory.0[2].1[at..at + 8].copy_from_slice(&word.to_le_bytes());
    };
    memory.0[0].1[0x120 - 5] = 0xe8;
    put(&mut memory, slot, in_function);
    put(&mut memory, slot - 8, STACK.start + 0x80);
    put(&mut memory, STACK.start + 0x88, AFTER_CALL);
    let trace = walk(&code_map(), &memory, &registers);
    assert_eq!(trace.end, End::Bottom, "{trace:#x?}");
    let slots: Vec<_> = trace.frames.iter().map(|frame| frame.slot).collect();
    assert_eq!(slots, [None, Some(slot), Some(STACK.start + 0x88)]);
}

#[test]
fn a_stub_that_calls_is_found_in_the_middle_of_a_stack() {
    let slot = STACK.start + 0x40;
    let called = slot - 24;
    let memory = memory(&[(slot, AFTER_CALL), (called, THUNK.start + 0x10)]);
    let trace = walk(&code_map(), &memory, &at(FUNCTION.start, called));
    assert_eq!(trace.end, End::Bottom);
    let slots: Vec<_> = trace.frames.iter().map(|frame| frame.slot).collect();
    assert_eq!(slots, [None, Some(called), Some(slot)]);
    assert_eq!(
        trace.first_hit(&[THUNK]),
        Some(RangeHit { frame: 1, range: 0 })
    );
}

fn reason(trace: &engraft_unwind::Trace) -> &ReasonKind {
    match &trace.end {
        End::Unreliable(reason) => &reason.kind,
        End::Bottom => panic!("reached a bottom: {:?}", trace.frames),
    }
}

#[test]
fn every_doubt_has_its_reason() {
    let slot = STACK.start + 0x40;
    let code = code_map();
    let walk_with = |words: &[(u64, u64)], registers| walk(&code, &memory(words), &registers);

    let trace = walk_with(&[(slot, 0x1)], at(FUNCTION.start, slot));
    assert_eq!(*reason(&trace), ReasonKind::UnknownCode);
    let trace = walk_with(&[(slot, AFTER_CALL + 1)], at(FUNCTION.start, slot));
    assert_eq!(*reason(&trace), ReasonKind::NotAfterCall);
    let trace = walk_with(&[(slot, AFTER_CALL)], at(FUNCTION.end, slot));
    assert_eq!(*reason(&trace), ReasonKind::NoFrameDescription);
    let trace = walk_with(&[], at(FUNCTION.start, STACK.end));
    assert!(
        matches!(reason(&trace), ReasonKind::Unreadable(_)),
        "{:?}",
        trace.end
    );
    let trace = walk_with(&[], at(FUNCTION.start, u64::MAX - 3));
    assert!(
        matches!(reason(&trace), ReasonKind::Unreadable(_)),
        "{:?}",
        trace.end
    );
    // A frame pointer below the stack pointer leads downwards: a cycle in the making.
    let falling = Registers {
        rbp: slot - 0x40,
        ..at(FUNCTION.start + 8, slot)
    };
    let trace = walk_with(&[], falling);
    assert!(
        matches!(reason(&trace), ReasonKind::StackNotGrowing { .. }),
        "{:?}",
        trace.end
    );
    let message = match trace.end {
        End::Unreliable(reason) => reason.to_string(),
        End::Bottom => unreachable!("asserted above"),
    };
    assert!(
        message.starts_with("at 0x400108 in program: frame address"),
        "{message}"
    );
}

#[test]
fn an_undefined_return_address_is_a_bottom_only_in_an_entry_function() {
    let mut code = CodeMap::new();
    code.add_object(CodeObject {
        name: "program".into(),
        text: vec![TEXT],
        cfi: Some(call_frames().into()),
        entries: vec![],
        functions: [].into(),
        starts_threads: false,
    })
    .expect("object");
    let slot = STACK.start + 0x40;
    let trace = walk(
        &code,
        &memory(&[(slot, AFTER_CALL)]),
        &at(FUNCTION.start, slot),
    );
    assert_eq!(*reason(&trace), ReasonKind::UndefinedReturnAddress);
}

#[test]
fn an_object_without_call_frame_information_ends_the_walk_or_is_an_entry() {
    let object = |entries| CodeObject {
        name: "assembly".into(),
        text: vec![TEXT],
        cfi: None,
        entries,
        functions: [].into(),
        starts_threads: false,
    };
    let mut bare = CodeMap::new();
    bare.add_object(object(vec![])).expect("object");
    let mut with_entry = CodeMap::new();
    with_entry.add_object(object(vec![ENTRY])).expect("object");
    let slot = STACK.start + 0x40;
    let thunk = || Fixed {
        name: "thunk".into(),
        range: THUNK,
        entries: vec![from_rsp(0, 8)],
    };
    bare.add_fixed(thunk()).expect("fixed");
    with_entry.add_fixed(thunk()).expect("fixed");
    let memory = memory(&[(slot, AFTER_CALL)]);
    let trace = walk(&bare, &memory, &at(THUNK.start, slot));
    assert_eq!(*reason(&trace), ReasonKind::NoCfi);
    let trace = walk(&with_entry, &memory, &at(THUNK.start, slot));
    assert_eq!(trace.end, End::Bottom);
    // That it starts threads somewhere is no proof of the bottom where nothing is described.
    let mut somewhere = CodeMap::new();
    let starter = CodeObject {
        functions: [].into(),
        starts_threads: true,
        ..object(vec![])
    };
    somewhere.add_object(starter).expect("object");
    somewhere.add_fixed(thunk()).expect("fixed");
    let trace = walk(&somewhere, &memory, &at(THUNK.start, slot));
    assert_eq!(*reason(&trace), ReasonKind::NoCfi);
    // Interrupted inside the entry function: it may have been called like any other.
    let trace = walk(&with_entry, &memory, &at(AFTER_CALL, slot));
    assert_eq!(*reason(&trace), ReasonKind::NoCfi);
}

/// What musl's restorer looks like, which has no call frame information.
#[test]
fn a_signal_return_is_known_by_what_it_does() {
    let restorer = TEXT.start + 0xf00;
    let interrupted = STACK.start + 0xf0;
    let handler_slot = STACK.start + 0x10;
    let context = handler_slot + 8;
    let mut memory = memory(&[
        (handler_slot, restorer),
        (context + 40 + 8 * 15, interrupted),
        (context + 40 + 8 * 16, FUNCTION.start),
        (interrupted, AFTER_CALL),
    ]);
    memory.0[0].1[0xf00..0xf09].copy_from_slice(&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]);
    let trace = walk(&code_map(), &memory, &at(FUNCTION.start, handler_slot));
    assert_eq!(trace.end, End::Bottom, "{trace:#x?}");
    let signal_frames: Vec<_> = trace
        .frames
        .iter()
        .map(|frame| frame.signal_frame)
        .collect();
    assert_eq!(signal_frames, [false, true, false, false]);
    // The first instruction of a function: looked up as such, not one byte before.
    assert_eq!(trace.frames[2].lookup_pc, FUNCTION.start);
    assert_eq!(trace.frames[2].slot, Some(context + 40 + 8 * 16));
    assert_eq!(trace.frames[3].slot, Some(interrupted));

    // A context that resumes in the handler with the same context is a cycle.
    let again = handler_slot.to_le_bytes();
    let at_rsp = (context + 40 + 8 * 15 - STACK.start) as usize;
    memory.0[2].1[at_rsp..at_rsp + 8].copy_from_slice(&again);
    let trace = walk(&code_map(), &memory, &at(FUNCTION.start, handler_slot));
    assert_eq!(*reason(&trace), ReasonKind::Cycle(context + 40 + 8 * 16));
}

#[test]
fn overlapping_code_and_unsorted_tables_are_refused() {
    let mut code = code_map();
    let fixed = |range, offsets: &[u32]| Fixed {
        name: "other".into(),
        range,
        entries: offsets.iter().map(|&offset| from_rsp(offset, 8)).collect(),
    };
    let kind =
        |result: Result<(), engraft_unwind::CodeMapError>| result.map_err(|error| error.kind);
    let free = 0x60_0000..0x60_0010;
    for overlapping in [
        COPY,
        COPY.start - 1..COPY.start + 1,
        COPY.end - 1..COPY.end + 9,
        0..u64::MAX,
    ] {
        let result = kind(code.add_fixed(fixed(overlapping, &[0])));
        assert!(
            matches!(result, Err(CodeMapErrorKind::Overlaps(_))),
            "{result:?}"
        );
    }
    for offsets in [&[][..], &[1], &[0, 4, 4], &[0, 8, 4], &[0, 16]] {
        let result = kind(code.add_fixed(fixed(free.clone(), offsets)));
        assert_eq!(result, Err(CodeMapErrorKind::UnsortedTable), "{offsets:?}");
    }
    assert_eq!(code.name_at(free.start), None);
    code.add_fixed(fixed(free.clone(), &[0, 15]))
        .expect("a free range");
    assert_eq!(
        code.name_at(free.end - 1).map(|name| &**name),
        Some("other")
    );
    assert_eq!(code.name_at(free.end), None);
}

#[test]
fn a_scan_finds_every_word_that_points_into_a_range() {
    let from = STACK.start + 0x90;
    let ranges = [FUNCTION, ENTRY];
    let memory = memory(&[
        (STACK.start + 0x08, FUNCTION.start),     // below the red zone
        (STACK.start + 0x10, FUNCTION.start),     // the red zone's first word
        (STACK.start + 0x20, FUNCTION.start - 1), // just outside
        (STACK.start + 0xa0, FUNCTION.end),       // behind a call at the very end
        (STACK.start + 0xb0, FUNCTION.end + 1),
        (STACK.start + 0xf8, ENTRY.start + 1),
    ]);
    let hit = |offset, value, range| StackHit {
        address: STACK.start + offset,
        value,
        range,
    };
    let hits = scan(&memory, from, STACK.end, &ranges).expect("readable");
    let expected = [
        hit(0x10, FUNCTION.start, 0),
        hit(0xa0, FUNCTION.end, 0),
        hit(0xf8, ENTRY.start + 1, 1),
    ];
    assert_eq!(hits, expected);
    // Half a word short of the last hit, and one byte more than there is.
    let hits = scan(&memory, from, STACK.end - 4, &ranges).expect("readable");
    assert_eq!(hits, expected[..2]);
    let error = scan(&memory, from, STACK.end + 8, &ranges);
    assert!(error.is_err());
    // A misaligned stack pointer: its own alignment is scanned as well.
    let hits = scan(&memory, from + 4, STACK.end, &ranges).expect("readable");
    assert_eq!(hits, expected[1..]);
}
