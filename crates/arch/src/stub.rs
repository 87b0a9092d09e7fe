//! The pieces of code that stand between a redirected function and its replacement, each
//! with the rows by which an unwinder passes through it.

use thiserror::Error;

use crate::entry::JUMP_LENGTH;
use crate::registers::{Register, RegisterSet};

/// First token that is too big for a selector: tokens have 31 bits.
pub const TOKEN_LIMIT: u32 = 1 << 31;

/// Registers that [`encode_preserve_thunk`] can preserve.
#[must_use]
pub fn preservable() -> RegisterSet {
    let general = (0..16)
        .filter_map(Register::general)
        .collect::<RegisterSet>();
    let vector = (0..16)
        .filter_map(Register::vector)
        .collect::<RegisterSet>();
    (general & RegisterSet::CALLER_SAVED) | vector
}

/// Why a stub cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StubError {
    /// A 32-bit displacement does not suffice.
    #[error("{to:#x} is out of reach from {from:#x}; use an arena within 2 GiB of the object")]
    OutOfReach {
        /// Address of the instruction.
        from: u64,
        /// What it refers to.
        to: u64,
    },
    /// Zero, which is every thread's GS base at first, or [`TOKEN_LIMIT`] and above.
    #[error("token {token:#x} is not between 1 and 0x7fffffff; take another")]
    Token {
        /// The token.
        token: u32,
    },
    /// The thunk saves caller-saved general registers and xmm0 to xmm15 only.
    #[error("registers {registers} cannot be preserved over a call; patch the callers as well")]
    Unpreservable {
        /// The registers in question.
        registers: RegisterSet,
    },
}

/// The register that a canonical frame address is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CfaBase {
    /// The stack pointer.
    Rsp,
    /// The frame pointer. The caller's rbp is at CFA-16 then.
    Rbp,
}

/// Rule for the pcs from `offset` to the next row. The return address is at CFA-8 and the
/// caller's rsp is the CFA (psABI 3.7); registers other than rbp are the caller's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnwindRow {
    /// First offset in the stub.
    pub offset: usize,
    /// What the CFA is relative to.
    pub base: CfaBase,
    /// Bytes from there to the CFA.
    pub distance: u64,
    /// Whether the caller's rbp lies at CFA-16 rather than in rbp.
    pub rbp_saved: bool,
}

impl UnwindRow {
    const fn at_entry(offset: usize) -> Self {
        Self {
            offset,
            base: CfaBase::Rsp,
            distance: 8,
            rbp_saved: false,
        }
    }

    const fn pushed(offset: usize) -> Self {
        Self {
            offset,
            base: CfaBase::Rsp,
            distance: 16,
            rbp_saved: false,
        }
    }
}

/// Code with its unwinding rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// Instructions first, then literals.
    pub code: Vec<u8>,
    /// Length of the instructions in bytes.
    pub instructions: usize,
    /// Rows by ascending offset, the first at 0.
    pub rows: Vec<UnwindRow>,
}

impl Stub {
    /// The row for a pc at `offset`; `None` outside the instructions.
    #[must_use]
    pub fn row_at(&self, offset: usize) -> Option<UnwindRow> {
        let inside = offset < self.instructions;
        let row = self.rows.iter().rev().find(|row| row.offset <= offset);
        row.filter(|_| inside).copied()
    }
}

/// `jmp rel32` at `from` to `to`.
///
/// # Errors
/// [`StubError::OutOfReach`].
pub fn encode_jump(from: u64, to: u64) -> Result<[u8; JUMP_LENGTH], StubError> {
    let [a, b, c, d] = displacement(from, JUMP_LENGTH, to)?;
    Ok([0xe9, a, b, c, d])
}

/// A router at `at`: `jmp *slot(%rip)`.
///
/// # Errors
/// [`StubError::OutOfReach`] if `slot`, the address of 8 bytes, is too far.
pub fn encode_router(at: u64, slot: u64) -> Result<Stub, StubError> {
    const LENGTH: usize = 6;
    let mut code = vec![0xff, 0x25];
    code.extend(displacement(at, LENGTH, slot)?);
    Ok(Stub {
        code,
        instructions: LENGTH,
        rows: vec![UnwindRow::at_entry(0)],
    })
}

/// A selector: jumps to `new` if the GS base equals `token`, else to `old`. It may lie at any
/// address that is a multiple of 8.
///
/// It changes no register and no flag, because callers compiled with -fipa-ra may rely on
/// any of them, and is never rewritten.
///
/// # Errors
/// [`StubError::Token`].
pub fn encode_selector(token: u32, old: u64, new: u64) -> Result<Stub, StubError> {
    const OLD_JUMP_END: usize = 22;
    const NEW_JUMP_END: usize = 29;
    const OLD_LITERAL: usize = 32;
    const NEW_LITERAL: usize = 40;
    let negated = i32::try_from(token)
        .ok()
        .filter(|token| *token != 0)
        .map(|token| -token);
    let negated = negated.ok_or(StubError::Token { token })?;
    let mut code = Vec::with_capacity(48);
    code.push(0x51); // push %rcx
    code.extend([0xf3, 0x48, 0x0f, 0xae, 0xc9]); // rdgsbase %rcx
    code.extend([0x48, 0x8d, 0x89]); // lea -token(%rcx), %rcx
    code.extend(negated.to_le_bytes());
    code.extend([0xe3, 0x07]); // jrcxz, over the next two
    code.push(0x59); // pop %rcx
    code.extend([0xff, 0x25]); // jmp *old(%rip)
    code.extend(literal_displacement(OLD_JUMP_END, OLD_LITERAL));
    code.push(0x59); // pop %rcx
    code.extend([0xff, 0x25]); // jmp *new(%rip)
    code.extend(literal_displacement(NEW_JUMP_END, NEW_LITERAL));
    code.resize(OLD_LITERAL, 0xcc);
    code.extend(old.to_le_bytes());
    code.extend(new.to_le_bytes());
    let rows = vec![
        UnwindRow::at_entry(0),
        UnwindRow::pushed(1),
        UnwindRow::at_entry(16),
        UnwindRow::pushed(OLD_JUMP_END),
        UnwindRow::at_entry(23),
    ];
    Ok(Stub {
        code,
        instructions: NEW_JUMP_END,
        rows,
    })
}

/// A preserve thunk: calls `replacement` with `registers` preserved and the stack aligned
/// to 16 bytes, whatever the caller left there (gcc does not align the stack for a local
/// leaf function). It may lie at any address that is a multiple of 8.
///
/// Not usable if the replacement takes arguments on the stack:
/// [`crate::reliance::uses_stack_arguments`].
///
/// # Errors
/// [`StubError::Unpreservable`] if `registers` is not within [`preservable`].
pub fn encode_preserve_thunk(registers: RegisterSet, replacement: u64) -> Result<Stub, StubError> {
    let unpreservable = registers - preservable();
    if !unpreservable.is_empty() {
        return Err(StubError::Unpreservable {
            registers: unpreservable,
        });
    }
    let general: Vec<u8> = registers
        .iter()
        .filter_map(Register::general_number)
        .collect();
    let vector: Vec<u8> = registers
        .iter()
        .filter_map(Register::vector_number)
        .collect();
    let mut code = vec![0x55, 0x48, 0x89, 0xe5]; // push %rbp; mov %rsp, %rbp
    general
        .iter()
        .for_each(|register| push_general(&mut code, *register));
    if !vector.is_empty() {
        let room = 16 * vector.len() as u32;
        code.extend([0x48, 0x81, 0xec]); // sub $room, %rsp
        code.extend(room.to_le_bytes());
    }
    code.extend([0x48, 0x83, 0xe4, 0xf0]); // and $-16, %rsp
    for (register, offset) in vector.iter().zip((0..).step_by(16)) {
        move_vector(&mut code, 0x11, *register, offset);
    }
    code.extend([0xff, 0x15]); // call *replacement(%rip)
    let call_end = code.len() + 4;
    code.extend([0; 4]);
    for (register, offset) in vector.iter().zip((0..).step_by(16)) {
        move_vector(&mut code, 0x10, *register, offset);
    }
    for (register, place) in general.iter().zip(1..) {
        load_general(&mut code, *register, -8 * place);
    }
    code.push(0xc9); // leave
    let left = code.len();
    code.push(0xc3); // ret
    let instructions = code.len();
    let literal = instructions.next_multiple_of(8);
    code.resize(literal, 0xcc);
    code.extend(replacement.to_le_bytes());
    code[call_end - 4..call_end].copy_from_slice(&literal_displacement(call_end, literal));
    let rows = vec![
        UnwindRow::at_entry(0),
        UnwindRow {
            rbp_saved: true,
            ..UnwindRow::pushed(1)
        },
        UnwindRow {
            offset: 4,
            base: CfaBase::Rbp,
            distance: 16,
            rbp_saved: true,
        },
        UnwindRow::at_entry(left),
    ];
    Ok(Stub {
        code,
        instructions,
        rows,
    })
}

fn push_general(code: &mut Vec<u8>, register: u8) {
    if register >= 8 {
        code.push(0x41);
    }
    code.push(0x50 | (register & 7));
}

/// `mov place(%rbp), %register`.
fn load_general(code: &mut Vec<u8>, register: u8, place: i8) {
    let rex = if register >= 8 { 0x4c } else { 0x48 };
    code.extend([
        rex,
        0x8b,
        0x45 | ((register & 7) << 3),
        place.to_le_bytes()[0],
    ]);
}

/// `movups`, opcode 0x11 to and 0x10 from `offset(%rsp)`.
fn move_vector(code: &mut Vec<u8>, opcode: u8, register: u8, offset: u32) {
    if register >= 8 {
        code.push(0x44);
    }
    code.extend([0x0f, opcode, 0x84 | ((register & 7) << 3), 0x24]);
    code.extend(offset.to_le_bytes());
}

fn literal_displacement(end: usize, literal: usize) -> [u8; 4] {
    ((literal - end) as u32).to_le_bytes()
}

fn displacement(from: u64, length: usize, to: u64) -> Result<[u8; 4], StubError> {
    let end = from.wrapping_add(length as u64);
    let distance = to.wrapping_sub(end).cast_signed();
    i32::try_from(distance)
        .map(i32::to_le_bytes)
        .map_err(|_| StubError::OutOfReach { from, to })
}
