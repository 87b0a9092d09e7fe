//! The one thing this crate asks of an address space: bytes at an address.

use std::ops::Range;

/// Reads memory of some address space.
pub trait ReadMemory {
    /// Fills all of `buffer` with the bytes that start at `address`.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when any byte of the range cannot be read; `buffer` then holds
    /// unspecified bytes.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable>;
}

/// A range of memory that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes of memory at {address:#x} cannot be read")]
pub struct Unreadable {
    /// First address of the range.
    pub address: u64,
    /// Length of the range in bytes.
    pub length: usize,
}

impl<M: ReadMemory + ?Sized> ReadMemory for &M {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(address, buffer)
    }
}

/// Bytes that stand for the memory from `address` on, and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct SliceMemory<'a> {
    /// Address of the first byte.
    pub address: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl SliceMemory<'_> {
    fn range(&self, address: u64, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(address.checked_sub(self.address)?).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}

impl ReadMemory for SliceMemory<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let length = buffer.len();
        let range = self
            .range(address, length)
            .ok_or(Unreadable { address, length })?;
        buffer.copy_from_slice(&self.bytes[range]);
        Ok(())
    }
}
