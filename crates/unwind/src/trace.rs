//! The result of a walk.

use std::ops::Range;

use crate::Reason;

/// One function activation, innermost first in a [`Trace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The thread's program counter (first frame), the return address into this frame, or
    /// the address at which a signal interrupted it.
    pub pc: u64,
    /// The address inside the instruction that is executing: `pc` itself in the first frame
    /// and in an interrupted one, else `pc - 1`, which lies within the call.
    pub lookup_pc: u64,
    /// When `lookup_pc` lies in an [`crate::Alias`]: the original instruction it stands for.
    pub alias_of: Option<u64>,
    /// The canonical frame address: the stack pointer before the call that made this frame.
    /// `None` in a last frame that has none or whose rules could not be followed.
    pub cfa: Option<u64>,
    /// Whether this frame is a signal return trampoline. The next frame was then interrupted
    /// rather than called.
    pub signal_frame: bool,
    /// Address at which `pc` is stored. `None` in the first frame, and where a caller's
    /// address was kept in a register.
    pub slot: Option<u64>,
}

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The last frame is a known entry function that returns to nobody: the trace is complete.
    Bottom,
    /// Completeness is not proven. The frames before the last are right as far as can be
    /// known; more may follow.
    Unreliable(Reason),
}

/// The frames of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// From the innermost outwards; never empty.
    pub frames: Vec<Frame>,
    /// Whether that is all of them.
    pub end: End,
}

/// A frame that lies in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeHit {
    /// Index into [`Trace::frames`].
    pub frame: usize,
    /// Index into the ranges that were asked about.
    pub range: usize,
}

impl Frame {
    fn lies_in(&self, range: &Range<u64>) -> bool {
        range.contains(&self.lookup_pc) || self.alias_of.is_some_and(|pc| range.contains(&pc))
    }
}

impl Trace {
    /// Whether the bottom was reached.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.end == End::Bottom
    }

    /// The innermost frame that executes in one of `ranges` (half open, in any order; the
    /// first range wins). A frame in a displaced prologue lies both there and in the original.
    ///
    /// `None` means "not there" only when the trace [is complete](Self::is_complete).
    #[must_use]
    pub fn first_hit(&self, ranges: &[Range<u64>]) -> Option<RangeHit> {
        self.frames.iter().enumerate().find_map(|(frame, at)| {
            let range = ranges.iter().position(|range| at.lies_in(range))?;
            Some(RangeHit { frame, range })
        })
    }
}
