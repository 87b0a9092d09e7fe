//! What a jump at a function's entry displaces, and whether its copy does the same.

#[path = "../target/arrival/instruction.rs"]
mod instruction;
#[path = "support/library.rs"]
mod library;
#[path = "../target/arrival/opcodes.rs"]
mod opcodes;
#[path = "../target/arrival/prologue.rs"]
mod prologue;
#[path = "support/random.rs"]
#[allow(dead_code)] // made for other tests too
mod random;

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use prologue::{Displaced, JUMP, Plan, ROOM, Unfit, displace, plan};
use random::{Random, seed};

const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

fn decode_at(address: u64, bytes: &[u8]) -> Option<Instruction> {
    let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

fn branch_target(instruction: &Instruction) -> Option<u64> {
    let code = instruction.code();
    let is_branch = instruction.is_call_near()
        || matches!(code, Code::Xbegin_rel16 | Code::Xbegin_rel32)
        || matches!(
            instruction.flow_control(),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
        );
    is_branch.then(|| instruction.near_branch64())
}

fn is_call(instruction: &Instruction) -> bool {
    instruction.is_call_near()
        || instruction.is_call_near_indirect()
        || instruction.is_call_far_indirect()
}

/// The rules once more, with another decoder.
fn expected_plan(code: &[u8], size: usize) -> Result<Plan, Unfit> {
    let size = size.min(code.len());
    let site = if code[..size].starts_with(&ENDBR64) {
        4
    } else {
        0
    };
    if size <= site {
        return Err(Unfit::TooShort);
    }
    if code[0] == 0xcc || code[site] == 0xcc {
        return Err(Unfit::Breakpoint);
    }
    let mut at = site;
    while at < site + JUMP {
        let instruction = decode_at(at as u64, &code[at.min(code.len())..]);
        if at >= size {
            let is_filler = |instruction: &Instruction| {
                matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
            };
            at += instruction.filter(is_filler).ok_or(Unfit::TooShort)?.len();
            continue;
        }
        let instruction = instruction.ok_or(Unfit::Unknown)?;
        at += instruction.len();
        if at > size {
            return Err(Unfit::Unknown);
        }
        if is_call(&instruction) && at < site + JUMP {
            return Err(Unfit::CallInside);
        }
    }
    let original = at - site;
    let mut at = 0;
    while at < size {
        let Some(instruction) = decode_at(at as u64, &code[at..size]) else {
            at += 1;
            continue;
        };
        let forbidden = site as u64 + 1..(site + JUMP) as u64;
        if branch_target(&instruction).is_some_and(|target| forbidden.contains(&target)) {
            return Err(Unfit::BranchInto);
        }
        at += instruction.len();
    }
    Ok(Plan { site, original })
}

/// Reads a copy instruction by instruction beside what it is a copy of.
fn check_copy(address: u64, code: &[u8], displaced: Displaced, to: u64, copy: &[u8; ROOM]) {
    let Displaced {
        site,
        original,
        copy: length,
    } = displaced;
    let copy = &copy[..length];
    let behind = address + (site + original) as u64;
    let (mut at, mut copied) = (site, 0);
    let mut literal = None;
    let mut goes_on = true;
    while at < site + original {
        let source = decode_at(address + at as u64, &code[at..]).unwrap();
        let mut take = || {
            let taken = decode_at(to + copied as u64, &copy[copied..]).unwrap();
            copied += taken.len();
            taken
        };
        at += source.len();
        let mut moved = take();
        if source.is_call_near() {
            assert_eq!(moved.code(), Code::Push_rm64);
            assert!(moved.is_ip_rel_memory_operand());
            literal = Some((moved.ip_rel_memory_address() - to) as usize);
            moved = take();
            assert_eq!(moved.code(), Code::Jmp_rel32_64);
            assert_eq!(moved.near_branch64(), source.near_branch64());
        } else if let Some(target) = branch_target(&source) {
            assert_eq!(moved.mnemonic(), source.mnemonic());
            assert_eq!(moved.near_branch64(), target);
            assert!(moved.is_jmp_near() || moved.is_jcc_near());
        } else {
            // Compares the address of a rip-relative operand, not the displacement.
            assert_eq!(moved, source);
        }
        goes_on = !matches!(
            source.flow_control(),
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
        );
    }
    if goes_on {
        let back = decode_at(to + copied as u64, &copy[copied..]).unwrap();
        assert_eq!(back.code(), Code::Jmp_rel32_64);
        assert_eq!(back.near_branch64(), behind);
        copied += back.len();
    }
    if let Some(literal) = literal {
        assert!(copy[copied..literal].iter().all(|byte| *byte == 0xcc));
        assert_eq!(literal % 8, 0);
        assert_eq!(copy[literal..], behind.to_le_bytes());
        copied = literal + 8;
    }
    assert_eq!(copied, length);
}

#[test]
fn functions_of_libraries_are_displaced_as_the_rules_say() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for library in library::libraries() {
        for function in &library.functions {
            let (code, size) = (&function.code, function.size);
            let name = format!("{}: {}", library.name, function.name);
            let planned = plan(code, size);
            assert_eq!(planned, expected_plan(code, size), "{name}");
            let mut copy = [0; ROOM];
            for address in [function.address, 0x7fff_f000_0000, 0xffff_ffff_0000_0000] {
                let to = address.wrapping_add(0x7000_0000);
                let displaced = displace(address, code, size, to, &mut copy);
                if let Ok(displaced) = displaced {
                    assert_eq!(
                        planned,
                        Ok(Plan {
                            site: displaced.site,
                            original: displaced.original
                        })
                    );
                    check_copy(address, code, displaced, to, &copy);
                }
                let outcome = displaced.map(|_| "displaced");
                *counts.entry(format!("{outcome:?}")).or_default() += 1;
            }
        }
    }
    println!("{counts:?}");
}

/// Nothing is believed about what is read; where it is taken, the copy is right.
#[test]
fn damaged_functions_are_refused_or_displaced_rightly() {
    let mut random = Random::new(seed());
    let libraries = library::libraries();
    let functions: Vec<_> = libraries
        .iter()
        .flat_map(|library| &library.functions)
        .collect();
    let (mut displaced, mut compared) = (0, 0);
    for _ in 0..300_000 {
        let function = functions[random.below(functions.len() as u64) as usize];
        let mut code = function.code[..function.code.len().min(64)].to_vec();
        for _ in 0..random.below(6) {
            let at = random.below(code.len().min(12) as u64) as usize;
            code[at] = random.next() as u8;
        }
        let size = random.below(80) as usize;
        let mut copy = [0; ROOM];
        let to = function.address + 0x1000_0000;
        let found = displace(function.address, &code, size, to, &mut copy);
        let Ok(found) = found else { continue };
        displaced += 1;
        let range = found.site..found.site + found.original;
        let mut at = range.start;
        while let Some(instruction) = decode_at(0, &code[at..]).filter(|_| at < range.end) {
            at += instruction.len();
        }
        // Undefined combinations are displaced as they are.
        if at == range.end {
            check_copy(function.address, &code, found, to, &copy);
            compared += 1;
        }
    }
    println!("{displaced} displaced, {compared} compared");
    assert!(compared > 1000);
}

const AT: u64 = 0x40_0000;
const TO: u64 = 0x50_0000;

/// The copy of a function that `code` is all of.
fn copy_of(code: &[u8]) -> Result<Vec<u8>, Unfit> {
    let mut copy = [0; ROOM];
    let displaced = displace(AT, code, code.len(), TO, &mut copy)?;
    check_copy(AT, code, displaced, TO, &copy);
    Ok(copy[..displaced.copy].to_vec())
}

fn refusal_of(code: &[u8]) -> Option<Unfit> {
    copy_of(code).err()
}

const NOPS: [u8; 8] = [0x90; 8];

#[test]
fn what_is_shorter_than_the_jump_is_refused_unless_filler_follows() {
    let ret = [0xc3, 0xcc, 0xcc, 0x66, 0x90, 0x55];
    assert_eq!(
        plan(&ret, 1),
        Ok(Plan {
            site: 0,
            original: 5
        })
    );
    assert_eq!(plan(&ret[..4], 1), Err(Unfit::TooShort));
    assert_eq!(plan(&ret, 4), Err(Unfit::Unknown));
    assert_eq!(
        plan(&[0xc3, 0xcc, 0x55, 0x55, 0x55], 1),
        Err(Unfit::TooShort)
    );
    assert_eq!(
        plan(&[0xc3, 0x0f, 0x1f, 0x40, 0x00], 1),
        Ok(Plan {
            site: 0,
            original: 5
        })
    );
    let pause = [0xc3, 0xf3, 0x90, 0x90, 0x90];
    assert_eq!(plan(&pause, 1), Err(Unfit::TooShort));
    assert_eq!(plan(&[], 0), Err(Unfit::TooShort));
    assert_eq!(plan(&NOPS, 0), Err(Unfit::TooShort));
    assert_eq!(plan(&ENDBR64, 4), Err(Unfit::TooShort));
    assert_eq!(plan(&ENDBR64, 9), Err(Unfit::TooShort));
}

#[test]
fn the_jump_goes_behind_endbr64() {
    let code = [&ENDBR64[..], &[0x55, 0x48, 0x89, 0xe5, 0x41, 0x57, 0xc3]].concat();
    assert_eq!(
        plan(&code, code.len()),
        Ok(Plan {
            site: 4,
            original: 6
        })
    );
    let back = (AT + 10).wrapping_sub(TO + 11) as u32;
    let copy = [&code[4..10], &[0xe9], &back.to_le_bytes()].concat();
    assert_eq!(copy_of(&code), Ok(copy));
}

#[test]
fn what_is_no_known_instruction_or_has_no_other_place_is_refused() {
    // popa; vprotd of XOP; loop; jrcxz
    for start in [
        &[0x61][..],
        &[0x8f, 0xe8, 0x78, 0xc2, 0xc0, 1],
        &[0xe2, 0x20],
        &[0xe3, 0x20],
    ] {
        let code = [start, &NOPS].concat();
        assert_eq!(refusal_of(&code), Some(Unfit::Unknown), "{start:02x?}");
    }
    let xbegin = [0xc7, 0xf8, 0x20, 0, 0, 0, 0xc3];
    assert_eq!(refusal_of(&xbegin), Some(Unfit::Unknown));
    let runs_past_the_end = [0x55, 0xb8, 1, 0, 0, 0];
    assert_eq!(plan(&runs_past_the_end, 4), Err(Unfit::Unknown));
}

#[test]
fn a_branch_into_the_overwritten_bytes_is_refused() {
    for target in 0..8_i8 {
        for branch in [&[0xeb][..], &[0x74], &[0xe2], &[0xe3]] {
            let mut code = [&NOPS[..], branch].concat();
            code.push((target - 10) as u8);
            let refused = (1..5).contains(&target).then_some(Unfit::BranchInto);
            assert_eq!(refusal_of(&code), refused, "{branch:02x?} to {target}");
        }
        for branch in [&[0xe9][..], &[0x0f, 0x8f], &[0xe8], &[0xc7, 0xf8]] {
            let mut code = [&NOPS[..], branch].concat();
            let end = code.len() as i32 + 4;
            code.extend((i32::from(target) - end).to_le_bytes());
            let refused = (1..5).contains(&target).then_some(Unfit::BranchInto);
            assert_eq!(refusal_of(&code), refused, "{branch:02x?} to {target}");
        }
    }
    // Data that decodes to nothing does not hide what follows it.
    let behind_data = [&NOPS[..], &[0x06, 0x06, 0xeb, 0xf6]].concat();
    assert_eq!(refusal_of(&behind_data), Some(Unfit::BranchInto));
}

/// The entry has the jump by then, which is what a loop to it should meet.
#[test]
fn a_displaced_loop_to_the_entry_goes_to_the_original() {
    let code = [0x48, 0xff, 0xcf, 0x75, 0xfb, 0xc3];
    let copy = copy_of(&code).unwrap();
    let branch = decode_at(TO + 3, &copy[3..]).unwrap();
    assert_eq!(
        (branch.code(), branch.near_branch64()),
        (Code::Jne_rel32_64, AT)
    );
}

#[test]
fn a_call_that_returns_into_the_overwritten_bytes_is_refused() {
    let inside = [0xff, 0xd0, 0x55, 0x55, 0x55, 0xc3];
    assert_eq!(refusal_of(&inside), Some(Unfit::CallInside));
    // This one returns behind them, but there is no copy of it.
    let behind = [0x48, 0x83, 0xec, 0x08, 0xff, 0xd0, 0xc3];
    assert!(plan(&behind, behind.len()).is_ok());
    assert_eq!(refusal_of(&behind), Some(Unfit::CallInside));
}

#[test]
fn a_call_pushes_the_original_return_address() {
    let code = [0x48, 0x83, 0xec, 0x08, 0xe8, 0x00, 0x10, 0, 0, 0xc3];
    let copy = copy_of(&code).unwrap();
    assert_eq!(copy[..6], [0x48, 0x83, 0xec, 0x08, 0xff, 0x35]);
    assert_eq!(copy[copy.len() - 8..], (AT + 9).to_le_bytes());
}

#[test]
fn nothing_follows_what_goes_away() {
    // ret imm16 behind a push; an indirect jump as in a PLT
    for code in [&[0x55, 0x5d, 0xc2, 8, 0][..], &[0xff, 0x25, 0, 1, 0, 0]] {
        assert_eq!(copy_of(code).unwrap().len(), code.len());
    }
    let jump = [0xe9, 0, 1, 0, 0];
    assert_eq!(copy_of(&jump).unwrap().len(), JUMP);
}

#[test]
fn what_is_out_of_reach_is_refused() {
    let outcome = |code: &[u8], to: u64| {
        displace(AT, code, code.len(), to, &mut [0; ROOM]).map(|displaced| displaced.copy)
    };
    let plain = [0x55, 0x48, 0x89, 0xe5, 0x57, 0xc3];
    // The jump back ends at the copy's byte 10.
    let reach = AT + 5 + 0x8000_0000 - 10;
    assert_eq!(outcome(&plain, reach), Ok(10));
    assert_eq!(outcome(&plain, reach + 1), Err(Unfit::OutOfReach));
    let moves_away: &[&[u8]] = &[
        &[0x48, 0x8b, 0x05, 0, 0, 0, 0x80, 0xc3],
        &[0xe9, 0, 0, 0, 0x80],
        &[0x0f, 0x84, 0, 0, 0, 0x80, 0xc3],
        &[0xe8, 0, 0, 0, 0x80, 0xc3],
    ];
    for code in moves_away {
        assert!(outcome(code, AT - 0x1000).is_ok(), "{code:02x?}");
        assert_eq!(
            outcome(code, AT + 0x1000),
            Err(Unfit::OutOfReach),
            "{code:02x?}"
        );
    }
}

#[test]
fn a_breakpoint_at_the_entry_is_refused() {
    let code = [0xcc, 0x48, 0x89, 0xe5, 0x57, 0xc3];
    assert_eq!(refusal_of(&code), Some(Unfit::Breakpoint));
    let behind = [&ENDBR64[..], &code].concat();
    assert_eq!(refusal_of(&behind), Some(Unfit::Breakpoint));
}

/// A displaced immediate behind a rip-relative operand counts for the distance.
#[test]
fn a_relative_operand_is_told_from_the_end_of_its_instruction() {
    for code in [
        &[0xc7, 0x05, 0, 1, 0, 0, 1, 2, 3, 4, 0xc3][..],
        &[0x66, 0x81, 0x3d, 0, 1, 0, 0, 1, 2, 0xc3],
        &[0xf6, 0x05, 0, 1, 0, 0, 1, 0xc3],
        &[0xc5, 0xf9, 0x70, 0x05, 0, 1, 0, 0, 1, 0xc3],
        &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x05, 0, 1, 0, 0, 0xc3],
    ] {
        assert!(copy_of(code).is_ok(), "{code:02x?}");
    }
}
