//! Reading numbers out of bytes that may be anything.

use crate::exception_table::ExceptionTableError;

/// A place in bytes.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The same place, with nothing behind `end`.
    pub(crate) fn up_to(&self, end: usize) -> Result<Self, ExceptionTableError> {
        let bytes = self.bytes.get(..end).ok_or(ExceptionTableError::Damaged)?;
        Ok(Self { bytes, at: self.at })
    }

    pub(crate) fn byte(&mut self) -> Result<u8, ExceptionTableError> {
        let byte = self.bytes.get(self.at);
        let byte = *byte.ok_or(ExceptionTableError::Damaged)?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn word(&mut self) -> Result<u32, ExceptionTableError> {
        let mut word = [0; 4];
        for byte in &mut word {
            *byte = self.byte()?;
        }
        Ok(u32::from_le_bytes(word))
    }

    /// An unsigned LEB128 number.
    pub(crate) fn unsigned(&mut self) -> Result<u64, ExceptionTableError> {
        let (number, _, _) = self.leb128()?;
        Ok(number)
    }

    /// A signed LEB128 number.
    pub(crate) fn signed(&mut self) -> Result<i64, ExceptionTableError> {
        let (number, bits, negative) = self.leb128()?;
        let sign = if negative && bits < 64 { !0 << bits } else { 0 };
        Ok((number | sign).cast_signed())
    }

    /// The number, how many bits it was given with, and the highest of them.
    fn leb128(&mut self) -> Result<(u64, u32, bool), ExceptionTableError> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((number, shift + 7, byte & 0x40 != 0));
            }
        }
        Err(ExceptionTableError::Damaged)
    }
}
