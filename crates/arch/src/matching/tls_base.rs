//! From where offsets of thread-local variables are counted.

use super::field::Value;

/// From where the program counts the thread-local variables of this function's module. The
/// object file counts from the start of the module's block, and so does a library. In an
/// executable, most linkers count from the thread pointer; which one it is shows where the
/// function asks for the base.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsBase {
    /// The function has not asked.
    Unknown,
    ThreadPointer,
    /// The start of the module's block.
    Block,
    /// It asked more than once, and the answers differ.
    Unclear,
}

impl TlsBase {
    /// Takes account of one more answer.
    pub(super) fn add(&mut self, answer: Self) {
        *self = match *self {
            Self::Unknown => answer,
            known if known == answer => known,
            _ => Self::Unclear,
        };
    }

    /// What an offset from the base says.
    pub(super) fn settle(self, value: Value) -> Value {
        match (value, self) {
            (Value::TlsBlockOffset(offset), Self::ThreadPointer) => Value::TlsOffset(offset),
            (Value::TlsBlockOffset(offset), Self::Unknown | Self::Unclear) => {
                Value::TlsOffsetOrBlockOffset(offset)
            }
            _ => value,
        }
    }
}
