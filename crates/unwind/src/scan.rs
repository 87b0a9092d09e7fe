//! The conservative second opinion: every word of a stack that might be a return address.

use std::ops::Range;

use engraft_elf::{ReadMemory, Unreadable};

/// A function may use this much below its stack pointer (System V x86-64 ABI, section 3.2.2).
const RED_ZONE: u64 = 128;
const WORD: u64 = 8;
const CHUNK: u64 = 64 << 10;

/// A word that may lead into one of the ranges asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackHit {
    /// Where the word is stored.
    pub address: u64,
    /// The word.
    pub value: u64,
    /// Index into the ranges.
    pub range: usize,
}

/// Finds the words between the red zone below `rsp` and `end` that point into `ranges` (half
/// open, in any order), the address just behind a range included: it is what a call at the
/// very end of a function pushes.
///
/// Words are looked for at every multiple of 8, and at the stack pointer's own alignment when
/// that is another. The caller decides which memory from `rsp` to `end` the stack is.
///
/// # Errors
///
/// [`Unreadable`] when any of it cannot be read: the scan then says nothing.
pub fn scan(
    memory: &dyn ReadMemory,
    rsp: u64,
    end: u64,
    ranges: &[Range<u64>],
) -> Result<Vec<StackHit>, Unreadable> {
    let targets = Targets::new(ranges);
    let from = rsp.saturating_sub(RED_ZONE);
    let mut hits = scan_aligned(memory, from.next_multiple_of(WORD)..end, &targets)?;
    if !from.is_multiple_of(WORD) {
        hits.extend(scan_aligned(memory, from..end, &targets)?);
        hits.sort_unstable_by_key(|hit| hit.address);
    }
    Ok(hits)
}

fn scan_aligned(
    memory: &dyn ReadMemory,
    stack: Range<u64>,
    targets: &Targets,
) -> Result<Vec<StackHit>, Unreadable> {
    let mut hits = Vec::new();
    let mut buffer = Vec::new();
    let mut address = stack.start;
    while stack.end.saturating_sub(address) >= WORD {
        let left = (stack.end - address) / WORD * WORD;
        buffer.resize(left.min(CHUNK) as usize, 0);
        memory.read(address, &mut buffer)?;
        for (word, at) in buffer.as_chunks::<8>().0.iter().zip((address..).step_by(8)) {
            let value = u64::from_le_bytes(*word);
            if let Some(range) = targets.find(value) {
                hits.push(StackHit {
                    address: at,
                    value,
                    range,
                });
            }
        }
        address += buffer.len() as u64;
    }
    Ok(hits)
}

/// The ranges, ready to be tested against every word of a stack.
struct Targets(Vec<Target>);

struct Target {
    start: u64,
    end: u64,
    index: usize,
    /// The furthest end of this and all targets that start before it.
    reach: u64,
}

impl Targets {
    fn new(ranges: &[Range<u64>]) -> Self {
        let mut targets: Vec<Target> = ranges
            .iter()
            .enumerate()
            .filter(|(_, range)| !range.is_empty())
            .map(|(index, range)| Target {
                start: range.start,
                end: range.end,
                index,
                reach: range.end,
            })
            .collect();
        targets.sort_unstable_by_key(|target| target.start);
        let mut reach = 0;
        for target in &mut targets {
            reach = target.reach.max(reach);
            target.reach = reach;
        }
        Self(targets)
    }

    /// The range that `value` lies in or just behind; the nearest one when they overlap.
    fn find(&self, value: u64) -> Option<usize> {
        let after = self.0.partition_point(|target| target.start <= value);
        self.0[..after]
            .iter()
            .rev()
            .take_while(|target| value <= target.reach)
            .find(|target| value <= target.end)
            .map(|target| target.index)
    }
}
