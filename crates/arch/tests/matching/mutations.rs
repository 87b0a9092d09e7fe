//! Every bit counts: what is changed in a function, on either side, is found where it is.

use engraft_arch::matching::{Difference, FieldKind, Matched, Mismatch, Pattern, match_code};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use crate::VARIED;
use crate::check::{Found, find_all};
use crate::linked_file::LinkedFile;
use crate::object_file::ObjectFile;
use crate::toolchain::{Build, Kind};

fn for_each_function(check: impl Fn(&Found<'_>, &[u8])) {
    let directory = tempfile::tempdir().unwrap();
    for (compiler, kind, flags) in [
        ("gcc", Kind::Pie, &["-O2"][..]),
        ("clang", Kind::Shared, &["-Os"]),
    ] {
        let build = Build::new(compiler, kind, flags, &[]);
        let made = build.compile(directory.path(), VARIED);
        let object = ObjectFile::open(&made.sections);
        let linked = LinkedFile::open(&build.link(&made, "bfd"));
        for found in &find_all(&object, &linked) {
            let running = linked.bytes(found.address).expect("code");
            let room = running.len().min(found.matched.length + 64);
            check(found, &running[..room]);
        }
    }
}

fn decode(address: u64, code: &[u8]) -> Instruction {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode()
}

/// Bytes of a place that are no part of a field, in both sides' code, as distances from its
/// start; none if the linker rewrote the instruction.
fn fixed_bytes(found: &Found<'_>, place: (u32, u64), running: &[u8]) -> Vec<usize> {
    let before = &found.function.code[place.0 as usize..];
    let (ours, theirs) = (decode(0, before).len(), decode(0, running).len());
    let start = place.0 as usize;
    let fields = found.function.fields.iter();
    let fields: Vec<_> = fields
        .map(|field| (field.offset as usize, field.kind))
        .filter(|(offset, _)| (start..start + ours).contains(offset))
        .collect();
    let in_field = |at: usize| {
        let at = start + at;
        fields
            .iter()
            .any(|(offset, kind)| (*offset..offset + kind.size()).contains(&at))
    };
    let rewritten = fields
        .iter()
        .any(|(_, kind)| *kind != FieldKind::Relative32)
        && (0..ours).any(|at| !in_field(at) && before[at] != running[at]);
    let short = !fields.is_empty() && ours != theirs;
    if rewritten || short {
        return Vec::new();
    }
    (0..ours.min(theirs)).filter(|at| !in_field(*at)).collect()
}

/// Segment prefixes that 64-bit mode ignores may change into one another.
fn is_ignored(old: u8, new: u8) -> bool {
    [old, new]
        .iter()
        .all(|byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e))
}

/// A mutant must not match, and differ first at this place; or tell that it leads elsewhere.
fn assert_at(found: &Found<'_>, offset: u32, mutant: &Mutant<'_>) {
    let name = format!("{}+{offset:#x}: {}", found.function.name, mutant.what);
    let mismatch = match &mutant.result {
        Ok(matched) => {
            assert_ne!(matched.exits, found.matched.exits, "{name}: matches");
            return;
        }
        Err(mismatch) => mismatch,
    };
    // What became a nop counts for nothing, and a jump of another length is still a jump:
    // something else no longer fits.
    let mnemonic = mutant.instruction.mnemonic();
    let elsewhere = matches!(mnemonic, Mnemonic::Nop | Mnemonic::Int3 | Mnemonic::Jmp);
    let place = mismatch.before_offset;
    assert!(place == offset || elsewhere, "{name}: {mismatch}");
}

struct Mutant<'a> {
    what: &'a str,
    /// The changed instruction.
    instruction: Instruction,
    result: Result<Matched, Mismatch>,
}

/// Whether what refers to a place still does: to padding instead of what follows it.
fn is_same_place(found: &Found<'_>, before: &Instruction, running: &Instruction) -> bool {
    let target = |instruction: &Instruction| match instruction.is_ip_rel_memory_operand() {
        true => instruction.ip_rel_memory_address(),
        false => instruction.near_branch_target(),
    };
    let refers = before.is_ip_rel_memory_operand() || before.op_kinds().eq([OpKind::NearBranch64]);
    let inside = u32::try_from(target(before)).ok().filter(|_| refers);
    before.mnemonic() == running.mnemonic()
        && before.op_kinds().eq(running.op_kinds())
        && inside.is_some_and(|to| found.matched.corresponds(to, target(running)))
}

#[test]
fn every_bit_of_the_program_counts() {
    for_each_function(|found, running| {
        let pattern = Pattern::new(&found.function.code, &found.function.fields);
        let mut changed = running.to_vec();
        for &(offset, address) in &found.matched.places {
            let start = (address - found.address) as usize;
            let before = decode(offset.into(), &found.function.code[offset as usize..]);
            for at in fixed_bytes(found, (offset, address), &running[start..]) {
                for bit in 0..8 {
                    changed[start + at] ^= 1 << bit;
                    let mutant = Mutant {
                        what: &format!("bit {bit} of byte {at} of the program"),
                        instruction: decode(address, &changed[start..]),
                        result: pattern.match_at(found.address, &changed),
                    };
                    let same = is_same_place(found, &before, &mutant.instruction)
                        || is_ignored(running[start + at], changed[start + at])
                        || is_shortened(found, offset, &mutant);
                    if !same {
                        assert_at(found, offset, &mutant);
                    }
                    changed[start + at] ^= 1 << bit;
                }
            }
        }
        assert_eq!(changed, running);
    });
}

/// A jump out of the function that became short leads elsewhere, and the match says so.
fn is_shortened(found: &Found<'_>, offset: u32, mutant: &Mutant<'_>) -> bool {
    let field = found
        .function
        .fields
        .iter()
        .position(|field| field.offset == offset + 1);
    let value = |matched: &Matched| {
        let mut values = matched.values.iter();
        values.find(|(index, _)| Some(*index) == field).copied()
    };
    let other = mutant
        .result
        .as_ref()
        .is_ok_and(|matched| value(matched).is_some() && value(matched) != value(&found.matched));
    mutant.instruction.is_jmp_short() && other
}

#[test]
fn every_bit_of_the_object_file_counts() {
    for_each_function(|found, running| {
        let function = found.function;
        let mut changed = function.code.clone();
        for &(offset, address) in &found.matched.places {
            let start = (address - found.address) as usize;
            let theirs = decode(address, &running[start..]);
            for at in fixed_bytes(found, (offset, address), &running[start..]) {
                let position = offset as usize + at;
                for bit in 0..8 {
                    changed[position] ^= 1 << bit;
                    let mutant = Mutant {
                        what: &format!("bit {bit} of byte {at} of the object file"),
                        instruction: decode(offset.into(), &changed[offset as usize..]),
                        result: match_code(&changed, &function.fields, found.address, running),
                    };
                    let same = is_same_place(found, &mutant.instruction, &theirs)
                        || is_ignored(function.code[position], changed[position]);
                    if !same {
                        assert_at(found, offset, &mutant);
                    }
                    changed[position] ^= 1 << bit;
                }
            }
        }
    });
}

#[test]
fn a_missing_instruction_is_found() {
    for_each_function(|found, running| {
        let pattern = Pattern::new(&found.function.code, &found.function.fields);
        let places = &found.matched.places;
        for &(offset, address) in places {
            let start = (address - found.address) as usize;
            let deleted = decode(0, &running[start..]);
            let mut changed = running.to_vec();
            changed.drain(start..start + deleted.len());
            let rest = changed.get(start..).unwrap_or_default();
            let mut next = Decoder::new(64, rest, DecoderOptions::NONE).into_iter();
            let next = next.find(|next| next.mnemonic() != Mnemonic::Nop);
            let mismatch = pattern.match_at(found.address, &changed);
            let place = mismatch.expect_err(&found.function.name).before_offset;
            // One of several alike: it is missing somewhere among them, or a branch misses.
            let alike = next.is_none_or(|next| next.mnemonic() == deleted.mnemonic());
            assert!(
                place == offset || alike,
                "{}+{offset:#x}",
                found.function.name
            );
        }
    });
}

#[test]
fn another_branch_target_is_named() {
    for_each_function(|found, running| {
        let places = &found.matched.places;
        for &(offset, address) in places {
            let start = (address - found.address) as usize;
            let branch = decode(address, &running[start..]);
            let fields = &found.function.fields;
            let has_field = fields
                .iter()
                .any(|field| (offset..offset + branch.len() as u32).contains(&field.offset));
            if has_field || branch.near_branch_target() == 0 {
                continue;
            }
            // To the instruction behind the one where it belongs.
            let target = branch.near_branch_target();
            let position = places.partition_point(|place| place.1 <= target);
            let Some(&(_, elsewhere)) = places.get(position) else {
                continue;
            };
            let moved = (elsewhere - target) as u8;
            let mut changed = running.to_vec();
            let last = start + branch.len() - if branch.len() > 3 { 4 } else { 1 };
            let Some(byte) = changed[last]
                .checked_add(moved)
                .filter(|byte| branch.len() > 3 || (*byte < 0x80) == (changed[last] < 0x80))
            else {
                continue;
            };
            changed[last] = byte;
            let pattern = Pattern::new(&found.function.code, fields);
            let mismatch = pattern.match_at(found.address, &changed).unwrap_err();
            assert_eq!(
                (mismatch.before_offset, mismatch.address),
                (offset, address)
            );
            let Difference::Destination { running_target, .. } = mismatch.reason else {
                panic!("{mismatch}");
            };
            assert_eq!(running_target, elsewhere);
            let text = mismatch.to_string();
            assert!(text.contains(&format!("{elsewhere:#x}")), "{text}");
        }
    });
}
