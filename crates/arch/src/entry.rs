//! Whether and where a function takes a redirect: a 5-byte `jmp rel32` over its first
//! instructions.

use std::ops::Range;

use iced_x86::{Code, FlowControl, Instruction, Mnemonic};
use thiserror::Error;

use crate::decode::{decode_one, is_system_call};
use crate::flow::{Flow, branch_target};
use crate::jump_table::{Jump, Reader};

/// Length of the entry jump in bytes.
pub const JUMP_LENGTH: usize = 5;

/// A function that takes a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Address of the jump: the function's, or four more behind `endbr64`.
    pub site: u64,
    /// Bytes of the whole instructions that the jump displaces. The first [`JUMP_LENGTH`]
    /// are overwritten; compare them before that and put them back afterwards.
    pub original: Vec<u8>,
    /// Addresses between the first and the last overwritten byte at which a thread's pc
    /// may rest. Behind a system call that begins inside, its end is listed too, because
    /// the kernel restarts such a call two bytes earlier.
    pub interior: Vec<u64>,
}

impl Entry {
    /// Number of bytes that the jump overwrites.
    #[must_use]
    pub fn overwritten(&self) -> usize {
        JUMP_LENGTH
    }

    /// Address behind the displaced instructions, where the original code goes on.
    #[must_use]
    pub fn resume(&self) -> u64 {
        self.site + self.original.len() as u64
    }

    /// Whether the last displaced instruction reaches beyond the overwritten bytes.
    #[must_use]
    pub fn extends_beyond_jump(&self) -> bool {
        self.original.len() > JUMP_LENGTH
    }
}

/// A function that does not take a redirect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("function at {function:#x} cannot be redirected: {kind}")]
pub struct EntryError {
    /// Address of the function.
    pub function: u64,
    /// The reason.
    pub kind: EntryErrorKind,
}

/// Why a function does not take a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryErrorKind {
    /// Function and verified filler behind it are shorter than the jump.
    #[error(
        "only {available} bytes up to the next code, the jump needs {JUMP_LENGTH}; \
         patch its callers instead"
    )]
    TooShort {
        /// Bytes from the site that may be overwritten.
        available: usize,
    },
    /// Not an instruction, or one that the decoder does not know, or it runs past the end
    /// of the function.
    #[error("no known instruction at {at:#x}; check address and size of the symbol")]
    Undecodable {
        /// Address of the bytes.
        at: u64,
    },
    /// A branch or a jump table entry of the function leads into the overwritten bytes.
    #[error(
        "the instruction at {from:#x} jumps to {to:#x}, inside the bytes to be overwritten; \
         patch its callers instead"
    )]
    BranchInto {
        /// The branch, or the indirect jump that uses the table.
        from: u64,
        /// Its destination.
        to: u64,
    },
    /// A call among the first instructions returns into the overwritten bytes.
    #[error(
        "the call at {at:#x} returns into the bytes to be overwritten; patch its callers instead"
    )]
    CallInside {
        /// Address of the call.
        at: u64,
    },
    /// More instructions, indirect jumps or table entries than are examined.
    #[error("too large to be examined for jumps into its entry; check the symbol's size")]
    TooLarge,
    /// A jump table cannot be read, so nothing is known about its entries.
    #[error(
        "jump table at {table:#x}, used at {from:#x}, cannot be read; \
         make the object's read-only data available"
    )]
    TableUnreadable {
        /// The indirect jump.
        from: u64,
        /// Address of the table.
        table: u64,
    },
}

/// Plans the redirect of the function at `address`.
///
/// `code` holds the function's `size` bytes and behind them whatever lies before the next
/// symbol; filler (NOPs, int3) in it may be displaced if the function is shorter than the
/// jump. `read` reads jump tables.
///
/// Every branch of the function is checked, also in bytes that no known path reaches. An
/// indirect jump with a table must have it read. One without a recognisable table is
/// accepted: it is a tail call through a pointer, or a computed goto whose labels would
/// have to loop back to within four bytes of the entry, which compilers do not emit
/// because frame set-up comes first. Branches from *other* functions are not seen here;
/// see [`crate::reliance::CallIndex::branches_into`].
///
/// # Errors
/// [`EntryError`] with the reason.
pub fn plan_entry(
    address: u64,
    code: &[u8],
    size: usize,
    read: &Reader<'_>,
) -> Result<Entry, EntryError> {
    let plan = || {
        let code = clip_to_address_space(address, code);
        let size = size.min(code.len());
        let offset = endbr_length(code);
        let site = address + offset as u64;
        let displaced = displace(site, &code[offset..], size.saturating_sub(offset))?;
        check_calls(site, &displaced)?;
        check_branches(address, &code[..size], site, read)?;
        let length = displaced.iter().map(Instruction::len).sum::<usize>();
        Ok(Entry {
            site,
            original: code[offset..offset + length].to_vec(),
            interior: interior_of(site, &displaced),
        })
    };
    plan().map_err(|kind| EntryError {
        function: address,
        kind,
    })
}

/// The part of `code` whose end still has an address.
pub(crate) fn clip_to_address_space(address: u64, code: &[u8]) -> &[u8] {
    let room = usize::try_from(u64::MAX - address).unwrap_or(usize::MAX);
    &code[..code.len().min(room)]
}

fn endbr_length(code: &[u8]) -> usize {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    if code.starts_with(&ENDBR64) {
        ENDBR64.len()
    } else {
        0
    }
}

fn overwritten(site: u64) -> Range<u64> {
    site..site + JUMP_LENGTH as u64
}

/// Whole instructions from `site` that cover the jump.
fn displace(site: u64, code: &[u8], size: usize) -> Result<Vec<Instruction>, EntryErrorKind> {
    let mut displaced = Vec::new();
    let mut length = 0;
    while length < JUMP_LENGTH {
        let at = site + length as u64;
        let too_short = EntryErrorKind::TooShort { available: length };
        let rest = code
            .get(length..)
            .filter(|rest| !rest.is_empty())
            .ok_or(too_short)?;
        let decoded = decode_one(at, rest);
        let instruction = if length >= size {
            decoded.filter(is_filler).ok_or(too_short)?
        } else {
            decoded
                .filter(|instruction| length + instruction.len() <= size)
                .ok_or(EntryErrorKind::Undecodable { at })?
        };
        length += instruction.len();
        displaced.push(instruction);
    }
    Ok(displaced)
}

/// How many of the first bytes are instructions that do nothing and are never reached.
#[must_use]
pub fn filler_length(address: u64, code: &[u8]) -> usize {
    let mut length = 0;
    while let Some(rest) = code.get(length..).filter(|rest| !rest.is_empty())
        && let Some(filler) = decode_one(address + length as u64, rest).filter(is_filler)
    {
        length += filler.len();
    }
    length
}

fn is_filler(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Nop || instruction.code() == Code::Int3
}

fn check_calls(site: u64, displaced: &[Instruction]) -> Result<(), EntryErrorKind> {
    let inside = displaced.iter().find(|instruction| {
        let is_call = matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        );
        is_call
            && !is_system_call(instruction)
            && overwritten(site).contains(&instruction.next_ip())
    });
    inside.map_or(Ok(()), |call| {
        Err(EntryErrorKind::CallInside { at: call.ip() })
    })
}

fn interior_of(site: u64, displaced: &[Instruction]) -> Vec<u64> {
    displaced
        .iter()
        .enumerate()
        .filter(|(position, instruction)| {
            let end_inside = overwritten(site).contains(&instruction.next_ip());
            end_inside || (*position > 0 && is_system_call(instruction))
        })
        .map(|(_, instruction)| instruction.next_ip())
        .collect()
}

fn check_branches(
    address: u64,
    code: &[u8],
    site: u64,
    read: &Reader<'_>,
) -> Result<(), EntryErrorKind> {
    let forbidden = site + 1..overwritten(site).end;
    let code_at = |at: u64| {
        let offset = usize::try_from(at.checked_sub(address)?).ok()?;
        code.get(offset..).filter(|rest| !rest.is_empty())
    };
    let flow = Flow::follow(&[address], &code_at, read);
    if flow.truncated {
        return Err(EntryErrorKind::TooLarge);
    }
    if let Some(at) = flow.undecodable {
        return Err(EntryErrorKind::Undecodable { at });
    }
    for (&from, jump) in &flow.jumps {
        match jump {
            Jump::Unreadable(table) => {
                return Err(EntryErrorKind::TableUnreadable {
                    from,
                    table: *table,
                });
            }
            Jump::Bounded(targets) | Jump::Unbounded(targets) => {
                if let Some(&to) = targets.iter().find(|to| forbidden.contains(to)) {
                    return Err(EntryErrorKind::BranchInto { from, to });
                }
            }
            Jump::Unknown => {}
        }
    }
    let reached = flow.nodes.iter().map(|node| node.instruction);
    let gaps = sweep_gaps(address, code, &flow);
    for instruction in reached.chain(gaps) {
        let target = branch_target(&instruction);
        if let Some(to) = target.filter(|to| forbidden.contains(to)) {
            return Err(EntryErrorKind::BranchInto {
                from: instruction.ip(),
                to,
            });
        }
    }
    Ok(())
}

/// Instructions in the bytes that no known path reaches: landing pads of exceptions, case
/// labels of unknown tables, or data. Undecodable bytes are data and are stepped over.
fn sweep_gaps(address: u64, code: &[u8], flow: &Flow) -> Vec<Instruction> {
    let end = address + code.len() as u64;
    let mut gaps = Vec::new();
    let mut at = address;
    let reached = flow
        .nodes
        .iter()
        .map(|node| (node.instruction.ip(), node.instruction.next_ip()))
        .chain([(end, end)]);
    for (start, next) in reached {
        while at < start {
            let offset = (at - address) as usize;
            match decode_one(at, &code[offset..]) {
                Some(instruction) => {
                    gaps.push(instruction);
                    at = instruction.next_ip();
                }
                None => at += 1,
            }
        }
        at = at.max(next);
    }
    gaps
}
