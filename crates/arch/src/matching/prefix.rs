//! What a function begins with in every program, for quick rejection.

use std::ops::Range;

/// Longest prefix in bytes, and in words.
const LONGEST: usize = 64;
const WORDS: usize = LONGEST / 8;

/// Whole instructions.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefix {
    length: usize,
    words: [Word; WORDS],
    /// A bit for each byte that begins an instruction.
    starts: u64,
    /// Those of instructions that may be another one in the program.
    variable: u64,
}

/// Eight bytes in little-endian order; the mask is 0 where they may differ.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    bytes: u64,
    mask: u64,
}

impl Prefix {
    /// Adds an instruction with its variable parts, if there is room.
    pub(super) fn push(&mut self, instruction: &[u8], variable: &[Range<usize>]) -> bool {
        if self.length + instruction.len() > LONGEST {
            return false;
        }
        self.starts |= 1 << self.length;
        if variable.contains(&(0..instruction.len())) {
            self.variable |= 1 << self.length;
        }
        for (at, byte) in instruction.iter().enumerate() {
            let (word, shift) = (&mut self.words[self.length / 8], self.length % 8 * 8);
            if !variable.iter().any(|part| part.contains(&at)) {
                word.bytes |= u64::from(*byte) << shift;
                word.mask |= 0xff << shift;
            }
            self.length += 1;
        }
        true
    }

    /// Position of the first byte that differs where it may not; bytes that `code` lacks do
    /// not differ.
    pub(super) fn find_difference(&self, code: &[u8]) -> Option<usize> {
        for (number, (word, chunk)) in self.words.iter().zip(code.chunks(8)).enumerate() {
            let difference = match chunk.try_into().map(u64::from_le_bytes) {
                Ok(found) => (found ^ word.bytes) & word.mask,
                Err(_) => word.difference(chunk),
            };
            if difference != 0 {
                return Some(number * 8 + difference.trailing_zeros() as usize / 8);
            }
        }
        None
    }

    /// Where padding may have moved what follows, so that a byte differs: where its
    /// instruction begins, and where those before it do that may be anything.
    pub(super) fn suspects(&self, position: usize) -> impl Iterator<Item = usize> {
        let up_to = u64::MAX >> (LONGEST - 1 - position);
        let own = (self.starts & up_to).checked_ilog2().unwrap_or(0);
        let mut bits = self.variable & up_to | 1 << own;
        std::iter::from_fn(move || {
            let next = bits.trailing_zeros() as usize;
            bits &= bits.checked_sub(1)?;
            Some(next)
        })
    }
}

impl Word {
    /// Bits that differ from the first few bytes.
    fn difference(&self, few: &[u8]) -> u64 {
        let found = few
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        let known = !(u64::MAX << (few.len() * 8));
        (found ^ self.bytes) & self.mask & known
    }
}
