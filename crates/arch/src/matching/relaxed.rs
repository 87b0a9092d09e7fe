//! What linkers make of accesses through the GOT and to thread-local variables.
//!
//! The forms are those of the psABI ("Linker Optimization", "TLS Code Sequence Transitions")
//! as GNU ld, gold, lld and mold write them.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::field::{FieldKind, Value};
use super::padding::is_nop;
use super::tls_base::TlsBase;
use crate::decode::{MAX_INSTRUCTION, decode_one};

/// What the program has instead of one instruction with a slot.
pub(super) fn relaxed_slot(
    kind: FieldKind,
    before: &Instruction,
    running: &Instruction,
) -> Option<Value> {
    match kind {
        FieldKind::Slot => relaxed_got(before, running),
        FieldKind::TlsSlot => relaxed_initial_exec(before, running),
        FieldKind::TlsDescriptor => relaxed_descriptor(before, running),
        _ => None,
    }
}

/// What the program has instead of a call of `__tls_get_addr`.
pub(super) enum RelaxedCall {
    /// The address of this variable.
    Variable(Value),
    /// What offsets are counted from.
    Base(TlsBase),
}

/// What the program has instead of a call of `__tls_get_addr`; `code` is as long as the
/// original sequence.
pub(super) fn relaxed_call(kind: FieldKind, code: &[u8], address: u64) -> Option<RelaxedCall> {
    let instructions = decode_all(code, address)?;
    match (kind, instructions.as_slice()) {
        (FieldKind::TlsModule, [load]) if loads_thread_pointer(load) => {
            Some(RelaxedCall::Base(TlsBase::ThreadPointer))
        }
        // mold computes the start of the block.
        (FieldKind::TlsModule, [zero, load, subtract])
            if clears_rax(zero)
                && loads_thread_pointer_through_rax(load)
                && subtract.code() == Code::Sub_RAX_imm32 =>
        {
            Some(RelaxedCall::Base(TlsBase::Block))
        }
        (FieldKind::TlsIndex, [load, add]) if loads_thread_pointer(load) => {
            let to = Register::RAX;
            if add.code() == Code::Add_r64_rm64 && add.op0_register() == to && reads_slot(add) {
                let slot = Value::TlsSlot(add.ip_rel_memory_address());
                return Some(RelaxedCall::Variable(slot));
            }
            let offset = added_constant(add, to)?;
            Some(RelaxedCall::Variable(Value::TlsOffset(offset)))
        }
        _ => None,
    }
}

/// Symbols in reach: `lea`, direct call or jump; addresses of 32 bits: immediates.
fn relaxed_got(before: &Instruction, running: &Instruction) -> Option<Value> {
    let register = before.op0_register();
    let target = match (before.code(), running.code()) {
        (Code::Call_rm64, Code::Call_rel32_64) | (Code::Jmp_rm64, Code::Jmp_rel32_64)
            if before.has_repne_prefix() == running.has_repne_prefix() =>
        {
            return Some(Value::Target(running.near_branch_target()));
        }
        (Code::Mov_r64_rm64, Code::Lea_r64_m) | (Code::Mov_r32_rm32, Code::Lea_r32_m)
            if running.op0_register() == register && running.is_ip_rel_memory_operand() =>
        {
            return Some(Value::Target(running.ip_rel_memory_address()));
        }
        (Code::Mov_r64_rm64, Code::Mov_rm64_imm32 | Code::Mov_rm32_imm32) => register,
        (Code::Test_rm64_r64, Code::Test_rm64_imm32)
        | (Code::Test_rm32_r32, Code::Test_rm32_imm32) => before.op1_register(),
        (from, to) if immediate_form(from) == Some(to) => register,
        _ => return None,
    };
    let operand = running.op0_register();
    (running.op0_kind() == OpKind::Register && operand.full_register() == target.full_register())
        .then(|| Value::Target(constant(running).cast_unsigned()))
}

fn immediate_form(code: Code) -> Option<Code> {
    Some(match code {
        Code::Mov_r32_rm32 => Code::Mov_rm32_imm32,
        Code::Add_r64_rm64 => Code::Add_rm64_imm32,
        Code::Or_r64_rm64 => Code::Or_rm64_imm32,
        Code::Adc_r64_rm64 => Code::Adc_rm64_imm32,
        Code::Sbb_r64_rm64 => Code::Sbb_rm64_imm32,
        Code::And_r64_rm64 => Code::And_rm64_imm32,
        Code::Sub_r64_rm64 => Code::Sub_rm64_imm32,
        Code::Xor_r64_rm64 => Code::Xor_rm64_imm32,
        Code::Cmp_r64_rm64 => Code::Cmp_rm64_imm32,
        Code::Add_r32_rm32 => Code::Add_rm32_imm32,
        Code::Or_r32_rm32 => Code::Or_rm32_imm32,
        Code::Adc_r32_rm32 => Code::Adc_rm32_imm32,
        Code::Sbb_r32_rm32 => Code::Sbb_rm32_imm32,
        Code::And_r32_rm32 => Code::And_rm32_imm32,
        Code::Sub_r32_rm32 => Code::Sub_rm32_imm32,
        Code::Xor_r32_rm32 => Code::Xor_rm32_imm32,
        Code::Cmp_r32_rm32 => Code::Cmp_rm32_imm32,
        _ => return None,
    })
}

/// `mov` of the offset from a slot: a constant; `add` of it: addition of a constant.
fn relaxed_initial_exec(before: &Instruction, running: &Instruction) -> Option<Value> {
    let register = before.op0_register();
    let offset = match before.code() {
        Code::Mov_r64_rm64 => moved_constant(running, register),
        Code::Add_r64_rm64 => added_constant(running, register),
        _ => None,
    };
    offset.map(Value::TlsOffset)
}

/// `lea` of a descriptor: load of the offset from a slot, or a constant.
fn relaxed_descriptor(before: &Instruction, running: &Instruction) -> Option<Value> {
    if before.code() != Code::Lea_r64_m {
        return None;
    }
    let register = before.op0_register();
    if running.code() == Code::Mov_r64_rm64
        && running.op0_register() == register
        && reads_slot(running)
    {
        return Some(Value::TlsSlot(running.ip_rel_memory_address()));
    }
    moved_constant(running, register).map(Value::TlsOffset)
}

fn reads_slot(instruction: &Instruction) -> bool {
    instruction.is_ip_rel_memory_operand() && instruction.segment_prefix() == Register::None
}

fn moved_constant(instruction: &Instruction, register: Register) -> Option<i64> {
    let moves = instruction.code() == Code::Mov_rm64_imm32;
    (moves && instruction.op0_register() == register).then(|| constant(instruction))
}

fn added_constant(instruction: &Instruction, register: Register) -> Option<i64> {
    if instruction.op0_register() != register {
        return None;
    }
    match instruction.code() {
        Code::Add_rm64_imm32 => Some(constant(instruction)),
        Code::Lea_r64_m
            if instruction.memory_base() == register
                && instruction.memory_index() == Register::None =>
        {
            Some(instruction.memory_displacement64().cast_signed())
        }
        _ => None,
    }
}

/// A 32-bit immediate, extended as the instruction does it.
fn constant(instruction: &Instruction) -> i64 {
    match instruction.op_kind(1) {
        OpKind::Immediate32to64 => instruction.immediate32to64(),
        _ => i64::from(instruction.immediate32()),
    }
}

/// `mov %fs:0,%rax`.
fn loads_thread_pointer(instruction: &Instruction) -> bool {
    loads_from_fs(instruction, Register::None)
}

/// `mov %fs:(%rax),%rax`.
fn loads_thread_pointer_through_rax(instruction: &Instruction) -> bool {
    loads_from_fs(instruction, Register::RAX)
}

fn loads_from_fs(instruction: &Instruction, base: Register) -> bool {
    instruction.code() == Code::Mov_r64_rm64
        && instruction.op0_register() == Register::RAX
        && instruction.segment_prefix() == Register::FS
        && instruction.memory_base() == base
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0
}

/// `xor %eax,%eax`.
fn clears_rax(instruction: &Instruction) -> bool {
    let both = [instruction.op0_register(), instruction.op1_register()];
    matches!(instruction.code(), Code::Xor_rm32_r32 | Code::Xor_r32_rm32)
        && both == [Register::EAX; 2]
}

/// All instructions of `code` but nops; `None` if they do not fill it exactly.
fn decode_all(code: &[u8], address: u64) -> Option<Vec<Instruction>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let rest = &code[at..code.len().min(at + MAX_INSTRUCTION)];
        let instruction = decode_one(address.wrapping_add(at as u64), rest)?;
        at += instruction.len();
        if !is_nop(&instruction) {
            found.push(instruction);
        }
    }
    Some(found)
}
