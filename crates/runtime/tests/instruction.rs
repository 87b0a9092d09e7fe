//! The decoder of the runtime against another one.

#[path = "../target/arrival/instruction.rs"]
mod instruction;
#[path = "support/library.rs"]
mod library;
#[path = "../target/arrival/opcodes.rs"]
mod opcodes;
#[path = "support/random.rs"]
#[allow(dead_code)] // made for other tests too
mod random;

use std::collections::{BTreeSet, HashMap, HashSet};

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Mnemonic};
use instruction::{Flow, Instruction, decode};
use random::{Random, seed};

/// What the decoder should say; `None` if the bytes are no instruction.
fn expected(bytes: &[u8]) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let constants = decoder.get_constant_offsets(&instruction);
    (!instruction.is_invalid()).then(|| Instruction {
        length: instruction.len(),
        displacement: instruction
            .is_ip_rel_memory_operand()
            .then(|| constants.displacement_offset()),
        flow: flow_of(&instruction),
    })
}

fn flow_of(instruction: &iced_x86::Instruction) -> Flow {
    let distance = || {
        instruction
            .near_branch64()
            .wrapping_sub(instruction.next_ip()) as i64
    };
    // They go on behind some event rather than behind a call.
    let is_behind_0f01 = matches!(
        instruction.mnemonic(),
        Mnemonic::Uiret | Mnemonic::Skinit | Mnemonic::Eretu | Mnemonic::Erets
    );
    match instruction.flow_control() {
        _ if instruction.is_call_near() => Flow::Call(distance()),
        _ if instruction.is_call_near_indirect() || instruction.is_call_far_indirect() => {
            Flow::IndirectCall
        }
        _ if matches!(instruction.code(), Code::Xbegin_rel16 | Code::Xbegin_rel32) => {
            Flow::Peculiar(distance())
        }
        FlowControl::UnconditionalBranch => Flow::Jump(distance()),
        FlowControl::ConditionalBranch if instruction.is_jcc_short_or_near() => {
            Flow::Condition(instruction.condition_code() as u8 - 1, distance())
        }
        FlowControl::ConditionalBranch => Flow::Peculiar(distance()),
        FlowControl::IndirectBranch => Flow::Away,
        FlowControl::Return if !is_behind_0f01 => Flow::Away,
        _ => Flow::Next,
    }
}

#[test]
fn every_instruction_of_real_functions_is_known() {
    for library in library::libraries() {
        let mut known = 0;
        let mut refused = Vec::new();
        for function in &library.functions {
            let mut at = 0;
            while at < function.size.min(function.code.len()) {
                let rest = &function.code[at..];
                let expected = expected(rest);
                let length = expected.map_or(1, |expected| expected.length);
                at += length;
                if expected.is_some() && decode(rest) == expected {
                    known += 1;
                } else if let Some(expected) = expected {
                    assert_eq!(decode(rest), None, "{expected:?} {:02x?}", &rest[..length]);
                    refused.push(format!("{} {:02x?}", function.name, &rest[..length]));
                }
            }
        }
        let functions = library.functions.len();
        println!(
            "{}: {functions} functions, {known} instructions",
            library.name
        );
        // libcrypto has tables that are marked as functions.
        assert!(refused.len() <= 1, "{}: {refused:?}", library.name);
    }
}

/// Includes functions without symbols, and tables, in which anything may be refused.
#[test]
fn whole_sections_read_the_same() {
    for library in library::libraries() {
        let (mut known, mut refused, mut at) = (0, 0, 0);
        while at < library.text.len() {
            let rest = &library.text[at..];
            let expected = expected(rest);
            at += expected.map_or(1, |expected| expected.length);
            match (decode(rest), expected) {
                (Some(found), Some(expected)) => {
                    assert_eq!(found, expected, "{:02x?}", &rest[..expected.length]);
                    known += 1;
                }
                (None, Some(_)) => refused += 1,
                _ => {}
            }
        }
        println!("{}: {known} instructions, {refused} refused", library.name);
        assert!(refused * 500 <= known, "{}", library.name);
    }
}

/// Bytes in front of an opcode, and the map that they select.
struct Head {
    map: &'static str,
    bytes: Vec<u8>,
}

fn heads() -> Vec<Head> {
    let prefixes: [&[u8]; 11] = [
        &[],
        &[0x66],
        &[0xf2],
        &[0xf3],
        &[0x48],
        &[0x66, 0x48],
        &[0xf2, 0x48],
        &[0xf3, 0x4f],
        &[0x66, 0xf2],
        &[0x67, 0x2e],
        &[0xf0, 0x41],
    ];
    let legacy: [(&str, &str, &[u8]); 4] = [
        ("one", "one, 66", &[]),
        ("0f", "0f", &[0x0f]),
        ("0f38", "0f38", &[0x0f, 0x38]),
        ("0f3a", "0f3a", &[0x0f, 0x3a]),
    ];
    let mut heads = Vec::new();
    for prefix in prefixes {
        let is_small = prefix.contains(&0x66) && !prefix.contains(&0x48);
        for (map, small, escape) in legacy {
            heads.push(Head {
                map: if is_small { small } else { map },
                bytes: [prefix, escape].concat(),
            });
        }
    }
    // Bits W, vvvv, L and pp. Gathers do without a third register.
    for bits in (0..=255_u8).filter(|bits| matches!(bits >> 3 & 15, 14 | 15)) {
        for (number, map) in (0..).zip(["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7"]) {
            let bytes = vec![0xc4, 0xe0 | number, bits];
            heads.push(Head { map, bytes });
        }
    }
    // Bits W, vvvv, always one, and pp; L'L and the mask.
    for bits in (0..=255_u8).filter(|bits| bits & 4 != 0 && matches!(bits >> 3 & 15, 14 | 15)) {
        for last in [0x08, 0x28, 0x48, 0x09, 0x29, 0x49] {
            for (number, map) in (0..).zip(["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7"]) {
                let bytes = vec![0x62, 0xf0 | number, bits, last];
                heads.push(Head { map, bytes });
            }
        }
    }
    heads
}

/// The length of ModRM, SIB and displacement.
fn operand_length(modrm: u8, sib: u8) -> usize {
    let (mode, register, base) = (modrm >> 6, modrm & 7, sib & 7);
    let has_sib = mode != 3 && register == 4;
    let displacement = match mode {
        0 if register == 5 || has_sib && base == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    1 + usize::from(has_sib) + displacement
}

/// Whether the byte is a prefix or an escape, which other heads have.
fn leads_elsewhere(map: &str, byte: u8) -> bool {
    match map {
        "one" | "one, 66" => matches!(
            byte,
            0x0f | 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x62 | 0x64..=0x67 | 0xc4 | 0xc5
                | 0xf0 | 0xf2 | 0xf3
        ),
        "0f" => matches!(byte, 0x38 | 0x3a),
        _ => false,
    }
}

/// Opcodes of which some or all instructions are refused though they exist somewhere, apart
/// from branches with prefix 66: femms and 3DNow!, extrq and vmread, VIA's, ud0, the unlisted
/// form of test, indirect branches with prefix 66.
const REFUSED: [&str; 11] = [
    "0f 0e",
    "0f 0f",
    "0f 78",
    "0f a6",
    "0f a7",
    "0f ff",
    "one f6",
    "one f7",
    "one, 66 f6",
    "one, 66 f7",
    "one, 66 ff",
];

/// Every opcode of every map with many prefixes, registers and modes. Where both decoders know
/// an instruction, they agree. Where only the runtime's does, the other one knows the opcode
/// with another prefix, vector length, register or mode, and says that as many bytes follow:
/// the combination is undefined, its length is not.
#[test]
fn opcodes_that_are_accepted_exist_and_have_their_length() {
    let mut tails: HashMap<(&str, u8), HashSet<usize>> = HashMap::new();
    let mut undefined: HashMap<(&str, u8, usize), Vec<u8>> = HashMap::new();
    let (mut agreed, mut refused) = (0, BTreeSet::new());
    for Head { map, bytes: head } in heads() {
        for (opcode, modrm, sib) in combinations(map) {
            let tail = [opcode, modrm, sib, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
            let bytes = [&head[..], &tail].concat();
            let operands = head.len() + 1 + operand_length(modrm, sib);
            let is_relative_to_eip = head.contains(&0x67) && modrm & 0xc7 == 5;
            match (decode(&bytes), expected(&bytes)) {
                (Some(found), Some(expected)) => {
                    assert_eq!(found, expected, "{bytes:02x?}");
                    let tail = found.length.wrapping_sub(operands);
                    tails.entry((map, opcode)).or_default().insert(tail);
                    agreed += 1;
                }
                (Some(found), None) => {
                    let tail = found.length.wrapping_sub(operands);
                    undefined.entry((map, opcode, tail)).or_insert(bytes);
                }
                (None, Some(expected)) => {
                    let is_small_branch =
                        head[..].starts_with(&[0x66]) && expected.flow.distance().is_some();
                    if !is_relative_to_eip && !is_small_branch {
                        refused.insert(format!("{map} {opcode:02x}"));
                    }
                }
                (None, None) => {}
            }
        }
    }
    println!("{agreed} agreed");
    for ((map, opcode, tail), bytes) in &undefined {
        let known = tails.get(&(*map, *opcode));
        let is_known = known.is_some_and(|known| known.contains(tail));
        assert!(is_known, "{map} {opcode:#x}: {bytes:02x?}");
    }
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), REFUSED);
}

/// Opcodes, ModRM and SIB bytes to try.
fn combinations(map: &str) -> impl Iterator<Item = (u8, u8, u8)> {
    let is_vector = map.starts_with('v') || map.starts_with('e');
    let modrms: Vec<u8> = (0..=255)
        .filter(|modrm| !is_vector || matches!(modrm & 7, 0 | 4 | 5))
        .collect();
    (0..=255)
        .filter(move |opcode| !leads_elsewhere(map, *opcode))
        .flat_map(move |opcode| modrms.clone().into_iter().map(move |modrm| (opcode, modrm)))
        .flat_map(|(opcode, modrm)| {
            let sibs: &[u8] = if modrm & 7 == 4 {
                &[0x0c, 0x4d]
            } else {
                &[0x0c]
            };
            sibs.iter().map(move |&sib| (opcode, modrm, sib))
        })
}

/// Undefined combinations, which the test before this one deals with, are passed over.
#[test]
fn random_bytes_have_no_other_length() {
    let mut random = Random::new(seed());
    let (mut agreed, mut undefined, mut refused) = (0, 0, 0);
    for round in 0..1_000_000 {
        let mut bytes = [random.next().to_le_bytes(), random.next().to_le_bytes()].concat();
        // Otherwise these would be rare.
        match round % 8 {
            0 => bytes[0] = 0x0f,
            1 => bytes[..2].copy_from_slice(&[0x66, 0x0f]),
            2 => bytes[0] = 0xc5,
            3 => bytes[..2].copy_from_slice(&[0xc4, 0xe0 | round as u8 >> 3 & 3]),
            4 => bytes[..2].copy_from_slice(&[0x62, 0xf0 | round as u8 >> 3 & 7]),
            _ => {}
        }
        bytes.truncate(random.below(17) as usize);
        match (decode(&bytes), expected(&bytes)) {
            (Some(found), Some(expected)) => {
                assert_eq!(found, expected, "{bytes:02x?}");
                agreed += 1;
            }
            (Some(_), None) => undefined += 1,
            (None, Some(_)) => refused += 1,
            (None, None) => {}
        }
    }
    println!("{agreed} agreed, {undefined} undefined, {refused} refused");
}

/// An instruction is not known by its beginning.
#[test]
fn what_is_cut_off_or_too_long_is_refused() {
    let whole: &[&[u8]] = &[
        &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xc8, 1, 2, 3],
        &[0xe9, 1, 2, 3, 4],
        &[0x66, 0x0f, 0x3a, 0x0f, 0x84, 0x24, 1, 2, 3, 4, 5],
        &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x05, 1, 2, 3, 4],
        &[0xc5, 0xf8, 0x77],
    ];
    for bytes in whole {
        assert_eq!(decode(bytes).map(|found| found.length), Some(bytes.len()));
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "{:02x?}", &bytes[..length]);
        }
        let padding = [0x2e; 15];
        let longest = [&padding[..15 - bytes.len()], bytes].concat();
        let longer = [&[0x2e], &longest[..]].concat();
        assert_eq!(decode(&longest).map(|found| found.length), Some(15));
        assert_eq!(decode(&longer), None);
    }
}

/// AMD and Intel differ about these, or only one has them.
#[test]
fn what_processors_read_differently_is_refused() {
    let doubtful: &[&[u8]] = &[
        &[0x66, 0xe8, 1, 2, 3, 4],
        &[0x66, 0xeb, 1],
        &[0x66, 0x0f, 0x84, 1, 2, 3, 4],
        &[0x66, 0xff, 0xe0],
        &[0x0f, 0x0f, 0xc0, 0xb4],
        &[0x66, 0x0f, 0x78, 0xc0, 1, 2],
        &[0x0f, 0xff, 0xc0],
        &[0x8f, 0xe8, 0x78, 0xc2, 0xc0, 1],
        &[0x67, 0x8b, 0x05, 1, 2, 3, 4],
    ];
    for bytes in doubtful {
        let padded = [bytes, &[0x90; 8][..]].concat();
        assert_eq!(decode(&padded), None, "{bytes:02x?}");
    }
    // The call of __tls_get_addr in the general dynamic model (psABI x86-64, 3.5.4).
    let call = [0x66, 0x66, 0x48, 0xe8, 1, 0, 0, 0];
    assert_eq!(decode(&call).map(|found| found.flow), Some(Flow::Call(1)));
}
