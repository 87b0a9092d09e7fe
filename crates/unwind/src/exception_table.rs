//! What an exception does in a function: its language-specific data area, in the form that
//! the compilers of all languages share (Itanium C++ ABI, "Exception Handling Tables").

use std::fmt;

use crate::cursor::Cursor;

/// Actions of one table; real ones have a few for each call.
const MAX_ACTIONS: usize = 1 << 16;

const OMITTED: u8 = 0xff;
const INDIRECT: u8 = 0x80;
const RELATIVE_TO_FIELD: u8 = 0x10;

/// The table of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExceptionTable {
    /// By address.
    pub calls: Vec<CallRange>,
}

/// Calls with the same fate. Offsets count from the function's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRange {
    /// Where the range begins.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// Where control arrives with an exception, if it does.
    pub landing_pad: Option<u64>,
    /// What stops the exception there, in the order in which it is tried.
    pub actions: Vec<Action>,
}

/// What stops an exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the landing pad runs and lets the exception go on.
    Cleanup,
    /// It is of this type.
    Catch(TypeField),
    /// It is of none of these types.
    Unless(Vec<TypeField>),
}

/// A field that refers to a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeField {
    /// Distance from the table's start.
    pub offset: usize,
    encoding: u8,
}

/// What a field of exception handling refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// What is at this address.
    At(u64),
    /// What a pointer at this address leads to.
    Through(u64),
}

/// A table that is damaged or has a form that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExceptionTableError {
    /// It ends too early, or refers to what lies outside.
    #[error("it is damaged")]
    Damaged,
    /// Landing pads count from another place than the function's start.
    #[error("its landing pads count from another place than the function's start")]
    LandingPadStart,
    /// A pointer encoding that compilers do not use for x86-64.
    #[error("it has pointers of an unknown encoding {0:#x}")]
    Encoding(u8),
}

impl ExceptionTable {
    /// Reads a table. `bytes` may go on behind it.
    ///
    /// # Errors
    ///
    /// [`ExceptionTableError`] when it is not understood as a whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, ExceptionTableError> {
        let mut header = Cursor::new(bytes, 0);
        if header.byte()? != OMITTED {
            return Err(ExceptionTableError::LandingPadStart);
        }
        let encoding = header.byte()?;
        let types = if encoding == OMITTED {
            None
        } else {
            let distance = header.unsigned()?;
            let end = position(header.position(), distance)?;
            Some(Types { encoding, end })
        };
        let call_encoding = header.byte()?;
        let length = header.unsigned()?;
        let actions = position(header.position(), length)?;
        let actions = Actions {
            bytes,
            start: actions,
            types,
        };
        let mut calls = header.up_to(actions.start)?;
        let mut table = Self { calls: Vec::new() };
        let mut left = MAX_ACTIONS;
        while !calls.is_at_end() {
            let mut next = || match call_encoding & 0x0f {
                0x01 => calls.unsigned(),
                0x03 => calls.word().map(u64::from),
                _ => Err(ExceptionTableError::Encoding(call_encoding)),
            };
            let (start, length, pad) = (next()?, next()?, next()?);
            let action = calls.unsigned()?;
            let actions = match action {
                0 => Vec::new(),
                action => actions.list(action, &mut left)?,
            };
            table.calls.push(CallRange {
                start,
                end: start
                    .checked_add(length)
                    .ok_or(ExceptionTableError::Damaged)?,
                landing_pad: (pad != 0).then_some(pad),
                actions,
            });
        }
        Ok(table)
    }
}

/// Where fields for types are: they count back from a common end.
#[derive(Clone, Copy)]
struct Types {
    encoding: u8,
    end: usize,
}

impl Types {
    fn field(self, index: u64) -> Result<TypeField, ExceptionTableError> {
        let size = field_size(self.encoding)?;
        let distance = usize::try_from(index)
            .ok()
            .and_then(|index| index.checked_mul(size));
        let offset = distance.and_then(|distance| self.end.checked_sub(distance));
        Ok(TypeField {
            offset: offset.ok_or(ExceptionTableError::Damaged)?,
            encoding: self.encoding,
        })
    }
}

struct Actions<'a> {
    bytes: &'a [u8],
    start: usize,
    types: Option<Types>,
}

impl Actions<'_> {
    /// The chain of actions that begins `first - 1` bytes into the table.
    fn list(&self, first: u64, left: &mut usize) -> Result<Vec<Action>, ExceptionTableError> {
        let mut at = position(self.start, first - 1)?;
        let mut actions = Vec::new();
        loop {
            // Chains of a damaged table may be circular.
            *left = left.checked_sub(1).ok_or(ExceptionTableError::Damaged)?;
            let mut cursor = Cursor::new(self.bytes, at);
            let filter = cursor.signed()?;
            actions.push(self.action(filter, left)?);
            let next = cursor.position();
            let distance = cursor.signed()?;
            if distance == 0 {
                return Ok(actions);
            }
            at = isize::try_from(distance)
                .ok()
                .and_then(|distance| next.checked_add_signed(distance))
                .ok_or(ExceptionTableError::Damaged)?;
        }
    }

    fn action(&self, filter: i64, left: &mut usize) -> Result<Action, ExceptionTableError> {
        if filter == 0 {
            return Ok(Action::Cleanup);
        }
        let types = self.types.ok_or(ExceptionTableError::Damaged)?;
        if let Ok(index) = u64::try_from(filter) {
            return types.field(index).map(Action::Catch);
        }
        // Lists of types stand behind the types.
        let list = position(types.end, filter.unsigned_abs() - 1)?;
        let mut cursor = Cursor::new(self.bytes, list);
        let mut fields = Vec::new();
        loop {
            *left = left.checked_sub(1).ok_or(ExceptionTableError::Damaged)?;
            match cursor.unsigned()? {
                0 => return Ok(Action::Unless(fields)),
                index => fields.push(types.field(index)?),
            }
        }
    }
}

impl TypeField {
    /// Length of the field in bytes.
    ///
    /// # Errors
    ///
    /// [`ExceptionTableError::Encoding`] when it is unknown.
    pub fn size(self) -> Result<usize, ExceptionTableError> {
        field_size(self.encoding)
    }

    /// What the field refers to in a table that lies at `address`: a type's description, or
    /// `None` for any type.
    ///
    /// # Errors
    ///
    /// [`ExceptionTableError`] when the field lies outside the table's bytes.
    pub fn read(self, bytes: &[u8], address: u64) -> Result<Option<Place>, ExceptionTableError> {
        let size = self.size()?;
        let field = self
            .offset
            .checked_add(size)
            .and_then(|end| bytes.get(self.offset..end))
            .ok_or(ExceptionTableError::Damaged)?;
        let signed = self.encoding & 0x08 != 0;
        let value = match *field {
            [a, b, c, d] if signed => i64::from(i32::from_le_bytes([a, b, c, d])).cast_unsigned(),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(ExceptionTableError::Encoding(self.encoding)),
        };
        if value == 0 {
            return Ok(None);
        }
        let base = match self.encoding & 0x70 {
            RELATIVE_TO_FIELD => address.wrapping_add(self.offset as u64),
            _ => 0,
        };
        let reach = base.wrapping_add(value);
        Ok(Some(if self.encoding & INDIRECT != 0 {
            Place::Through(reach)
        } else {
            Place::At(reach)
        }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => write!(f, "what is at {address:#x}"),
            Self::Through(slot) => write!(f, "what the pointer at {slot:#x} leads to"),
        }
    }
}

fn field_size(encoding: u8) -> Result<usize, ExceptionTableError> {
    let unknown = ExceptionTableError::Encoding(encoding);
    if !matches!(encoding & 0x70, 0 | RELATIVE_TO_FIELD) {
        return Err(unknown);
    }
    match encoding & 0x0f {
        0x03 | 0x0b => Ok(4),
        0x00 | 0x04 | 0x0c => Ok(8),
        _ => Err(unknown),
    }
}

fn position(start: usize, distance: u64) -> Result<usize, ExceptionTableError> {
    usize::try_from(distance)
        .ok()
        .and_then(|distance| start.checked_add(distance))
        .ok_or(ExceptionTableError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As g++ writes it for `try { f(); } catch (A &) {} catch (...) {}` behind a call that
    /// nothing catches: two calls, two actions, two types.
    const TABLE: [u8; 28] = [
        0xff, 0x9b, 25, // types end at 28
        0x01, 8, // calls
        4, 5, 0, 0, // [4, 9): nowhere
        9, 7, 32, 3, // [9, 16): pad 32, action at 2
        2, 0, // the second type: the last
        1, 0x7d, // the first type, then 3 back: the second
        0, 0, 0, // padding
        0, 0, 0, 0, // the second type: any
        16, 0, 0, 0, // the first type, 16 bytes behind its field
    ];

    fn field(offset: usize) -> TypeField {
        TypeField {
            offset,
            encoding: 0x9b,
        }
    }

    #[test]
    fn ranges_and_their_actions_are_read() {
        let expected = [
            CallRange {
                start: 4,
                end: 9,
                landing_pad: None,
                actions: Vec::new(),
            },
            CallRange {
                start: 9,
                end: 16,
                landing_pad: Some(32),
                actions: vec![Action::Catch(field(24)), Action::Catch(field(20))],
            },
        ];
        let table = ExceptionTable::parse(&TABLE).expect("a table");
        assert_eq!(table.calls, expected);
        let read = |offset| field(offset).read(&TABLE, 0x1000);
        assert_eq!(read(20), Ok(None));
        assert_eq!(read(24), Ok(Some(Place::Through(0x1000 + 24 + 16))));
        assert_eq!(read(25), Err(ExceptionTableError::Damaged));
    }

    #[test]
    fn lists_of_types_are_read() {
        let bytes = [
            0xff, 0x03, 12, 0x01, 4, 0, 1, 2, 1, 0x7f, 0, 7, 0, 0, 0, 1, 0,
        ];
        let table = ExceptionTable::parse(&bytes).expect("a table");
        let TypeField { offset, .. } = match &table.calls[0].actions[..] {
            [Action::Unless(fields)] => fields[0],
            other => panic!("{other:?}"),
        };
        assert_eq!(offset, 11);
    }

    #[test]
    fn circular_chains_end() {
        // The second number of an action counts from itself.
        let bytes = [0xff, 0xff, 0x01, 4, 0, 1, 2, 1, 0, 0x7f];
        assert_eq!(
            ExceptionTable::parse(&bytes),
            Err(ExceptionTableError::Damaged)
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let mut start = TABLE;
        start[0] = 0x1b;
        assert_eq!(
            ExceptionTable::parse(&start),
            Err(ExceptionTableError::LandingPadStart)
        );
        let mut encoding = TABLE;
        encoding[1] = 0x2b;
        assert_eq!(
            ExceptionTable::parse(&encoding),
            Err(ExceptionTableError::Encoding(0x2b))
        );
        let mut calls = TABLE;
        calls[3] = 0x09;
        assert_eq!(
            ExceptionTable::parse(&calls),
            Err(ExceptionTableError::Encoding(0x09))
        );
        for length in 0..17 {
            assert_eq!(
                ExceptionTable::parse(&TABLE[..length]),
                Err(ExceptionTableError::Damaged),
                "{length}"
            );
        }
    }
}
