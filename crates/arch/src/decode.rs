//! Small questions about single instructions.

use iced_x86::{Code, ConstantOffsets, Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

/// Longest instruction in bytes (Intel SDM volume 2, 2.3.11).
pub const MAX_INSTRUCTION: usize = 15;

/// What a single-stepped instruction does to the flow of control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Pushes a return address; `target` is known for `call rel32`.
    Call {
        /// Destination, if the instruction names it.
        target: Option<u64>,
    },
    /// Pops a return address.
    Return,
    /// Goes elsewhere always; `target` is known for direct jumps.
    Jump {
        /// Destination, if the instruction names it.
        target: Option<u64>,
    },
    /// Goes to `target` or to the next instruction.
    Branch {
        /// Destination when the condition holds.
        target: u64,
    },
    /// Enters the kernel.
    SystemCall,
    /// Goes on with the next instruction, or traps.
    Other,
}

/// One decoded step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the instruction does.
    pub kind: StepKind,
    /// Its length in bytes.
    pub length: usize,
}

/// Decodes the instruction at `pc`, whose bytes begin `code`. `None` if it is undecodable
/// or cut off.
#[must_use]
pub fn step_at(pc: u64, code: &[u8]) -> Option<Step> {
    let instruction = decode_one(pc, code)?;
    let kind = match instruction.flow_control() {
        _ if is_system_call(&instruction) => StepKind::SystemCall,
        FlowControl::Call => StepKind::Call {
            target: direct_target(&instruction),
        },
        FlowControl::IndirectCall => StepKind::Call { target: None },
        FlowControl::Return => StepKind::Return,
        FlowControl::UnconditionalBranch => StepKind::Jump {
            target: direct_target(&instruction),
        },
        FlowControl::IndirectBranch => StepKind::Jump { target: None },
        FlowControl::ConditionalBranch => StepKind::Branch {
            target: instruction.near_branch_target(),
        },
        _ => StepKind::Other,
    };
    Some(Step {
        kind,
        length: instruction.len(),
    })
}

/// Length in bytes of the instruction that begins `code`. `None` if it is undecodable or
/// cut off.
#[must_use]
pub fn instruction_length(code: &[u8]) -> Option<usize> {
    decode_one(0, code).map(|instruction| instruction.len())
}

/// Whether a near call instruction ends exactly at the end of `before`, the bytes before a
/// supposed return address; [`MAX_INSTRUCTION`] bytes are enough, fewer are allowed.
///
/// True proves nothing (bytes of an operand may look like a call); false proves that the
/// address was not pushed by a call.
#[must_use]
pub fn is_call_before(before: &[u8]) -> bool {
    let longest = before.len().min(MAX_INSTRUCTION);
    (2..=longest).any(|length| {
        let candidate = &before[before.len() - length..];
        decode_one(0, candidate).is_some_and(|instruction| {
            instruction.len() == length
                && (instruction.is_call_near() || instruction.is_call_near_indirect())
        })
    })
}

/// Whether a `syscall`, `sysenter` or `int 0x80` ends exactly at the end of `before`, the
/// bytes before a thread's pc.
#[must_use]
pub fn is_system_call_before(before: &[u8]) -> bool {
    matches!(
        before,
        [.., 0x0f, 0x05] | [.., 0x0f, 0x34] | [.., 0xcd, 0x80]
    )
}

/// The slot through which the PLT entry at `pc` jumps. Code of another kind may look like
/// one: the slot decides.
#[must_use]
pub fn plt_slot(pc: u64, code: &[u8]) -> Option<u64> {
    let jump = skip_landing_pad(pc, code)?;
    let jumps = jump.code() == Code::Jmp_rm64 && jump.is_ip_rel_memory_operand();
    jumps.then(|| jump.ip_rel_memory_address())
}

/// Whether `code` is where the slot of a PLT entry leads before it is bound: it pushes the
/// number of its relocation and goes to the dynamic linker.
#[must_use]
pub fn is_lazy_binding(code: &[u8]) -> bool {
    let Some(push) = skip_landing_pad(0, code).filter(|it| it.code() == Code::Pushq_imm32) else {
        return false;
    };
    let rest = code.get(push.next_ip() as usize..).unwrap_or_default();
    decode_one(0, rest).is_some_and(|jump| jump.code() == Code::Jmp_rel32_64)
}

/// The first instruction behind an `endbr64`.
fn skip_landing_pad(pc: u64, code: &[u8]) -> Option<Instruction> {
    let first = decode_one(pc, code)?;
    if first.code() == Code::Endbr64 {
        decode_one(first.next_ip(), &code[first.len()..])
    } else {
        Some(first)
    }
}

/// For each field (by offset, ascending), the bytes from its start to the end of the
/// instruction that it is part of: what a distance in it counts from. `None` for a field that
/// no instruction contains when `code` is decoded from its start.
#[must_use]
pub fn bytes_after_field(code: &[u8], fields: &[u64]) -> Vec<Option<u8>> {
    let mut ends = Vec::with_capacity(fields.len());
    let mut start = 0;
    for &field in fields {
        let mut end = None;
        while let Some(length) = code.get(start..).and_then(instruction_length) {
            let next = start + length;
            if next as u64 > field {
                end = (start as u64 <= field).then(|| (next as u64 - field) as u8);
                break;
            }
            start = next;
        }
        ends.push(end);
    }
    ends
}

pub(crate) fn decode_one(ip: u64, code: &[u8]) -> Option<Instruction> {
    let cut = &code[..code.len().min(MAX_INSTRUCTION)];
    let instruction = Decoder::with_ip(64, cut, ip, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Also says where displacement and immediates are in the instruction's bytes.
pub(crate) fn decode_with_constants(
    ip: u64,
    code: &[u8],
) -> Option<(Instruction, ConstantOffsets)> {
    let cut = &code[..code.len().min(MAX_INSTRUCTION)];
    let mut decoder = Decoder::with_ip(64, cut, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let valid = !instruction.is_invalid();
    valid.then(|| (instruction, decoder.get_constant_offsets(&instruction)))
}

pub(crate) fn is_system_call(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Syscall | Code::Sysenter => true,
        Code::Int_imm8 => instruction.immediate8() == 0x80,
        _ => false,
    }
}

/// Destination of a direct near jump, branch or call.
pub(crate) fn direct_target(instruction: &Instruction) -> Option<u64> {
    let near = (0..instruction.op_count())
        .any(|operand| matches!(instruction.op_kind(operand), OpKind::NearBranch64));
    near.then(|| instruction.near_branch_target())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_every_form_are_seen() {
        for call in [
            &[0xe8, 0, 0, 0, 0][..],
            &[0xff, 0xd0],
            &[0x41, 0xff, 0xd3],
            &[0xff, 0x15, 1, 2, 3, 4],
            &[0xff, 0x94, 0xc8, 1, 2, 3, 4],
            &[0x3e, 0xff, 0xd0],
            &[0x64, 0xff, 0x14, 0x25, 0x10, 0, 0, 0],
        ] {
            assert!(is_call_before(call), "{call:x?}");
            let mut longer = vec![0x90; 20];
            longer.extend_from_slice(call);
            assert!(is_call_before(&longer), "{call:x?}");
            longer.push(0x90);
            assert!(!is_call_before(&longer), "{call:x?} one byte early");
        }
        assert!(!is_call_before(&[]));
        assert!(!is_call_before(&[0xe9, 0, 0, 0, 0]));
        assert!(!is_call_before(&[0xff, 0xe0]));
        assert!(!is_call_before(&[0xff, 0x18]), "far call");
    }

    #[test]
    fn distances_count_from_the_end_of_the_instruction() {
        // call +0; movb $7, +0(%rip); ret
        let code = [0xe8, 0, 0, 0, 0, 0xc6, 5, 0, 0, 0, 0, 7, 0xc3];
        assert_eq!(bytes_after_field(&code, &[1, 7]), [Some(4), Some(5)]);
        assert_eq!(bytes_after_field(&code, &[7]), [Some(5)]);
        assert_eq!(bytes_after_field(&code, &[40]), [None]);
        assert_eq!(bytes_after_field(&[0x06; 8], &[1]), [None]);
    }

    #[test]
    fn steps_are_classified() {
        let kind = |code: &[u8]| step_at(0x1000, code).map(|step| step.kind);
        assert_eq!(
            kind(&[0xe8, 0xfb, 0, 0, 0]),
            Some(StepKind::Call {
                target: Some(0x1100)
            })
        );
        assert_eq!(kind(&[0xff, 0xd0]), Some(StepKind::Call { target: None }));
        assert_eq!(kind(&[0xc3]), Some(StepKind::Return));
        assert_eq!(kind(&[0xf3, 0xc3]), Some(StepKind::Return));
        assert_eq!(
            kind(&[0xeb, 0xfe]),
            Some(StepKind::Jump {
                target: Some(0x1000)
            })
        );
        assert_eq!(kind(&[0xff, 0xe0]), Some(StepKind::Jump { target: None }));
        assert_eq!(
            kind(&[0x74, 0x0e]),
            Some(StepKind::Branch { target: 0x1010 })
        );
        assert_eq!(
            kind(&[0xe3, 0x0e]),
            Some(StepKind::Branch { target: 0x1010 })
        );
        assert_eq!(kind(&[0x0f, 0x05]), Some(StepKind::SystemCall));
        assert_eq!(kind(&[0xcd, 0x80]), Some(StepKind::SystemCall));
        assert_eq!(kind(&[0x90]), Some(StepKind::Other));
        assert_eq!(kind(&[0x06]), None, "undecodable in 64-bit mode");
        assert_eq!(kind(&[0xe8, 0, 0]), None, "cut off");
        assert_eq!(kind(&[]), None);
    }

    #[test]
    fn entries_of_procedure_linkage_tables_are_seen() {
        let plain = [0xff, 0x25, 0x10, 0, 0, 0];
        let landing = [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0x10, 0, 0, 0];
        assert_eq!(plt_slot(0x1000, &plain), Some(0x1016));
        assert_eq!(plt_slot(0x1000, &landing), Some(0x101b));
        for other in [&[0xff, 0x65, 0x10][..], &[0xff, 0x15, 0x10, 0, 0, 0], &[]] {
            assert_eq!(plt_slot(0x1000, other), None, "{other:x?}");
        }
        let lazy = [0x68, 3, 0, 0, 0, 0xe9, 0xc0, 0xff, 0xff, 0xff];
        let landing = [
            0xf3, 0x0f, 0x1e, 0xfa, 0x68, 0, 0, 0, 0, 0xf2, 0xe9, 1, 2, 3, 4,
        ];
        assert!(is_lazy_binding(&lazy) && is_lazy_binding(&landing));
        assert!(!is_lazy_binding(&lazy[..7]) && !is_lazy_binding(&plain));
        assert!(!is_lazy_binding(&[]));
    }

    #[test]
    fn lengths_and_system_calls() {
        assert_eq!(instruction_length(&[0x66, 0x90, 0x90]), Some(2));
        assert_eq!(instruction_length(&[0x66; 32]), None);
        assert!(is_system_call_before(&[0x90, 0x0f, 0x05]));
        assert!(is_system_call_before(&[0xcd, 0x80]));
        assert!(!is_system_call_before(&[0x05]));
        assert!(!is_system_call_before(&[0x0f, 0x05, 0x90]));
    }
}
