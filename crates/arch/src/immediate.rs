//! Numbers in instructions that differ between two versions of the same code.

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};

/// A number in an instruction that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImmediateChange {
    /// Distance of the instruction from the start of the code.
    pub offset: u64,
    /// The number before, extended to 64 bits as the instruction does it.
    pub before: u64,
    /// The number after.
    pub after: u64,
}

/// What differs between two versions of some code, if nothing but immediate operands does:
/// `None` if the instructions, registers, displacements or destinations differ, too.
#[must_use]
pub fn immediate_changes(before: &[u8], after: &[u8]) -> Option<Vec<ImmediateChange>> {
    if before.len() != after.len() {
        return None;
    }
    let mut decoders = [before, after].map(|code| Decoder::new(64, code, DecoderOptions::NONE));
    let mut instructions = [Instruction::default(), Instruction::default()];
    let mut changes = Vec::new();
    let mut start = 0;
    while before[start..] != after[start..] {
        for (decoder, instruction) in decoders.iter_mut().zip(&mut instructions) {
            decoder.decode_out(instruction);
        }
        let [old, new] = &instructions;
        let end = start + old.len();
        if old.is_invalid() || new.is_invalid() || old.len() != new.len() {
            return None;
        }
        if before[start..end] != after[start..end] {
            let place = decoders[0].get_constant_offsets(old);
            let place = start + place.immediate_offset()
                ..start + place.immediate_offset() + place.immediate_size();
            let apart = |code: &[u8]| [&code[start..place.start], &code[place.end..end]].concat();
            if place.is_empty() || apart(before) != apart(after) {
                return None;
            }
            changes.push(ImmediateChange {
                offset: start as u64,
                before: immediate(old)?,
                after: immediate(new)?,
            });
        }
        start = end;
    }
    Some(changes)
}

/// The only immediate operand.
fn immediate(instruction: &Instruction) -> Option<u64> {
    let mut operands = (0..instruction.op_count()).filter(|operand| {
        matches!(
            instruction.op_kind(*operand),
            OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        )
    });
    let first = operands.next()?;
    operands
        .next()
        .is_none()
        .then(|| instruction.immediate(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mov edi, LINE; mov dword [rsp+8], LINE; push LINE; jmp +2; nop; nop; ret
    fn code(line: u8) -> Vec<u8> {
        let mut code = vec![0xbf, line, 1, 0, 0];
        code.extend([0xc7, 0x44, 0x24, 8, line, 2, 0, 0]);
        code.extend([0x6a, line, 0xeb, 2, 0x90, 0x90, 0xc3]);
        code
    }

    #[test]
    fn differing_immediates_are_listed() {
        let change = |offset, before, after| ImmediateChange {
            offset,
            before,
            after,
        };
        assert_eq!(immediate_changes(&code(7), &code(7)), Some(vec![]));
        assert_eq!(
            immediate_changes(&code(7), &code(9)),
            Some(vec![
                change(0, 0x107, 0x109),
                change(5, 0x207, 0x209),
                change(13, 7, 9)
            ])
        );
        assert_eq!(
            immediate_changes(&[0x6a, 0xff], &[0x6a, 1]),
            Some(vec![change(0, u64::MAX, 1)])
        );
    }

    #[test]
    fn other_differences_are_not_immediates() {
        let with = |index: usize, byte: u8| {
            let mut code = code(7);
            code[index] = byte;
            code
        };
        for (index, byte, what) in [
            (0, 0xbe, "register"),
            (8, 16, "displacement"),
            (16, 1, "destination"),
            (17, 0xcc, "instruction"),
            (0, 0x06, "undecodable"),
        ] {
            assert_eq!(
                immediate_changes(&code(7), &with(index, byte)),
                None,
                "{what}"
            );
        }
        assert_eq!(immediate_changes(&[0x90], &[0x90, 0x90]), None);
        assert_eq!(immediate_changes(&[0xb8, 1], &[0xb8, 2]), None, "cut off");
    }
}
