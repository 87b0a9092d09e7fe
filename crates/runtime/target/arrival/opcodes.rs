//! Which opcodes there are in 64-bit mode, and what follows them (Intel SDM volume 2,
//! appendix A).

/// The one-byte opcodes (appendix A, table A-2), sixteen in a row:
/// - `.` refused here: undefined, a prefix, or an escape to another map
/// - `-` the opcode is all; `b` 8-bit immediate; `e` 24 bits of them
/// - `z` immediate of 16 or 32 bits, by operand size; `v` 64 bits too; `o` an address
/// - `m` ModRM byte; `M` and an 8-bit immediate; `Z` and an immediate like `z`
/// - `g` the ModRM byte decides; `x` it names registers whatever its mode says
/// - `r` return; `R` return with a 16-bit immediate
/// - `c` condition; `j` jump; `l` loop, all with an 8-bit distance
/// - `C` condition; `J` jump; `k` call, all with a 32-bit distance
/// - `p` ModRM byte, and nothing certain without the prefix F3
pub(super) static ONE_BYTE: [u8; 256] = *b"\
    mmmmbz..mmmmbz..\
    mmmmbz..mmmmbz..\
    mmmmbz..mmmmbz..\
    mmmmbz..mmmmbz..\
    ................\
    ----------------\
    ...m....zZbM----\
    cccccccccccccccc\
    MZ.Mmmmmmmmmmmmg\
    ----------.-----\
    oooo----bz------\
    bbbbbbbbvvvvvvvv\
    MMRr..gge-Rr-b.r\
    mmmm...-mmmmmmmm\
    llllbbbbkJ.j----\
    .-..--gg------gg";

/// The opcodes behind 0F (table A-3), in the same letters.
pub(super) static TWO_BYTE: [u8; 256] = *b"\
    mmmm.--r--.-.m..\
    mmmmmmmmmmmmmmmm\
    xxxx....mmmmmmmm\
    -----r.-........\
    mmmmmmmmmmmmmmmm\
    mmmmmmmmmmmmmmmm\
    mmmmmmmmmmmmmmmm\
    MMMMmmm-.m..mmmm\
    CCCCCCCCCCCCCCCC\
    mmmmmmmmmmmmmmmm\
    ---mMm..--rmMmmm\
    mmmmmmmmpmMmmmmm\
    mmMmMMMm--------\
    mmmmmmmmmmmmmmmm\
    mmmmmmmmmmmmmmmm\
    mmmmmmmmmmmmmmm.";

/// A set of opcodes of one map.
pub(super) type Opcodes = [u64; 4];

/// Opcodes behind 0F 38 (table A-4): SSSE3, SSE4, SHA, AES, movbe, crc32, adcx, movdiri and
/// their kin. A ModRM byte.
pub(super) static LEGACY_38: Opcodes = opcodes(
    b"00-0b 10 14-15 17 1c-1e 20-25 28-2b 30-35 37-41 80-82 c8-cd cf d8 db-df f0-f1 f5-f6 \
      f8-fc",
);

/// Opcodes behind 0F 3A (table A-5): rounding, blending, insertion and extraction, string
/// comparison, carry-less multiplication, SHA, AES. A ModRM byte and an 8-bit immediate.
pub(super) static LEGACY_3A: Opcodes = opcodes(b"08-0f 14-17 20-22 40-42 44 60-63 cc ce-cf df f0");

/// Opcodes of VEX maps 1, 2 and 3: AVX, AVX2, FMA, FMA4, BMI, AMX and operations on
/// masks.
pub(super) static VEX: [Opcodes; 3] = [
    opcodes(b"10-17 28-2f 41-42 44-47 4a-4b 50-77 7c-7f 90-93 98-99 ae c2 c4-c6 d0-fe"),
    opcodes(
        b"00-0f 13 16-1a 1c-1e 20-25 28-41 45-47 49 4b 50-53 58-5a 5c 5e 6c 72 78-79 8c 8e \
          90-93 96-9f a6-b1 b4-bf cb-cd cf d2-d3 da-ef f2-f3 f5-f7",
    ),
    opcodes(
        b"00-02 04-06 08-0f 14-19 1d 20-22 30-33 38-39 40-42 44 46 48-4c 5c-63 68-6f 78-7f ce-cf \
          de-df f0",
    ),
];

/// Opcodes of EVEX maps 1 to 6: AVX-512, with half precision in maps 5 and 6. Map 4 is APX,
/// which is not known here.
pub(super) static EVEX: [Opcodes; 6] = [
    opcodes(b"10-17 28-2f 51 54-76 78-7b 7e-7f c2 c4-c6 d1-d6 d8-ef f1-f6 f8-fe"),
    opcodes(
        b"00 04 0b-0d 10-16 18-2d 30-40 42-47 4c-55 58-5b 62-66 68 70-73 75-7f 83 88-8b 8d \
          8f-93 96-a3 a6-af b4-bf c4 c6-c8 ca-cd cf dc-df",
    ),
    opcodes(
        b"00-01 03-05 08-0b 0f 14-1b 1d-23 25-27 38-3b 3e-3f 42-44 50-51 54-57 66-67 70-73 c2 \
          ce-cf",
    ),
    opcodes(b""),
    opcodes(b"10-11 1d 2a 2c-2f 51 58-5f 6e 78-7e"),
    opcodes(b"13 2c-2d 42-43 4c-4f 56-57 96-9f a6-af b6-bf d6-d7"),
];

/// Opcodes of map 1 that have an 8-bit immediate with VEX and EVEX: shuffles, shifts,
/// comparisons, insertions and extractions.
pub(super) static MAP_1_IMMEDIATE: Opcodes = opcodes(b"70-73 c2 c4-c6");

/// The set of opcodes in a list of hexadecimal numbers and ranges of them.
const fn opcodes(list: &[u8]) -> Opcodes {
    let mut set = [0; 4];
    let mut at = 0;
    while at < list.len() {
        let mut opcode = number(list, at);
        at += 2;
        let mut last = opcode;
        if at < list.len() && list[at] == b'-' {
            last = number(list, at + 1);
            at += 3;
        }
        while opcode <= last {
            set[opcode / 64] |= 1 << (opcode % 64);
            opcode += 1;
        }
        at += 1;
    }
    set
}

/// The number that the two digits at `at` write.
const fn number(list: &[u8], at: usize) -> usize {
    let (Some(high), Some(low)) = (
        (list[at] as char).to_digit(16),
        (list[at + 1] as char).to_digit(16),
    ) else {
        panic!("a list of opcodes is malformed");
    };
    (high * 16 + low) as usize
}

/// Whether `set` has `opcode`.
pub(super) fn contains(set: &Opcodes, opcode: u8) -> bool {
    let word = set.get(usize::from(opcode / 64));
    word.is_some_and(|word| word >> (opcode % 64) & 1 != 0)
}
