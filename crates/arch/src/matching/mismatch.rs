//! Why code does not match, and where.

use std::fmt;

use iced_x86::{Formatter, GasFormatter};
use thiserror::Error;

use crate::decode::{MAX_INSTRUCTION, decode_one};

/// The first instruction of a function that differs from the running program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "instruction at offset {before_offset:#x} is `{}`, that at {address:#x} in the program is \
     `{}`: {reason}",
    self.before_text(), self.running_text()
)]
pub struct Mismatch {
    /// Distance of the instruction from the function's start in the object file.
    pub before_offset: u32,
    /// Address in the program.
    pub address: u64,
    /// What differs.
    pub reason: Difference,
    before: Bytes,
    running: Bytes,
}

/// What makes two instructions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Difference {
    /// Another instruction, another operand, or another constant.
    #[error("they differ")]
    Instruction,
    /// A branch, or an access to an address inside the function, leads elsewhere.
    #[error(
        "offset {before_target:#x} in the function is not what is at {running_target:#x} in \
         the program"
    )]
    Destination {
        /// Where it leads in the object file, as distance from the function's start.
        before_target: u32,
        /// Where it leads in the program.
        running_target: u64,
    },
    /// The program's code is no instruction.
    #[error("the program's bytes are no instruction")]
    RunningUndecodable,
    /// The program's code ends before the function does.
    #[error("the program's code ends here")]
    RunningEnds,
    /// The object file's code is no instruction.
    #[error("the object file's bytes are no instruction")]
    BeforeUndecodable,
    /// The object file has an access to an address outside the function, without a
    /// relocation.
    #[error("it refers to what is outside the function, without a relocation")]
    LeavesFunction,
    /// A relocation in the object file does not fit its instruction.
    #[error("its relocation is not for such an operand")]
    UnfitField,
    /// The object file's function has no instruction to compare, or is too long.
    #[error("the object file has no code to compare")]
    NoCode,
}

/// The first bytes of an instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bytes {
    bytes: [u8; MAX_INSTRUCTION],
    length: u8,
}

impl Mismatch {
    pub(super) fn new(
        place: (u32, u64),
        before: &[u8],
        running: &[u8],
        reason: Difference,
    ) -> Self {
        Self {
            before_offset: place.0,
            address: place.1,
            reason,
            before: Bytes::of(before),
            running: Bytes::of(running),
        }
    }

    /// The object file's instruction in the syntax of gas, its fields not relocated.
    #[must_use]
    pub fn before_text(&self) -> String {
        self.before.render(u64::from(self.before_offset))
    }

    /// The program's instruction in the syntax of gas.
    #[must_use]
    pub fn running_text(&self) -> String {
        self.running.render(self.address)
    }
}

impl Bytes {
    fn of(code: &[u8]) -> Self {
        let length = code.len().min(MAX_INSTRUCTION);
        let mut bytes = [0; MAX_INSTRUCTION];
        bytes[..length].copy_from_slice(&code[..length]);
        Self {
            bytes,
            length: length as u8,
        }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn render(&self, address: u64) -> String {
        let Some(instruction) = decode_one(address, self.get()) else {
            return if self.length == 0 {
                "nothing".into()
            } else {
                let bytes: Vec<_> = self
                    .get()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                format!(".byte {}", bytes.join(" "))
            };
        };
        let mut text = String::new();
        let mut formatter = GasFormatter::new();
        let options = formatter.options_mut();
        options.set_uppercase_hex(false);
        options.set_branch_leading_zeros(false);
        options.set_small_hex_numbers_in_decimal(false);
        options.set_space_after_operand_separator(false);
        formatter.format(&instruction, &mut text);
        text
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:02x?}", self.get())
    }
}
