//! A copy of displaced instructions at another address, followed by a jump back.
//!
//! Every instruction keeps the absolute addresses that it names: operands relative to rip
//! are adjusted, short branches widened. A relocated call pushes the original return address
//! and jumps: the callee returns into the original, and an exception that it throws finds
//! the original's call frame information and landing pads.

use std::ops::Range;

use iced_x86::{Code, Encoder, FlowControl, Instruction, Register};
use thiserror::Error;

use crate::decode::{decode_one, direct_target, is_system_call};
use crate::entry::Entry;
use crate::stub::encode_jump;

/// An instruction boundary in the original and in the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Address in the original.
    pub original: u64,
    /// Address in the copy.
    pub copy: u64,
}

/// A displaced prologue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocated {
    /// Address of the copy.
    pub address: u64,
    /// The copy's bytes with the jump back, then literals.
    pub code: Vec<u8>,
    /// All boundaries in order; the last one is the jump back.
    pub boundaries: Vec<Boundary>,
    /// Addresses in the copy of jumps that stand for calls: the return address is on the
    /// stack already, as at the callee's first instruction.
    pub calls: Vec<Range<u64>>,
}

impl Relocated {
    /// The address in the original that stands for `pc` in the copy: same stack, same
    /// registers. Between the parts of a widened instruction that is its beginning.
    #[must_use]
    pub fn original_of(&self, pc: u64) -> Option<u64> {
        let end = self.address.saturating_add(self.code.len() as u64);
        let before = self
            .boundaries
            .partition_point(|boundary| boundary.copy <= pc);
        let boundary = self.boundaries.get(before.checked_sub(1)?)?;
        (pc < end).then_some(boundary.original)
    }

    /// The boundary in the copy that corresponds to `pc` in the original.
    #[must_use]
    pub fn copy_of(&self, pc: u64) -> Option<u64> {
        let found = self
            .boundaries
            .iter()
            .find(|boundary| boundary.original == pc);
        found.map(|boundary| boundary.copy)
    }
}

/// A displaced instruction that cannot be moved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("instruction at {instruction:#x} cannot be moved to {to:#x}: {kind}")]
pub struct RelocateError {
    /// Address of the original instruction.
    pub instruction: u64,
    /// Address of its copy.
    pub to: u64,
    /// The reason.
    pub kind: RelocateErrorKind,
}

/// Why an instruction cannot be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RelocateErrorKind {
    /// What it refers to is more than 2 GiB from the copy.
    #[error("{target:#x} is out of reach; use an arena nearer to the object")]
    OutOfReach {
        /// The address that it refers to.
        target: u64,
    },
    /// Not an instruction.
    #[error("no known instruction; pass the entry as it was planned")]
    Undecodable,
    /// It can only be executed where it is.
    #[error("its form depends on its place; patch the function's callers instead")]
    Immovable,
}

/// Copies the displaced instructions of `entry` to address `to`.
///
/// # Errors
/// [`RelocateError`] if an operand is out of reach or the bytes are not those of a plan.
pub fn relocate_entry(entry: &Entry, to: u64) -> Result<Relocated, RelocateError> {
    let mut code = Vec::new();
    let mut boundaries = Vec::new();
    let mut calls = Vec::new();
    let mut offset = 0;
    while offset < entry.original.len() {
        let original = entry.site + offset as u64;
        let copy = to.wrapping_add(code.len() as u64);
        let fail = |kind| RelocateError {
            instruction: original,
            to: copy,
            kind,
        };
        let instruction = decode_one(original, &entry.original[offset..])
            .ok_or(fail(RelocateErrorKind::Undecodable))?;
        boundaries.push(Boundary { original, copy });
        if is_call(&instruction) {
            let start = copy + PUSH_LENGTH as u64;
            let jump = move_call(&instruction, start).map_err(fail)?;
            code.extend([0; PUSH_LENGTH]);
            code.extend(&jump);
            let end = start + jump.len() as u64;
            calls.push((instruction.next_ip(), start..end));
        } else {
            code.extend(move_instruction(&instruction, copy).map_err(fail)?);
        }
        offset += instruction.len();
    }
    let copy = to.wrapping_add(code.len() as u64);
    let original = entry.resume();
    boundaries.push(Boundary { original, copy });
    let back = encode_jump(copy, original).map_err(|_| RelocateError {
        instruction: original,
        to: copy,
        kind: RelocateErrorKind::OutOfReach { target: original },
    })?;
    code.extend(back);
    for (return_address, jump) in &calls {
        let end = (jump.start - to) as usize;
        let literal = code.len().next_multiple_of(8);
        code.resize(literal, INT3);
        code.extend(return_address.to_le_bytes());
        let [a, b, c, d] = ((literal - end) as u32).to_le_bytes();
        // push literal(%rip)
        code[end - PUSH_LENGTH..end].copy_from_slice(&[0xff, 0x35, a, b, c, d]);
    }
    Ok(Relocated {
        address: to,
        code,
        boundaries,
        calls: calls.into_iter().map(|(_, jump)| jump).collect(),
    })
}

/// Length of `push literal(%rip)`.
const PUSH_LENGTH: usize = 6;

const INT3: u8 = 0xcc;

fn is_call(instruction: &Instruction) -> bool {
    let flow = instruction.flow_control();
    matches!(flow, FlowControl::Call | FlowControl::IndirectCall) && !is_system_call(instruction)
}

/// The jump to a call's destination, for when the return address has been pushed.
fn move_call(instruction: &Instruction, to: u64) -> Result<Vec<u8>, RelocateErrorKind> {
    let mut jump = *instruction;
    match instruction.code() {
        Code::Call_rel32_64 => jump.set_code(Code::Jmp_rel32_64),
        Code::Call_rm64 => jump.set_code(Code::Jmp_rm64),
        _ => return Err(RelocateErrorKind::Immovable),
    }
    if instruction.op0_register() == Register::RSP {
        return Err(RelocateErrorKind::Immovable);
    }
    if instruction.memory_base() == Register::RSP {
        jump.set_memory_displacement64(instruction.memory_displacement64().wrapping_add(8));
        jump.set_memory_displ_size(8);
    }
    move_instruction(&jump, to)
}

fn move_instruction(instruction: &Instruction, to: u64) -> Result<Vec<u8>, RelocateErrorKind> {
    if let Some(target) = direct_target(instruction) {
        return move_branch(instruction, target, to);
    }
    if instruction.is_ip_rel_memory_operand() {
        return encode(instruction, to, instruction.ip_rel_memory_address());
    }
    encode(instruction, to, to)
}

fn move_branch(
    instruction: &Instruction,
    target: u64,
    to: u64,
) -> Result<Vec<u8>, RelocateErrorKind> {
    if instruction.is_loop() || instruction.is_loopcc() || instruction.is_jcx_short() {
        return move_counting_branch(instruction, target, to);
    }
    let mut near = *instruction;
    near.as_near_branch();
    match near.code() {
        Code::Xbegin_rel16 => near.set_code(Code::Xbegin_rel32),
        code if code.is_jcc_near()
            || code.is_jmp_near()
            || code.is_call_near()
            || code == Code::Xbegin_rel32 => {}
        _ => return Err(RelocateErrorKind::Immovable),
    }
    encode(&near, to, target)
}

/// `loop`, `jrcxz` and their kin exist in the short form only: branch over a jump that
/// skips a long jump.
fn move_counting_branch(
    instruction: &Instruction,
    target: u64,
    to: u64,
) -> Result<Vec<u8>, RelocateErrorKind> {
    let mut short = *instruction;
    // The skip is two bytes long, and so is the short branch unless it has a prefix.
    let length = instruction.len() as u64;
    let taken = to.wrapping_add(length + 2);
    short.set_near_branch64(taken);
    let mut code = encode(&short, to, taken)?;
    if code.len() as u64 != length {
        return Err(RelocateErrorKind::Immovable);
    }
    code.extend([0xeb, JUMP_LENGTH_BYTE]);
    let jump = encode_jump(taken, target).map_err(|_| RelocateErrorKind::OutOfReach { target })?;
    code.extend(jump);
    Ok(code)
}

const JUMP_LENGTH_BYTE: u8 = crate::entry::JUMP_LENGTH as u8;

fn encode(instruction: &Instruction, to: u64, target: u64) -> Result<Vec<u8>, RelocateErrorKind> {
    let mut encoder = Encoder::new(64);
    encoder
        .encode(instruction, to)
        .map_err(|_| RelocateErrorKind::OutOfReach { target })?;
    Ok(encoder.take_buffer())
}
