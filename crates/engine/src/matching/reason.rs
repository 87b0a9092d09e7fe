//! Why a place in the running program is not what a symbol of the pre-patch code stands for.

use std::fmt;

use engraft_arch::matching::Mismatch;
use engraft_unwind::{ExceptionTableError, Place};
use thiserror::Error;

/// A difference between pre-patch code and running program.
#[derive(Clone, Debug, Error)]
pub(super) enum Reason {
    /// An instruction differs.
    #[error(transparent)]
    Code(#[from] Mismatch),
    /// The pre-patch code has a relocation that does not occur in code or constants.
    #[error(
        "it has a relocation of type {0}, which cannot be compared; compile without -mcmodel=medium or large"
    )]
    UnknownRelocation(u32),
    /// A reference leads outside what the pre-patch code has.
    #[error("the pre-patch code refers to what it does not have; build the module again")]
    Malformed,
    /// Nothing says where functions start.
    #[error("neither symbols nor frame descriptions say where the program's functions are")]
    NoFunctions,
    /// The address is in no code of the object.
    #[error("{0:#x} is not in its code")]
    OutsideCode(u64),
    /// Memory that the code refers to cannot be read.
    #[error("it refers to {0:#x}, which cannot be read or understood")]
    Unreadable(u64),
    /// A text differs.
    #[error("it uses the text {expected:?}, where the program at {at:#x} uses {found:?}")]
    Text {
        /// As in the pre-patch code.
        expected: String,
        /// As in the program.
        found: String,
        /// Address of the instruction or constant that refers to it.
        at: u64,
    },
    /// A constant differs.
    #[error(
        "constant {name} is {} at offset {offset:#x}, but in the program, at {address:#x}, {}",
        hex(expected),
        hex(found)
    )]
    Constant {
        /// Its name, or that of its section.
        name: String,
        /// Where they begin to differ.
        offset: u64,
        /// Address in the program.
        address: u64,
        /// Bytes from there on.
        expected: Vec<u8>,
        /// Bytes from there on.
        found: Vec<u8>,
    },
    /// A GOT slot is for another symbol.
    #[error("it uses '{expected}', where the program uses '{found}' (slot {slot:#x})")]
    OtherSymbol {
        /// As in the pre-patch code.
        expected: String,
        /// As in the program.
        found: String,
        /// Address of the slot.
        slot: u64,
    },
    /// A symbol that the dynamic linker looks up by name is nowhere defined.
    #[error("it uses '{0}', which no loaded object defines")]
    Undefined(String),
    /// The symbol table has the name at another address.
    #[error("'{name}' would be at {address:#x}, but the symbol table has it at {elsewhere:#x}")]
    NamedElsewhere {
        /// The symbol.
        name: String,
        /// Address by the match.
        address: u64,
        /// Address by the symbol table.
        elsewhere: u64,
    },
    /// The symbol table has another name there.
    #[error("'{name}' would be at {address:#x}, but what is there is '{found}'")]
    NamedOtherwise {
        /// The symbol.
        name: String,
        /// Address by the match.
        address: u64,
        /// Name by the symbol table.
        found: String,
    },
    /// Two uses of one symbol are of different things.
    #[error("'{name}' would be {one} at {one_at:#x} and {other} at {other_at:#x}")]
    Disagreement {
        /// The symbol.
        name: String,
        /// What one use says.
        one: String,
        /// Where that is.
        one_at: u64,
        /// What the other says.
        other: String,
        /// Where that is.
        other_at: u64,
    },
    /// What exceptions do in it differs.
    #[error("exceptions do something else in it (table at {at:#x}): {difference}")]
    ExceptionTable {
        /// Address of the program's table.
        at: u64,
        /// What differs.
        difference: TableDifference,
    },
    /// Nothing says what exceptions do in it.
    #[error(
        "the source has a table of what exceptions do in it, and the program has none for {0:#x}"
    )]
    NoExceptionTable(u64),
    /// What starts at an address is the inside of something else.
    #[error("{address:#x} is inside what starts at {start:#x}")]
    Inside {
        /// The address.
        address: u64,
        /// By its frame description.
        start: u64,
    },
    /// A jump table or a cold part leads into the function at another instruction.
    #[error(
        "{at:#x} leads to offset {offset:#x} of '{name}', but in the program to {address:#x}, \
         which is another instruction"
    )]
    Label {
        /// The function.
        name: String,
        /// Offset in the pre-patch code.
        offset: u64,
        /// Address in the program.
        address: u64,
        /// Where the reference is.
        at: u64,
    },
}

/// How what exceptions do in a function differs.
#[derive(Clone, Debug, Error)]
pub(super) enum TableDifference {
    /// The source has no such table.
    #[error("the source gives them nothing to do there")]
    Unexpected,
    /// One of the tables is not understood.
    #[error("it cannot be compared: {0}")]
    Unreadable(ExceptionTableError),
    /// The numbers of ranges of calls differ.
    #[error("it covers {found} ranges of calls instead of {expected}")]
    Calls {
        /// In the pre-patch table.
        expected: usize,
        /// In the program's.
        found: usize,
    },
    /// Another range of calls, or another landing pad.
    #[error("calls at {} instead of {}", range(found), range(expected))]
    Range {
        /// Start and landing pad in the pre-patch table.
        expected: (u64, Option<u64>),
        /// Start and landing pad in the program's.
        found: (u64, Option<u64>),
    },
    /// Other conditions.
    #[error("what is caught of the calls at {offset:#x} differs")]
    Actions {
        /// Start of the range.
        offset: u64,
    },
    /// A type on one side only.
    #[error("it catches {} instead of {}", or_any(found.as_ref()), or_any(expected.as_ref()))]
    Type {
        /// In the pre-patch table.
        expected: Option<String>,
        /// In the program's.
        found: Option<Place>,
    },
    /// No routine that reads it.
    #[error("nothing reads it")]
    NoPersonality,
}

fn or_any(what: Option<&impl fmt::Display>) -> String {
    what.map_or_else(|| "any type".to_owned(), ToString::to_string)
}

fn range((start, pad): &(u64, Option<u64>)) -> String {
    match pad {
        Some(pad) => format!("{start:#x} lead to {pad:#x}"),
        None => format!("{start:#x} lead nowhere"),
    }
}

impl Reason {
    /// How much of the function was the same before it differed, in bytes.
    pub(super) fn progress(&self) -> u64 {
        match self {
            Self::Code(mismatch) => u64::from(mismatch.before_offset),
            Self::OutsideCode(_) => 0,
            _ => u64::MAX,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}
