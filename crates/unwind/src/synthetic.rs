//! Code of our own making, described by tables instead of call frame information.

use std::ops::Range;
use std::sync::Arc;

/// Instructions copied from elsewhere (a displaced prologue): each unwinds as its original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// What to call the range in a [`crate::Reason`].
    pub name: Arc<str>,
    /// Addresses of the copy, including its jump back.
    pub range: Range<u64>,
    /// Where each copied instruction came from, sorted by `offset`, the first at offset 0.
    /// An entry holds up to the next one: when an instruction was rewritten as several, none
    /// but the last of them may change the stack pointer or a preserved register. The jump
    /// back is an entry of its own with its destination as original.
    pub entries: Vec<AliasEntry>,
}

/// One copied instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AliasEntry {
    /// Offset of the copy in its range.
    pub offset: u32,
    /// Address of the original instruction.
    pub original: u64,
}

/// A stub with a known stack layout (router, selector, preserve thunk): the return address is
/// at CFA-8, and all preserved registers but possibly rbp hold the caller's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// What to call the range in a [`crate::Reason`].
    pub name: Arc<str>,
    /// Addresses of the stub.
    pub range: Range<u64>,
    /// The layout before each instruction, sorted by `offset`, the first at offset 0; an entry
    /// holds up to the next one.
    pub entries: Vec<FixedEntry>,
}

/// The stack layout from one offset of a stub on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedEntry {
    /// Offset in the stub.
    pub offset: u32,
    /// What the canonical frame address is relative to.
    pub base: FixedBase,
    /// Canonical frame address minus base, in bytes: 8 from the stack pointer where nothing
    /// was pushed.
    pub cfa_from_base: u32,
    /// The caller's rbp is stored at CFA-16, rather than still in the register.
    pub rbp_saved: bool,
}

/// The register that a stub's frame is described by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedBase {
    /// The stack pointer.
    Rsp,
    /// The frame pointer, for stubs that align their stack.
    Rbp,
}

impl Alias {
    /// The original instruction that the one at `pc` stands for.
    pub(crate) fn original_of(&self, pc: u64) -> Option<u64> {
        entry_at(&self.entries, pc - self.range.start, |entry| entry.offset)
            .map(|entry| entry.original)
    }
}

impl Fixed {
    /// The layout before the instruction at `pc`.
    pub(crate) fn layout_at(&self, pc: u64) -> Option<&FixedEntry> {
        entry_at(&self.entries, pc - self.range.start, |entry| entry.offset)
    }
}

fn entry_at<T>(entries: &[T], offset: u64, key: impl Fn(&T) -> u32) -> Option<&T> {
    let after = entries.partition_point(|entry| u64::from(key(entry)) <= offset);
    entries.get(after.checked_sub(1)?)
}
