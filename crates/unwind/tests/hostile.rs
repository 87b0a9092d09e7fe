//! Corrupted call frame information and senseless stacks: a walk ends, soon, without a panic,
//! and never with a bottom that it has not reached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engraft_unwind::{
    Cfi, CodeMap, CodeObject, End, MAX_FRAMES, ReadMemory, Registers, Section, Unreadable, walk,
};
use object::{Object, ObjectSection, ObjectSymbol};
use proptest::prelude::*;

const STACK: u64 = 0x7fff_0000_0000;
const STACK_BYTES: usize = 64 << 10;

/// The C library that this test runs with, as a file.
struct Library {
    text: Section,
    eh_frame: Section,
    header: Section,
    functions: Vec<u64>,
}

impl Library {
    fn load() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let path = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5))
            .find(|path| path.contains("libc.so") || path.contains("libc-"))
            .expect("a C library");
        let image = std::fs::read(path).expect("C library");
        let file = object::File::parse(image.as_slice()).expect("ELF");
        let section = |name| {
            let section = file.section_by_name(name).expect("section");
            Section {
                address: section.address(),
                bytes: section.data().expect("data").into(),
            }
        };
        let symbols = file
            .dynamic_symbols()
            .filter(|symbol| symbol.is_definition());
        Self {
            text: section(".text"),
            eh_frame: section(".eh_frame"),
            header: section(".eh_frame_hdr"),
            functions: symbols.map(|symbol| symbol.address()).collect(),
        }
    }

    /// The next address that follows what looks like a call.
    fn call_site_after(&self, offset: usize) -> u64 {
        let call = self.text.bytes[offset..]
            .iter()
            .position(|&byte| byte == 0xe8);
        self.text.address + (offset + call.unwrap_or_default() + 5) as u64
    }

    fn code(&self, eh_frame: Vec<u8>, header: Option<Vec<u8>>) -> CodeMap {
        let bytes = |address, bytes: Vec<u8>| Section {
            address,
            bytes: bytes.into(),
        };
        let header = header.map(|header| bytes(self.header.address, header));
        let cfi = Cfi::new(bytes(self.eh_frame.address, eh_frame), header.as_ref());
        let start = self.text.address;
        let mut code = CodeMap::new();
        code.add_object(CodeObject {
            name: "libc".into(),
            text: std::iter::once(start..start + self.text.bytes.len() as u64).collect(),
            cfi: Some(Arc::new(cfi)),
            entries: Vec::new(),
            functions: [].into(),
            starts_threads: false,
        })
        .expect("object");
        code
    }
}

/// The library's text and a stack.
struct Memory<'a> {
    text: &'a Section,
    stack: Vec<u8>,
}

impl ReadMemory for Memory<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let length = buffer.len();
        for (start, bytes) in [(self.text.address, &*self.text.bytes), (STACK, &self.stack)] {
            let offset = address.wrapping_sub(start) as usize;
            if let Some(found) = bytes.get(offset..).and_then(|rest| rest.get(..length)) {
                buffer.copy_from_slice(found);
                return Ok(());
            }
        }
        Err(Unreadable { address, length })
    }
}

/// Random numbers by SplitMix64 from a seed that a failure prints.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn address_in(&mut self, section: &Section) -> u64 {
        section.address + self.below(section.bytes.len()) as u64
    }
}

fn flip_bytes(bytes: &[u8], random: &mut Random, one_in: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=bytes.len() / one_in {
        let at = random.below(bytes.len());
        bytes[at] = random.next() as u8;
    }
    bytes
}

/// A stack full of return addresses and stack addresses.
fn plausible_stack(library: &Library, random: &mut Random) -> Vec<u8> {
    let words = (0..STACK_BYTES / 8).map(|_| match random.below(3) {
        0 => library.call_site_after(random.below(library.text.bytes.len())),
        1 => STACK + random.below(STACK_BYTES) as u64,
        _ => random.next() >> random.below(64),
    });
    words.flat_map(u64::to_le_bytes).collect()
}

fn random_registers(random: &mut Random, rip: u64) -> Registers {
    let mut word = || STACK + random.below(STACK_BYTES) as u64;
    let rsp = word() & !7;
    Registers {
        rip,
        rsp,
        rbp: word(),
        rbx: word(),
        rdi: word(),
        r10: word(),
        r12: word(),
        ..Registers::default()
    }
}

/// Walks from many places and counts the callers found; without a known entry function none may
/// reach a bottom, except by code that ends the thread, which flips cannot make.
fn walk_everywhere(library: &Library, code: &CodeMap, random: &mut Random, walks: usize) -> usize {
    let mut callers = 0;
    let memory = Memory {
        text: &library.text,
        stack: plausible_stack(library, random),
    };
    for _ in 0..walks {
        let rip = match random.below(4) {
            0 => random.address_in(&library.text),
            1 => random.next(),
            _ => library.functions[random.below(library.functions.len())] + random.below(40) as u64,
        };
        let trace = walk(code, &memory, &random_registers(random, rip));
        assert!(!trace.frames.is_empty() && trace.frames.len() <= MAX_FRAMES);
        callers += trace.frames.len() - 1;
        if trace.end == End::Bottom {
            let last = trace.frames[trace.frames.len() - 1].pc;
            let mut after = [0; 2];
            memory.read(last, &mut after).expect("text");
            let ends_thread =
                after[0] == 0xf4 || [[0x48, 0x89], [0x89, 0xc7], [0x31, 0xff]].contains(&after);
            assert!(ends_thread, "a bottom at {last:#x}");
        }
    }
    callers
}

#[test]
fn corrupted_call_frame_information_is_survived() {
    let library = Library::load();
    let mut callers = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    for seed in 0..400 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let one_in = [20, 200, 2_000, 20_000][seed as usize % 4];
        let eh_frame = flip_bytes(&library.eh_frame.bytes, &mut random, one_in);
        let header = match seed % 3 {
            0 => Some(library.header.bytes.to_vec()),
            1 => Some(flip_bytes(&library.header.bytes, &mut random, one_in)),
            _ => None,
        };
        let code = library.code(eh_frame, header);
        callers += walk_everywhere(&library, &code, &mut random, 300);
        assert!(Instant::now() < deadline, "seed {seed} takes far too long");
    }
    println!("{callers} callers found");
    assert!(callers > 10_000, "only {callers} callers found");
}

#[test]
fn truncated_call_frame_information_is_survived() {
    let library = Library::load();
    let mut random = Random(1);
    for length in [0, 1, 3, 4, 8, 11, 12, 13, 19, 20, 24, 100, 1_001, 50_000] {
        let eh_frame = library.eh_frame.bytes[..length].to_vec();
        let header = library.header.bytes[..length.min(library.header.bytes.len())].to_vec();
        for (eh_frame, header) in [
            (eh_frame.clone(), Some(library.header.bytes.to_vec())),
            (library.eh_frame.bytes.to_vec(), Some(header)),
            (eh_frame, None),
        ] {
            let code = library.code(eh_frame, header);
            walk_everywhere(&library, &code, &mut random, 50);
        }
    }
}

#[test]
fn intact_call_frame_information_reads_senseless_stacks() {
    let library = Library::load();
    let code = library.code(
        library.eh_frame.bytes.to_vec(),
        Some(library.header.bytes.to_vec()),
    );
    let callers = walk_everywhere(&library, &code, &mut Random(2), 5_000);
    // Otherwise the hostile walks would be over before they begin.
    assert!(callers > 2_000, "only {callers} callers found");
}

#[test]
fn with_and_without_a_search_table_the_same_functions_are_found() {
    let library = Library::load();
    let whole = library.eh_frame.bytes.to_vec();
    let table = library.code(whole.clone(), Some(library.header.bytes.to_vec()));
    let linear = library.code(whole, None);
    let mut random = Random(3);
    let memory = Memory {
        text: &library.text,
        stack: plausible_stack(&library, &mut random),
    };
    for _ in 0..5_000 {
        let rip = random.address_in(&library.text);
        let registers = random_registers(&mut random, rip);
        assert_eq!(
            walk(&table, &memory, &registers),
            walk(&linear, &memory, &registers)
        );
    }
}

#[test]
fn a_stack_deeper_than_the_limit_is_unreliable() {
    // `call` after `call`, each without a frame: CFA = rsp + 8 everywhere.
    let text = Section {
        address: 0x1000,
        bytes: [0xff, 0xd0].repeat(64).into(),
    };
    let mut code = CodeMap::new();
    code.add_fixed(engraft_unwind::Fixed {
        name: "calls".into(),
        range: 0x1000..0x1080,
        entries: vec![engraft_unwind::FixedEntry {
            offset: 0,
            base: engraft_unwind::FixedBase::Rsp,
            cfa_from_base: 8,
            rbp_saved: false,
        }],
    })
    .expect("fixed");
    let stack = 0x1010_u64.to_le_bytes().repeat(MAX_FRAMES + 10);
    let memory = Memory { text: &text, stack };
    let registers = Registers {
        rip: 0x1010,
        rsp: STACK,
        ..Registers::default()
    };
    let trace = walk(&code, &memory, &registers);
    assert_eq!(trace.frames.len(), MAX_FRAMES);
    assert!(
        matches!(&trace.end, End::Unreliable(reason) if reason.kind == engraft_unwind::ReasonKind::TooManyFrames)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Proptest prints the seed and the smallest failing input.
    #[test]
    fn random_bytes_as_call_frame_information_are_survived(
        eh_frame in proptest::collection::vec(any::<u8>(), 0..400),
        header in proptest::collection::vec(any::<u8>(), 0..100),
        usual in any::<bool>(),
        pc in any::<u64>(),
        rsp in any::<u64>(),
    ) {
        let mut header = header;
        if usual && header.len() >= 4 {
            header[..4].copy_from_slice(&[1, 0x1b, 3, 0x3b]);
        }
        let section = |bytes: Vec<u8>| Section { address: 0x5000, bytes: bytes.into() };
        let cfi = Cfi::new(section(eh_frame), Some(&section(header)));
        let mut code = CodeMap::new();
        code.add_object(CodeObject {
            name: "anything".into(),
            text: std::iter::once(0..u64::MAX).collect(),
            cfi: Some(Arc::new(cfi)),
            entries: Vec::new(),
            functions: [].into(),
            starts_threads: false,
        }).expect("object");
        let text = Section { address: 0, bytes: Arc::new([]) };
        let memory = Memory { text: &text, stack: vec![0x55; STACK_BYTES] };
        let trace = walk(&code, &memory, &Registers { rip: pc, rsp, ..Registers::default() });
        prop_assert_ne!(trace.end, End::Bottom);
    }
}
