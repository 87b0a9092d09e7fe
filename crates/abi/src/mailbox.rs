//! How the tool runs code in a target: a borrowed thread enters the runtime, which executes
//! one command after another until it is told to return, and then gives the thread back.
//!
//! Whenever the runtime wants a command it sets [`Mailbox::upcall`] and makes a harmless
//! system call, `read(-1, TRAP_MAGIC, 0)`. The tool, which follows the thread with
//! PTRACE_SYSCALL, acts at the entry stop of that call: it writes [`Mailbox::command`] and
//! lets the thread go on. Without a tool the call just fails, the runtime finds no command,
//! ends the session and the thread goes on with its own work: a killed tool strands nobody.
//!
//! The last trap comes when only the general registers are left to restore. A tool that is
//! there sets them itself, so that it never lets go of a thread which is not back in its own
//! code; without one the thread does it.
//!
//! Every command carries a number from a counter that never repeats; its result is kept in
//! [`Mailbox::results`], so that a tool which picks up after another one knows whether a
//! call was made and what it returned.

/// Second argument of the runtime's trap system call.
pub const TRAP_MAGIC: u64 = 0x656e_6772_6166_7401;

/// Number of results that are remembered. Calls nest at most three deep.
pub const RESULT_SLOTS: usize = 64;

/// Room for one xsave image. AMX (8 KiB of tiles) is the largest component known.
pub const XSAVE_CAPACITY: usize = 16 * 1024;

/// Why the runtime asks for a command.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpcallKind {
    /// Nobody asks.
    None = 0,
    /// The borrowed thread has entered the runtime, or the last command is done.
    Ready = 1,
    /// Module code called `klp_enable_patch(argument)`.
    EnablePatch = 2,
}

impl UpcallKind {
    /// The kind with this number, as read back from a target.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::None),
            1 => Some(Self::Ready),
            2 => Some(Self::EnablePatch),
            _ => None,
        }
    }
}

/// What the runtime is to do next.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// No tool has answered: end the session; an upcall returns -EINTR.
    None = 0,
    /// Call `target(arguments[0..6])` by the System V calling convention, keep rax.
    Call = 1,
    /// Make system call number `target` with `arguments[0..6]`, keep rax.
    Syscall = 2,
    /// Leave this level with `arguments[0]`: an upcall returns it, the outermost level
    /// gives the thread back.
    Return = 3,
    /// Append a line to the log ring: `target` is the level, `arguments[0]` the address
    /// and `arguments[1]` the length of the text.
    Log = 4,
    /// As `Call`, with `arguments[0]` alone, if the word at `arguments[4]` is `arguments[5]`;
    /// else nothing is called and the result is 0. No library in a plan comes or goes meanwhile.
    CallWhile = 5,
}

impl CommandKind {
    /// The kind with this number, as read from a mailbox.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::None),
            1 => Some(Self::Call),
            2 => Some(Self::Syscall),
            3 => Some(Self::Return),
            4 => Some(Self::Log),
            5 => Some(Self::CallWhile),
            _ => None,
        }
    }
}

/// One command.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// A [`CommandKind`]; the runtime takes the command by setting it to `None`.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Number of the command, never repeated in a target.
    pub sequence: u64,
    /// Function address, system call number or log level.
    pub target: u64,
    /// Arguments.
    pub arguments: [u64; 6],
}

/// The result of a command, at `sequence % RESULT_SLOTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultSlot {
    /// Number of the command; written after `value`.
    pub sequence: u64,
    /// What it returned.
    pub value: u64,
}

/// Both directions of the conversation (symbol `engraft_mailbox` in the runtime).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Mailbox {
    /// An [`UpcallKind`].
    pub upcall: u32,
    /// Depth of nested levels; 0 when no session runs.
    pub depth: u32,
    /// Argument of the upcall.
    pub argument: u64,
    /// What `klp_enable_patch` returns when nobody answers it: minus EINTR, or 0 once the
    /// enabling can only be finished. The runtime sets it when it asks, the tool afterwards.
    pub unanswered: u64,
    /// The next command.
    pub command: Command,
    /// Results by number.
    pub results: [ResultSlot; RESULT_SLOTS],
}

/// General registers of a borrowed thread, restored when it is given back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub struct SavedRegisters {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// State of the borrowed thread (symbol `engraft_frame` in the runtime).
///
/// The tool fills `registers`, sets `owner` and then points the thread at `engraft_enter`
/// with its stack pointer on the service stack. `engraft_enter` sets `entered`, saves the
/// extended state, serves, restores it, and traps with [`UpcallKind::None`] (symbol
/// `engraft_leave`). There a tool clears `entered`, sets the general registers, and clears
/// `owner` and `last_owner`. Without a tool the runtime restores the registers, clears
/// `entered` and then `owner`, and jumps to `registers.rip` by its last instruction (before
/// symbol `engraft_leave_end`): at that moment all registers are restored. `last_owner` stays
/// then: a tool that wants the frame makes sure first that this thread is no longer between
/// the two symbols.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct CallFrame {
    /// xsave image.
    pub xsave: [u8; XSAVE_CAPACITY],
    /// Registers to give back.
    pub registers: SavedRegisters,
    /// Thread that uses the frame, 0 when free.
    pub owner: u64,
    /// Thread that used it last.
    pub last_owner: u64,
    /// 1 from the first instruction of `engraft_enter` until the registers are restored.
    pub entered: u64,
}
