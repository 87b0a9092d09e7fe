//! What a 5-byte `jmp rel32` at the entry of a function displaces, and the copy of that at
//! another address. The rules are those by which the tool redirects functions from outside,
//! for code that no thread has run yet: no pc can rest in it.

use super::instruction::{Flow, Instruction, decode};

/// Length of the jump in bytes.
pub(crate) const JUMP: usize = 5;

/// Room for a copy. The longest has four short branches, each widened to six bytes, one
/// instruction of fifteen, the jump back and a literal.
pub(crate) const ROOM: usize = 128;

const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const INT3: u8 = 0xcc;

/// What is displaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Offset of the jump in the function: 0, or 4 behind `endbr64`.
    pub(crate) site: usize,
    /// Bytes of the whole instructions from there that the jump displaces.
    pub(crate) original: usize,
}

/// A displaced prologue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Displaced {
    /// As in [`Plan`].
    pub(crate) site: usize,
    /// As in [`Plan`].
    pub(crate) original: usize,
    /// Bytes that have been written.
    pub(crate) copy: usize,
}

/// Why a function does not take a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is shorter than the jump, and what follows is not filler.
    TooShort,
    /// An instruction that is not known, runs past the function, or has no other place.
    Unknown,
    /// A branch of the function leads into the overwritten bytes.
    BranchInto,
    /// A call among the first instructions returns into the overwritten bytes, or is one whose
    /// destination the instruction does not name.
    CallInside,
    /// What a displaced instruction refers to is more than 2 GiB from the copy.
    OutOfReach,
    /// Its first byte is a breakpoint: what should stand there is not known.
    Breakpoint,
}

/// Plans the jump for a function of `size` bytes, which begin `code`. What follows them up to
/// the next code may be displaced if it is filler.
///
/// Every branch is checked, but destinations of indirect jumps are not known: a table would
/// have to lead back to within four bytes of the entry, which compilers do not emit because
/// frame set-up comes first.
pub(crate) fn plan(code: &[u8], size: usize) -> Result<Plan, Unfit> {
    let function = code.get(..size).unwrap_or(code);
    let site = if function.starts_with(&ENDBR64) {
        ENDBR64.len()
    } else {
        0
    };
    for offset in [0, site] {
        if function.get(offset).ok_or(Unfit::TooShort)? == &INT3 {
            return Err(Unfit::Breakpoint);
        }
    }
    let original = measure_displaced(code, function.len(), site)?;
    if has_branch_into(function, site) {
        return Err(Unfit::BranchInto);
    }
    Ok(Plan { site, original })
}

/// Length of the whole instructions from `site` that cover the jump.
fn measure_displaced(code: &[u8], size: usize, site: usize) -> Result<usize, Unfit> {
    let mut at = site;
    while at < site + JUMP {
        let rest = code.get(at..).unwrap_or_default();
        let inside = at < size;
        if !inside && !is_filler(rest) {
            return Err(Unfit::TooShort);
        }
        let instruction = decode(rest).ok_or(Unfit::Unknown)?;
        at += instruction.length;
        if inside && at > size {
            return Err(Unfit::Unknown);
        }
        match instruction.flow {
            Flow::Call(_) | Flow::IndirectCall if at < site + JUMP => {
                return Err(Unfit::CallInside);
            }
            _ => {}
        }
    }
    Ok(at - site)
}

/// Whether `code` begins with a breakpoint or a NOP of any length (Intel SDM volume 2, NOP).
fn is_filler(code: &[u8]) -> bool {
    let prefixes = code
        .iter()
        .take_while(|byte| matches!(byte, 0x66 | 0x2e))
        .count();
    let opcode = code.get(prefixes..).unwrap_or_default();
    code.first() == Some(&INT3) || matches!(opcode, [0x90, ..] | [0x0f, 0x1f, ..])
}

/// Whether a branch of the function leads into the bytes that the jump overwrites, other than
/// to the first of them. Bytes that are no instruction are data and are stepped over.
fn has_branch_into(function: &[u8], site: usize) -> bool {
    let mut at = 0;
    while let Some(rest) = function.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(instruction) = decode(rest) else {
            at += 1;
            continue;
        };
        at += instruction.length;
        let target = instruction
            .flow
            .distance()
            .map(|distance| (at as i64).wrapping_add(distance).wrapping_sub(site as i64));
        if target.is_some_and(|target| (1..JUMP as i64).contains(&target)) {
            return true;
        }
    }
    false
}

/// Writes to `copy`, whose address is `copy_address`, what does the same there as the
/// instructions do that a jump in the function at `address` displaces, and goes on behind
/// them; literals follow.
///
/// Every instruction keeps the absolute addresses that it names. A call pushes the original
/// return address and jumps, so that the callee returns into the original.
pub(crate) fn displace(
    address: u64,
    code: &[u8],
    size: usize,
    copy_address: u64,
    copy: &mut [u8; ROOM],
) -> Result<Displaced, Unfit> {
    let Plan { site, original } = plan(code, size)?;
    let mut writer = Writer {
        bytes: copy,
        length: 0,
        address: copy_address,
    };
    let mut at = site;
    let end = site + original;
    let mut flow = Flow::Next;
    while at < end {
        let rest = code.get(at..end).unwrap_or_default();
        let instruction = decode(rest).ok_or(Unfit::Unknown)?;
        let bytes = rest.get(..instruction.length).ok_or(Unfit::Unknown)?;
        at += instruction.length;
        flow = instruction.flow;
        writer.move_instruction(instruction, bytes, address.wrapping_add(at as u64))?;
    }
    let behind = address.wrapping_add(end as u64);
    if !matches!(flow, Flow::Away | Flow::Jump(_)) {
        writer.put_relative(&[0xe9], behind, &[])?;
    }
    // Only the last instruction can be a call: another would return into the jump.
    if matches!(flow, Flow::Call(_)) {
        while writer.length != literal_behind(writer.length) {
            writer.put(&[INT3])?;
        }
        writer.put(&behind.to_le_bytes())?;
    }
    Ok(Displaced {
        site,
        original,
        copy: writer.length,
    })
}

/// Where the first literal behind `length` bytes is.
fn literal_behind(length: usize) -> usize {
    (length + 7) & !7
}

/// Writes code to a buffer.
struct Writer<'a> {
    bytes: &'a mut [u8; ROOM],
    /// How many have been written.
    length: usize,
    /// Where the first of them will be.
    address: u64,
}

impl Writer<'_> {
    /// Writes what does the same as `instruction`, whose end is at address `next`.
    fn move_instruction(
        &mut self,
        instruction: Instruction,
        bytes: &[u8],
        next: u64,
    ) -> Result<(), Unfit> {
        let target = next.wrapping_add_signed(instruction.flow.distance().unwrap_or(0));
        match instruction.flow {
            Flow::Next | Flow::Away => self.move_operand(instruction, bytes, next),
            Flow::Jump(_) => self.put_relative(&[0xe9], target, &[]),
            Flow::Condition(condition, _) => {
                self.put_relative(&[0x0f, 0x80 | condition], target, &[])
            }
            Flow::Call(_) => self.put_call(target),
            Flow::IndirectCall => Err(Unfit::CallInside),
            Flow::Peculiar(_) => Err(Unfit::Unknown),
        }
    }

    /// `push literal(%rip)` and the jump to the callee; the jump back lies before the literal.
    fn put_call(&mut self, target: u64) -> Result<(), Unfit> {
        const PUSH: usize = 6;
        let end = self.length + PUSH;
        let literal = literal_behind(end + JUMP + JUMP);
        self.put(&[0xff, 0x35])?;
        self.put(&((literal - end) as u32).to_le_bytes())?;
        self.put_relative(&[0xe9], target, &[])
    }

    fn move_operand(
        &mut self,
        instruction: Instruction,
        bytes: &[u8],
        next: u64,
    ) -> Result<(), Unfit> {
        let split = instruction
            .displacement
            .and_then(|offset| bytes.split_at_checked(offset));
        let Some((before, behind)) = split else {
            return self.put(bytes);
        };
        let (displacement, behind) = behind.split_first_chunk().ok_or(Unfit::Unknown)?;
        let displacement = i32::from_le_bytes(*displacement);
        let target = next.wrapping_add_signed(i64::from(displacement));
        self.put_relative(before, target, behind)
    }

    /// Writes an instruction with the distance from its end to `target` between `before` and
    /// `behind`.
    fn put_relative(&mut self, before: &[u8], target: u64, behind: &[u8]) -> Result<(), Unfit> {
        let end = self.length + before.len() + 4 + behind.len();
        let end = self.address.wrapping_add(end as u64);
        let distance = target.wrapping_sub(end).cast_signed();
        let distance = i32::try_from(distance).map_err(|_| Unfit::OutOfReach)?;
        self.put(before)?;
        self.put(&distance.to_le_bytes())?;
        self.put(behind)
    }

    /// There is always room; see [`ROOM`].
    fn put(&mut self, bytes: &[u8]) -> Result<(), Unfit> {
        let end = self.length + bytes.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(Unfit::Unknown)?;
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.length = end;
        Ok(())
    }
}
