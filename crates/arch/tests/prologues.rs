//! Entry planning and relocation over every function of real libraries.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::Binary;
use engraft_arch::entry::{Entry, EntryErrorKind, plan_entry};
use engraft_arch::relocate::{RelocateErrorKind, Relocated, relocate_entry};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register as IcedRegister,
};

fn decode(address: u64, code: &[u8]) -> Vec<Instruction> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .iter()
        .collect()
}

fn direct_target(instruction: &Instruction) -> Option<u64> {
    (instruction.op0_kind() == OpKind::NearBranch64).then(|| instruction.near_branch_target())
}

/// Text of an instruction with its place left out: operands relative to rip by what they
/// refer to, branches without their width.
fn meaning(instruction: &Instruction) -> String {
    let branch = direct_target(instruction);
    if let Some(target) = branch {
        return format!("{:?} {target:#x}", instruction.mnemonic());
    }
    let operands: Vec<String> = (0..instruction.op_count())
        .map(|operand| match instruction.op_kind(operand) {
            OpKind::Register => format!("{:?}", instruction.op_register(operand)),
            OpKind::Memory => format!(
                "{:?}[{:?}+{:?}*{}+{:#x}]{:?}",
                instruction.segment_prefix(),
                instruction.memory_base(),
                instruction.memory_index(),
                instruction.memory_index_scale(),
                instruction.memory_displacement64(),
                instruction.memory_size(),
            ),
            kind => format!("{kind:?} {:?}", instruction.try_immediate(operand).ok()),
        })
        .collect();
    let prefixes = (instruction.has_lock_prefix(), instruction.has_rep_prefix());
    format!("{:?} {operands:?} {prefixes:?}", instruction.mnemonic())
}

fn check_copy(name: &str, entry: &Entry, to: u64) {
    let copy = relocate_entry(entry, to).unwrap_or_else(|error| panic!("{name}: {error}"));
    let originals = decode(entry.site, &entry.original);
    let copies = decode(to, &copy.code);
    assert_eq!(copy.boundaries.len(), originals.len() + 1, "{name}");
    for (original, boundary) in originals.iter().zip(&copy.boundaries) {
        assert_eq!(boundary.original, original.ip(), "{name}");
        let moved = copies.iter().find(|moved| moved.ip() == boundary.copy);
        let moved = moved.unwrap_or_else(|| panic!("{name}: no boundary at {boundary:x?}"));
        if original.mnemonic() == Mnemonic::Call {
            check_moved_call(name, original, moved, &copy);
        } else if !original.is_loop() && !original.is_loopcc() && !original.is_jcx_short() {
            assert_eq!(meaning(moved), meaning(original), "{name}");
        }
        assert_eq!(
            copy.original_of(boundary.copy),
            Some(original.ip()),
            "{name}"
        );
        assert_eq!(copy.copy_of(original.ip()), Some(boundary.copy), "{name}");
    }
    let back = copy.boundaries.last().expect("a jump back").copy;
    let back = copies.iter().find(|moved| moved.ip() == back);
    let back = back.expect("a jump back");
    assert_eq!(direct_target(back), Some(entry.resume()), "{name}");
    assert_eq!(copy.original_of(back.ip()), Some(entry.resume()), "{name}");
    assert_eq!(
        copy.original_of(to + copy.code.len() as u64),
        None,
        "{name}"
    );
}

/// A push of the original return address, and a jump to the call's destination.
fn check_moved_call(name: &str, original: &Instruction, push: &Instruction, copy: &Relocated) {
    assert_eq!(push.mnemonic(), Mnemonic::Push, "{name}");
    let literal = (push.ip_rel_memory_address() - copy.address) as usize;
    let pushed = copy.code[literal..literal + 8].try_into().unwrap();
    assert_eq!(u64::from_le_bytes(pushed), original.next_ip(), "{name}");
    let call = copy.calls.first().expect("its range");
    assert_eq!(call.start, push.next_ip(), "{name}");
    let offset = (call.start - copy.address) as usize;
    let jump = decode(call.start, &copy.code[offset..])[0];
    assert_eq!(call.end, jump.next_ip(), "{name}");
    assert_eq!(direct_target(&jump), direct_target(original), "{name}");
    let indirect = |kind: FlowControl| {
        matches!(
            kind,
            FlowControl::IndirectBranch | FlowControl::IndirectCall
        )
    };
    assert_eq!(
        indirect(jump.flow_control()),
        indirect(original.flow_control()),
        "{name}"
    );
    let moved_by = if original.memory_base() == IcedRegister::RSP {
        8
    } else {
        0
    };
    assert_eq!(jump.memory_base(), original.memory_base(), "{name}");
    assert_eq!(
        jump.memory_displacement64(),
        original.memory_displacement64().wrapping_add(moved_by),
        "{name}"
    );
}

#[derive(Default, Debug)]
struct Outcome {
    planned: usize,
    refused: Vec<(String, EntryErrorKind)>,
}

fn plan_all(binary: &Binary) -> Outcome {
    let mut outcome = Outcome::default();
    let read = |address: u64, into: &mut [u8]| binary.read(address, into);
    for (name, address, code, size) in binary.functions() {
        match plan_entry(address, code, size, &read) {
            Ok(entry) => {
                outcome.planned += 1;
                assert!(entry.original.len() >= entry.overwritten(), "{name}");
                let offset = (entry.site - address) as usize;
                assert_eq!(code[offset..offset + entry.original.len()], entry.original);
                assert!(entry.interior.iter().all(|pc| *pc > entry.site), "{name}");
                for to in [
                    entry.site + 0x4000_0000,
                    0x7000_0000_u64.wrapping_add(entry.site),
                ] {
                    check_copy(name, &entry, to);
                }
            }
            Err(error) => outcome.refused.push((name.to_owned(), error.kind)),
        }
    }
    outcome
}

/// Nearly all functions take a redirect, and each refusal is of an expected kind.
fn check_library(path: PathBuf, least: usize) {
    let binary = Binary::open(&path);
    let outcome = plan_all(&binary);
    println!(
        "{path:?}: {} planned, refused {:?}",
        outcome.planned, outcome.refused
    );
    assert!(outcome.planned >= least, "{} of {path:?}", outcome.planned);
    assert!(
        outcome.refused.len() * 20 < outcome.planned,
        "{:?}",
        outcome.refused
    );
    let unexpected = outcome
        .refused
        .iter()
        .filter(|(_, kind)| matches!(kind, EntryErrorKind::TableUnreadable { .. }));
    assert_eq!(unexpected.count(), 0, "{:?}", outcome.refused);
}

#[test]
fn libc() {
    check_library(common::mapped_library("libc.so"), 2000);
}

#[test]
fn libstdcpp() {
    let asked = Command::new("gcc")
        .arg("-print-file-name=libstdc++.so.6")
        .output()
        .unwrap();
    let path = String::from_utf8(asked.stdout).unwrap();
    check_library(path.trim().into(), 3500);
}

#[test]
fn this_test() {
    check_library(std::env::current_exe().unwrap(), 1000);
}

fn no_memory(_: u64, _: &mut [u8]) -> bool {
    false
}

fn refusal(code: &[u8], size: usize) -> EntryErrorKind {
    let refused = plan_entry(0x1000, code, size, &no_memory).expect_err("a refusal");
    assert_eq!(refused.function, 0x1000);
    refused.kind
}

#[test]
fn filler_behind_a_short_function_is_used_only_if_it_is_filler() {
    let short_nop = [0x31, 0xc0, 0xc3, 0x0f, 0x1f, 0x40, 0x00];
    let entry = plan_entry(0x1000, &short_nop, 3, &no_memory).unwrap();
    assert_eq!(entry.original, short_nop);
    assert_eq!(entry.interior, [0x1002, 0x1003]);
    assert!(entry.extends_beyond_jump());
    let int3 = [0x31, 0xc0, 0xc3, 0xcc, 0xcc, 0xcc];
    assert_eq!(
        plan_entry(0x1000, &int3, 3, &no_memory).unwrap().original,
        int3[..5]
    );
    let other = [0x31, 0xc0, 0xc3, 0x31, 0xc0, 0xc3];
    assert_eq!(
        refusal(&other, 3),
        EntryErrorKind::TooShort { available: 3 }
    );
    let zeros = [0x31, 0xc0, 0xc3, 0, 0, 0];
    assert_eq!(
        refusal(&zeros, 3),
        EntryErrorKind::TooShort { available: 3 }
    );
    assert_eq!(
        refusal(&short_nop[..5], 3),
        EntryErrorKind::TooShort { available: 3 }
    );
    assert_eq!(refusal(&[], 0), EntryErrorKind::TooShort { available: 0 });
}

#[test]
fn endbr64_stays() {
    let code = [0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 1, 0, 0, 0, 0xc3];
    let entry = plan_entry(0x1000, &code, code.len(), &no_memory).unwrap();
    assert_eq!((entry.site, entry.resume()), (0x1004, 0x1009));
    assert_eq!(entry.interior, [] as [u64; 0]);
}

#[test]
fn branches_into_the_jump_are_refused_and_to_the_site_are_not() {
    // inc %eax; dec %edi; jne 1b; ret
    let into = [0xff, 0xc0, 0xff, 0xcf, 0x75, 0xfc, 0xc3];
    assert_eq!(
        refusal(&into, 7),
        EntryErrorKind::BranchInto {
            from: 0x1004,
            to: 0x1002
        }
    );
    let to_site = [0xff, 0xc0, 0xff, 0xcf, 0x75, 0xfa, 0xc3];
    assert!(plan_entry(0x1000, &to_site, 7, &no_memory).is_ok());
    // The same branch where no path leads to it: behind a ret.
    let unreached = [0xb8, 1, 0, 0, 0, 0xc3, 0xeb, 0xfa];
    assert_eq!(
        refusal(&unreached, 8),
        EntryErrorKind::BranchInto {
            from: 0x1006,
            to: 0x1002
        }
    );
}

#[test]
fn calls_and_system_calls_among_the_first_bytes() {
    let call = [0x50, 0xff, 0xd0, 0x58, 0x90, 0xc3];
    assert_eq!(refusal(&call, 6), EntryErrorKind::CallInside { at: 0x1001 });
    let late = [0x50, 0xe8, 0, 0, 0, 0, 0x58, 0xc3];
    let entry = plan_entry(0x1000, &late, 8, &no_memory).unwrap();
    assert_eq!(entry.interior, [0x1001]);
    // push %rax; xor %eax, %eax; syscall: its restart is at 0x1003, its end behind the jump.
    let system_call = [0x50, 0x31, 0xc0, 0x0f, 0x05, 0xc3];
    let entry = plan_entry(0x1000, &system_call, 6, &no_memory).unwrap();
    assert_eq!(entry.interior, [0x1001, 0x1003, 0x1005]);
}

#[test]
fn undecodable_code_is_refused() {
    assert_eq!(
        refusal(&[0x90, 0x06, 0x90, 0x90, 0x90, 0xc3], 6),
        EntryErrorKind::Undecodable { at: 0x1001 }
    );
    let later = [0xb8, 1, 0, 0, 0, 0x06];
    assert_eq!(
        refusal(&later, 6),
        EntryErrorKind::Undecodable { at: 0x1005 }
    );
    let cut = [0x90, 0x90, 0x90, 0xb8, 1];
    assert_eq!(refusal(&cut, 5), EntryErrorKind::Undecodable { at: 0x1003 });
}

/// `lea table(%rip), %rdx; cmp $1, %edi; ja out; movslq (%rdx,%rdi,4), %rax;
/// add %rdx, %rax; jmp *%rax; out: ret`.
const TABLE_USER: [u8; 22] = [
    0x48, 0x8d, 0x15, 0xf9, 0x0f, 0, 0, 0x83, 0xff, 1, 0x77, 9, 0x48, 0x63, 0x04, 0xba, 0x48, 0x01,
    0xd0, 0xff, 0xe0, 0xc3,
];

#[test]
fn jump_tables_are_read() {
    let plan = |entries: [i32; 2]| {
        let read = move |address: u64, into: &mut [u8]| {
            let Some(offset) = address.checked_sub(0x2000) else {
                return false;
            };
            let bytes: Vec<u8> = entries
                .iter()
                .flat_map(|entry| entry.to_le_bytes())
                .collect();
            let part = bytes.get(offset as usize..offset as usize + into.len());
            part.map(|part| into.copy_from_slice(part)).is_some()
        };
        plan_entry(0x1000, &TABLE_USER, TABLE_USER.len(), &read).map_err(|error| error.kind)
    };
    assert!(plan([-0x1000 + 21, -0x1000 + 21]).is_ok());
    assert!(plan([-0x1000, -0x1000]).is_ok(), "the entry itself");
    assert_eq!(
        plan([-0x1000 + 21, -0x1000 + 3]),
        Err(EntryErrorKind::BranchInto {
            from: 0x1013,
            to: 0x1003
        })
    );
    assert_eq!(
        refusal(&TABLE_USER, TABLE_USER.len()),
        EntryErrorKind::TableUnreadable {
            from: 0x1013,
            table: 0x2000
        }
    );
}

#[test]
fn a_moved_call_returns_into_the_original() {
    let calls: [&[u8]; 5] = [
        &[0xe8, 0x10, 0, 0, 0],                         // call rel32
        &[0x48, 0x83, 0xec, 8, 0xff, 0xd0],             // sub $8, %rsp; call *%rax
        &[0x48, 0x83, 0xec, 8, 0xff, 0x14, 0x24],       // call *(%rsp)
        &[0x48, 0x83, 0xec, 8, 0xff, 0x54, 0x24, 0x78], // call *0x78(%rsp)
        &[0xff, 0x15, 0x10, 0, 0, 0],                   // call *0x10(%rip)
    ];
    for code in calls {
        let code = [code, &[0xc3]].concat();
        let entry = plan_entry(0x1000, &code, code.len(), &no_memory).unwrap();
        check_copy(&format!("{code:x?}"), &entry, 0x4000_0000);
    }
    let call_rsp = [0x48, 0x83, 0xec, 8, 0xff, 0xd4, 0xc3];
    let entry = plan_entry(0x1000, &call_rsp, 7, &no_memory).unwrap();
    let error = relocate_entry(&entry, 0x4000_0000).unwrap_err();
    assert_eq!(error.kind, RelocateErrorKind::Immovable);
}

#[test]
fn relocation_refuses_what_is_out_of_reach() {
    let code = [0x8b, 0x05, 0, 0, 0, 0, 0xc3];
    let entry = plan_entry(0x1000, &code, 7, &no_memory).unwrap();
    assert!(relocate_entry(&entry, 0x7fff_0000).is_ok());
    let error = relocate_entry(&entry, 0x1_0000_0000).unwrap_err();
    assert_eq!(error.kind, RelocateErrorKind::OutOfReach { target: 0x1006 });
    assert!(error.to_string().contains("out of reach"), "{error}");
}

#[test]
fn random_bytes_never_panic() {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |now| now.as_nanos() as u64 | 1);
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let code: Vec<u8> = (0..next() % 64).map(|_| next() as u8).collect();
        let size = (next() % 70) as usize;
        let garbage = |address: u64, into: &mut [u8]| {
            into.fill((address >> 3) as u8);
            !address.is_multiple_of(3)
        };
        for address in [0x40_0000, u64::MAX - 40, 0] {
            if let Ok(entry) = plan_entry(address, &code, size, &garbage) {
                let _ = relocate_entry(&entry, next());
            }
        }
    }
}
