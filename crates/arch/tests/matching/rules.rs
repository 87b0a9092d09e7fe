//! The rules one by one, in bytes.

use engraft_arch::matching::{
    Difference, Field, FieldKind, Matched, Mismatch, Pattern, Value, match_code,
};

const ADDRESS: u64 = 0x40_1000;

fn bytes(text: &str) -> Vec<u8> {
    let bytes = text.split_whitespace();
    bytes
        .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
        .collect()
}

/// Matches two sides in hexadecimal; fields are offset and relocation number.
fn run(before: &str, fields: &[(u32, u32)], running: &str) -> Result<Matched, Mismatch> {
    let field = |&(offset, number): &(u32, u32)| Field {
        offset,
        kind: FieldKind::from_raw(number).expect("a known relocation"),
    };
    let fields: Vec<Field> = fields.iter().map(field).collect();
    let (before, running) = (bytes(before), bytes(running));
    let result = match_code(&before, &fields, ADDRESS, &running);
    let may_match = Pattern::new(&before, &fields).may_match(&running);
    assert!(may_match || result.is_err());
    result
}

fn matched(before: &str, fields: &[(u32, u32)], running: &str) -> Matched {
    run(before, fields, running).unwrap_or_else(|mismatch| panic!("{mismatch}"))
}

/// Offset, distance from the function's start in the program, reason.
fn refused(before: &str, fields: &[(u32, u32)], running: &str) -> (u32, u64, Difference) {
    let mismatch = run(before, fields, running).expect_err("a match");
    let distance = mismatch.address - ADDRESS;
    (mismatch.before_offset, distance, mismatch.reason)
}

#[test]
fn values_places_and_length_are_told() {
    // push %rbx; mov $0,%edi; call; movabs $0,%rax; pop %rbx; ret
    let before = "53 bf 00 00 00 00 e8 00 00 00 00 48 b8 00 00 00 00 00 00 00 00 5b c3";
    let running = "53 bf 44 33 22 91 e8 f1 ff ff ff 48 b8 01 02 03 04 05 06 07 08 5b c3 90 53";
    let fields = [(13, 1), (2, 10), (7, 4)];
    let matched = matched(before, &fields, running);
    assert_eq!(matched.length, 23);
    let values = [
        (1, Value::Address(0x9122_3344)),
        (2, Value::Address(ADDRESS + 7 - 15)),
        (0, Value::Address(0x0807_0605_0403_0201)),
    ];
    assert_eq!(matched.values, values);
    let places = [0, 1, 6, 11, 21, 22].map(|offset| (offset, ADDRESS + u64::from(offset)));
    assert_eq!(matched.places, places);
}

#[test]
fn a_short_jump_has_the_same_value_as_a_long_one() {
    for running in ["e9 20 01 00 00", "eb 10"] {
        let long = running.len() > 5;
        let target = ADDRESS + if long { 5 + 0x120 } else { 2 + 0x10 };
        let matched = matched("e9 00 00 00 00", &[(1, 4)], running);
        assert_eq!(matched.values, [(0, Value::Address(target - 4))]);
    }
    let matched = matched("0f 84 00 00 00 00 c3", &[(2, 2)], "74 fe c3");
    assert_eq!(matched.values, [(0, Value::Address(ADDRESS - 4))]);
    let other = refused("0f 84 00 00 00 00 c3", &[(2, 2)], "75 fe c3");
    assert_eq!(other, (0, 0, Difference::Instruction));
}

#[test]
fn padding_counts_for_nothing_on_either_side() {
    // The jump leads behind the padding, or to its start, or into it.
    for (before, running) in [
        ("eb 03 0f 1f 00 c3", "eb 00 c3"),
        ("eb 00 c3", "eb 03 0f 1f 00 c3"),
        ("eb 00 66 90 c3", "eb 05 90 0f 1f 40 00 c3"),
        ("eb 00 66 90 c3", "eb 01 90 0f 1f 40 00 c3"),
        ("90 eb 00 c3", "66 66 2e 0f 1f 84 00 00 00 00 00 eb 00 c3"),
        ("eb 00 c3 66 90", "eb 00 c3"),
    ] {
        let matched = matched(before, &[], running);
        assert_eq!(matched.places.len(), 2, "{before}");
        let end = bytes(running).len();
        assert_eq!(matched.length, end, "{running}");
    }
    // Before an access that may be rewritten.
    let before = "31 c0 48 8b 05 00 00 00 00 53 c3";
    for running in [
        "31 c0 0f 1f 00 48 8b 05 00 00 00 00 53 c3",
        "31 c0 90 48 8d 05 00 00 00 00 53 c3",
    ] {
        matched(before, &[(5, 42)], running);
    }
    // Inside a nop.
    let inside = refused("eb 00 c3", &[], "eb 01 0f 1f 00 c3");
    let reason = Difference::Destination {
        before_target: 2,
        running_target: ADDRESS + 3,
    };
    assert_eq!(inside, (0, 0, reason));
    // With a relocation, it is no padding.
    let field = refused("0f 1f 05 00 00 00 00 c3", &[(3, 2)], "c3");
    assert_eq!(field, (0, 0, Difference::Instruction));
}

#[test]
fn traps_are_padding_only_where_control_cannot_arrive() {
    for ends in ["c3", "ff e0", "0f 0b", "eb fe"] {
        let function = format!("{ends} 50 c3");
        let padded = format!("{ends} cc cc cc 50 c3");
        let mixed = format!("{ends} 90 cc 66 90 50 c3");
        for (before, running) in [
            (&function, &padded),
            (&padded, &function),
            (&padded, &mixed),
        ] {
            matched(before, &[], running);
        }
    }
    let (call, trap) = ("ff d0 50 c3", "ff d0 cc 50 c3");
    assert_eq!(refused(call, &[], trap), (2, 2, Difference::Instruction));
    assert_eq!(refused(trap, &[], call), (2, 2, Difference::Instruction));
    // jne to the trap, or to a nop that leads to it.
    for (before, running) in [
        ("75 01 c3 cc 50 c3", "75 01 c3 50 c3"),
        ("75 01 c3 50 c3", "75 01 c3 cc 50 c3"),
        ("75 01 c3 90 cc 50 c3", "75 01 c3 90 50 c3"),
        ("75 01 c3 90 50 c3", "75 01 c3 90 cc 50 c3"),
    ] {
        let reason = Difference::Destination {
            before_target: 3,
            running_target: ADDRESS + 3,
        };
        assert_eq!(refused(before, &[], running), (0, 0, reason), "{running}");
    }
    // On both sides, it is an instruction.
    matched("75 01 c3 cc 50 c3", &[], "75 01 c3 cc 50 c3");
}

#[test]
fn segment_prefixes_that_do_nothing_are_padding() {
    matched("89 d0 c3", &[], "2e 2e 89 d0 c3");
    matched(
        "64 8b 04 25 00 00 00 00",
        &[(4, 23)],
        "64 64 64 8b 04 25 f8 ff ff ff",
    );
    for (before, running) in [
        ("89 d0", "64 89 d0"),
        ("64 8b 07", "65 8b 07"),
        ("64 8b 07", "8b 07"),
        ("64 8b 07", "2e 64 8b 07"),
        // Before an indirect jump it says `notrack`.
        ("ff e0", "3e ff e0"),
        ("75 00", "3e 75 00"),
    ] {
        let refused = refused(before, &[], running);
        assert_eq!(refused, (0, 0, Difference::Instruction), "{running}");
    }
}

#[test]
fn a_jump_into_an_instruction_needs_the_same_instruction() {
    // je behind the prefix of lock xadd %ecx,(%rdi)
    let function = "74 01 f0 0f c1 0f c3";
    matched(function, &[], function);
    let elsewhere = refused(function, &[], "74 02 f0 0f c1 0f c3");
    assert_eq!((elsewhere.0, elsewhere.1), (0, 0));
}

#[test]
fn branches_to_elsewhere_in_the_section_are_listed() {
    // A jump and a call out of the function; the program has the jump in its long form.
    let before = bytes("eb ee e8 00 01 00 00");
    let running = bytes("e9 eb ff ff ff e8 f0 00 00 00");
    let matched = match_code(&before, &[], 0x1000, &running).expect("equal");
    let exits = [(0, 0x1000, -16, 0xff0), (2, 0x1005, 0x107, 0x10fa)];
    let found = matched.exits.iter();
    let found = found.map(|exit| (exit.from.0, exit.from.1, exit.to, exit.target));
    assert_eq!(found.collect::<Vec<_>>(), exits);
    // A call is no jump.
    let (_, _, reason) = refused("eb ee", &[], "e8 eb ff ff ff");
    assert_eq!(reason, Difference::Instruction);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    assert_eq!(refused("", &[], "c3"), (0, 0, Difference::NoCode));
    assert_eq!(refused("90 90", &[], "90 90"), (0, 0, Difference::NoCode));
    assert_eq!(refused("c3", &[], ""), (0, 0, Difference::RunningEnds));
    assert_eq!(
        refused("50 e8 00 00 00 00", &[(2, 4)], "50 e8 00"),
        (1, 1, Difference::RunningEnds)
    );
    assert_eq!(
        refused("50 06 c3", &[], "50 06 c3"),
        (1, 1, Difference::BeforeUndecodable)
    );
    let undecodable = "50 06 06 06 06 06 06 06 06 06 06 06 06 06 06 06 06";
    assert_eq!(
        refused("50 c3", &[], undecodable),
        (1, 1, Difference::RunningUndecodable)
    );
    // An access out of the function, without a relocation.
    let outside = "8b 05 00 01 00 00";
    let (before, running, reason) = refused(outside, &[], outside);
    assert_eq!((before, running), (0, 0));
    assert_eq!(reason, Difference::LeavesFunction);
    // The program's branch leaves the function, the object file's does not.
    let (_, _, reason) = refused("75 01 50 c3", &[], "75 7f 50 c3");
    assert!(matches!(
        reason,
        Difference::Destination {
            before_target: 3,
            ..
        }
    ));
    // Relocations of the wrong kind, place or size, one over another, or behind the end.
    for (before, fields) in [
        ("e8 00 00 00 00", &[(1, 9)][..]),
        ("e8 00 00 00 00", &[(0, 4)]),
        ("eb 00", &[(1, 4)]),
        ("50", &[(0, 4)]),
        ("48 8b 05 00 00 00 00", &[(3, 1)]),
        ("48 8b 80 00 00 00 00", &[(3, 42)]),
        ("ff 11", &[(0, 35)]),
        ("48 8b 05 00 00 00 00", &[(3, 2), (3, 2)]),
        ("c3", &[(1, 2)]),
    ] {
        let refused = refused(before, fields, before);
        assert_eq!(refused, (0, 0, Difference::UnfitField), "{before}");
    }
}

#[test]
fn an_offset_is_not_interpreted_without_its_base() {
    // lea x@dtpoff(%rax),%rax: the call for the base is in another part of the function.
    let matched = matched(
        "48 8d 80 00 00 00 00 c3",
        &[(3, 21)],
        "48 8d 80 f8 ff ff ff c3",
    );
    assert_eq!(matched.values, [(0, Value::TlsOffsetOrBlockOffset(-8))]);
}

#[test]
fn relaxed_forms_must_fill_the_original() {
    let call = "ff 15 00 00 00 00 c3";
    for running in [
        "67 e8 10 00 00 00 c3",
        "90 e8 10 00 00 00 c3",
        "e8 10 00 00 00 90 c3",
    ] {
        let code = bytes(running);
        let end = code.iter().position(|byte| *byte == 0xe8).expect("a call") as u64 + 5;
        let matched = matched(call, &[(2, 41)], running);
        assert_eq!(matched.values, [(0, Value::Target(ADDRESS + end + 0x10))]);
    }
    let refused = refused(call, &[(2, 41)], "e8 10 00 00 00 c3");
    assert_eq!(refused, (0, 0, Difference::Instruction));
    // Not the register that is loaded.
    let other = run(
        "48 8b 05 00 00 00 00 c3",
        &[(3, 42)],
        "48 8d 0d 00 00 00 00 c3",
    );
    assert_eq!(other.expect_err("a match").reason, Difference::Instruction);
}

#[test]
fn a_mismatch_shows_both_instructions() {
    let mismatch = run("50 b8 01 00 00 00 c3", &[], "50 b8 02 00 00 00 c3").unwrap_err();
    let text = "instruction at offset 0x1 is `mov $0x1,%eax`, that at 0x401001 in the program is \
                `mov $0x2,%eax`: they differ";
    assert_eq!(mismatch.to_string(), text);
    let mismatch = run("eb 00 c3", &[], "eb 10 c3").unwrap_err();
    let text = "instruction at offset 0x0 is `jmp 0x2`, that at 0x401000 in the program is \
                `jmp 0x401012`: offset 0x2 in the function is not what is at 0x401012 in the \
                program";
    assert_eq!(mismatch.to_string(), text);
    let mismatch = run("c3", &[], "06").unwrap_err();
    assert_eq!(mismatch.running_text(), ".byte 06");
    let mismatch = run("c3", &[], "").unwrap_err();
    assert_eq!(mismatch.running_text(), "nothing");
}
