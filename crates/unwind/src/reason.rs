//! Why a walk could not be proven complete.

use std::sync::Arc;

use engraft_elf::Unreadable;

/// Why a walk ended before a proven bottom, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {pc:#x} in {}: {kind}", object.as_deref().unwrap_or("unknown memory"))]
pub struct Reason {
    /// Program counter of the frame at which the walk ended.
    pub pc: u64,
    /// Name of the object or synthetic range that holds `pc`.
    pub object: Option<Arc<str>>,
    /// What was wrong there.
    pub kind: ReasonKind,
}

/// What ended a walk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReasonKind {
    /// No object, patch module or stub is known at this address.
    #[error("the address belongs to no known code")]
    UnknownCode,
    /// The object brings no call frame information.
    #[error("the object has no call frame information")]
    NoCfi,
    /// The object has call frame information, but none that covers this address.
    #[error("no frame description covers the address")]
    NoFrameDescription,
    /// The call frame information that covers this address is malformed.
    #[error("malformed call frame information ({0})")]
    MalformedCfi(gimli::Error),
    /// A rule for the named column is of a kind that cannot be followed.
    #[error("unsupported rule for dwarf register {0}")]
    UnsupportedRule(u16),
    /// A rule needs a register whose value is lost in this frame.
    #[error("the value of dwarf register {0} is lost in this frame")]
    LostRegister(u16),
    /// A DWARF expression needs something that a stack walk does not have.
    #[error("unsupported dwarf expression")]
    UnsupportedExpression,
    /// A value that is needed could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The return address is undefined, but the function is no known entry function.
    #[error("the return address is undefined outside any known entry function")]
    UndefinedReturnAddress,
    /// The bytes before the return address are no call instruction.
    #[error("the return address does not follow a call instruction")]
    NotAfterCall,
    /// The canonical frame address is not above the frame's stack pointer.
    #[error("frame address {cfa:#x} is not above the stack pointer {rsp:#x}")]
    StackNotGrowing {
        /// The frame's canonical frame address.
        cfa: u64,
        /// The frame's own stack pointer.
        rsp: u64,
    },
    /// A signal frame was met a second time.
    #[error("the signal frame at {0:#x} occurs twice")]
    Cycle(u64),
    /// The stack is deeper than [`crate::MAX_FRAMES`].
    #[error("more than {} frames", crate::MAX_FRAMES)]
    TooManyFrames,
}
