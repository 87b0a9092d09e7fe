//! Instructions that assemblers and linkers add and leave out.

use iced_x86::{Code, Instruction};

use crate::decode::decode_one;

/// Whether the instruction does nothing but take room.
pub(super) fn is_nop(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Nopw | Code::Nopd | Code::Nopq | Code::Nop_rm16 | Code::Nop_rm32 | Code::Nop_rm64
    )
}

/// Length of the nop that begins `code`, 0 if it begins with none.
pub(super) fn nop_length(code: &[u8]) -> usize {
    // Decoding takes much longer than looking.
    let opcode = &code[prefixes(code)..];
    if !matches!(opcode, [0x90, ..] | [0x0f, 0x1f, ..]) {
        return 0;
    }
    let nop = decode_one(0, code).filter(is_nop);
    nop.map_or(0, |instruction| instruction.len())
}

/// Whether what begins here is padding, unless control arrives at it.
#[must_use]
pub fn begins_with_nop(code: &[u8]) -> bool {
    nop_length(code) > 0
}

/// Number of leading segment prefixes, and the one of fs or gs that counts. 64-bit mode
/// ignores the other ones, except on branches (Intel SDM volume 1, 3.4.2.1), and repeating one
/// changes nothing. 0 when different ones count.
pub(super) fn segment_prefixes(code: &[u8]) -> (usize, Option<u8>) {
    let is_prefix = |byte: &&u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65);
    let count = code.iter().take_while(is_prefix).count();
    let counts = code
        .first()
        .copied()
        .filter(|byte| matches!(byte, 0x64 | 0x65));
    let agrees = |byte: &u8| match counts {
        Some(first) => *byte == first,
        None => !matches!(byte, 0x64 | 0x65),
    };
    if code[..count].iter().all(agrees) {
        (count, counts)
    } else {
        (0, None)
    }
}

/// Number of prefixes before an opcode, REX included.
pub(super) fn prefixes(code: &[u8]) -> usize {
    let is_prefix = |byte: &&u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    code.iter().take_while(is_prefix).count()
}

/// What `int3` is encoded as.
pub(super) const INT3: u8 = 0xcc;
