//! What a switched thread carries.

use serde::{Deserialize, Serialize};

/// Bits of a token that count transitions.
const GENERATION_BITS: u32 = 23;
/// The rest of a token, so that a foreign value is recognised. Tokens have 31 bits, so that
/// instructions can carry them as immediates, and lie where no program has its data.
const TAG: u64 = 0xe6 << GENERATION_BITS;

/// The value that threads carry (as GS base) once a transition has moved them to the
/// universe it was started for. Every transition has its own, so a new one finds all
/// threads unswitched without touching any. After every finished transition either all
/// threads carry its token or none does, which is why wrapping around is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token(u32);

impl Token {
    /// The token of no transition.
    pub(crate) const FIRST: Self = Self(0);

    /// The next transition's token.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        let next = (self.0 + 1) & ((1 << GENERATION_BITS) - 1);
        Self(next.max(1))
    }

    /// The value to be carried.
    #[must_use]
    pub fn value(self) -> u64 {
        TAG | u64::from(self.0)
    }

    /// Whether `value` is a token of any transition, past or present. Anything else but 0
    /// means that the target uses the register itself.
    #[must_use]
    pub fn is_token(value: u64) -> bool {
        value >> GENERATION_BITS == TAG >> GENERATION_BITS
            && value & ((1 << GENERATION_BITS) - 1) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_stay_below_task_size() {
        let first = Token::FIRST.next();
        assert_ne!(first, first.next());
        let last = Token((1 << GENERATION_BITS) - 1);
        assert!(last.value() < 1 << 31);
        assert_eq!(last.next(), first);
        assert!(Token::is_token(last.value()) && Token::is_token(first.value()));
        for foreign in [0, 1, TAG, u64::MAX, 0x7fff_0000_1000] {
            assert!(!Token::is_token(foreign), "{foreign:#x}");
        }
    }
}
