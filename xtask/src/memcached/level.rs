//! What memcached is patched to, and what that looks like from outside.

/// One state of the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Unpatched,
    V1,
    V2,
    V3,
}

impl Level {
    /// `incr` by zero answers with an error instead of the value.
    pub(super) fn refuses_zero_delta(self) -> bool {
        self == Self::V1
    }

    /// The longest life of an item, in seconds.
    pub(super) fn longest_life(self) -> u64 {
        match self {
            Self::Unpatched => u64::MAX,
            Self::V1 => 3600,
            Self::V2 | Self::V3 => 1800,
        }
    }

    /// The most that one `incr` adds.
    pub(super) fn largest_delta(self) -> u64 {
        match self {
            Self::Unpatched | Self::V1 => u64::MAX,
            Self::V2 | Self::V3 => 1000,
        }
    }

    /// `touch` does not find items whose key begins with `pin:`.
    pub(super) fn pins_items(self) -> bool {
        self == Self::V2
    }
}
