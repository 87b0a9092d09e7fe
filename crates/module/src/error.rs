//! What can be wrong with a module's file, and what can fail when it is linked.

use std::fmt;

use thiserror::Error;

use crate::{NameError, Reference, Region, ResolveError};

/// A file that is not a usable patch module.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("patch module '{file}': {kind}")]
pub struct ModuleError {
    /// The file's name.
    pub file: String,
    /// What is wrong.
    pub kind: ModuleErrorKind,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModuleErrorKind {
    /// It says which kernel it was built for.
    #[error("a module for Linux '{0}'; load it with --kernel")]
    KernelModule(String),
    /// Longer than 64 MiB.
    #[error("{0} bytes long, more than 64 MiB")]
    TooLong(usize),
    /// No ELF magic.
    #[error("not an ELF file")]
    NotElf,
    /// ELFCLASS32.
    #[error("32-bit object; compile for 64-bit x86-64")]
    ThirtyTwoBit,
    /// Another `e_machine`, or big endian.
    #[error("object for machine type {0}; compile for x86-64")]
    ForeignMachine(u16),
    /// Not ET_REL.
    #[error("ELF type {0} is not a relocatable object; compile with -c, or merge with ld -r")]
    NotRelocatable(u16),
    /// A header, table, index or string contradicts the format or the file's length.
    #[error("damaged: {0}")]
    Malformed(String),
    /// Sections of one region that need more than 64 MiB, or more alignment than a page.
    #[error("section '{section}' is too large or needs more than page alignment")]
    SectionTooLarge {
        /// The section that crosses the limit.
        section: String,
    },
    /// A section that is both writable and executable.
    #[error("section '{0}' is writable and executable; keep code and data apart")]
    WritableCode(String),
    /// Code that must run before `main`.
    #[error(
        "'{function}' in section '{section}' is a constructor or destructor, which a running \
         program cannot run in order; call it from module_init or a callback"
    )]
    Constructor {
        /// The section that lists it.
        section: String,
        /// The function, or what is known of it.
        function: String,
    },
    /// A thread-local variable defined by the module.
    #[error(
        "thread-local variable '{0}' is new, but running threads have no room for it; use a \
         shadow variable (klp_shadow_alloc)"
    )]
    NewThreadLocal(String),
    /// A common symbol.
    #[error("variable '{0}' is a common symbol; compile with -fno-common")]
    Common(String),
    /// Two definitions of one global name.
    #[error("symbol '{0}' is defined twice; merge the sources with ld -r")]
    Redefined(String),
    /// A symbol of a livepatch relocation section that has an ordinary name.
    #[error("symbol '{0}' is not marked as a livepatch symbol; name it .klp.sym.OBJECT.NAME,POS")]
    NotALivepatchSymbol(String),
    /// A name that starts with `.klp.sym.` but does not go on as OBJECT.NAME,POS.
    #[error("symbol '{0}' has an incorrectly formatted name; expected .klp.sym.OBJECT.NAME,POS")]
    LivepatchSymbolName(String),
    /// A name that starts with `.klp.rela.` but does not go on as OBJECT.SECTION.
    #[error("section '{0}' has an incorrectly formatted name; expected .klp.rela.OBJECT.SECTION")]
    LivepatchSectionName(String),
    /// A name that starts with `.engraft.pre.` but does not go on as OBJECT.SYMBOL, or leads
    /// to nothing in the pre-patch code.
    #[error("symbol '{0}' leads to nothing in the pre-patch code; build the module again")]
    PreCodeSymbolName(String),
    /// A relocation section that waits for a library must not delay what the executable has.
    #[error(
        "invalid access to symbol '{symbol}' of the main executable from section '{section}', \
         which belongs to another object; use section .klp.rela.vmlinux.*"
    )]
    ForeignSectionAccess {
        /// The symbol.
        symbol: String,
        /// The relocation section.
        section: String,
    },
    /// A relocation that cannot be applied.
    #[error("{0}")]
    Relocation(Box<Fault>),
    /// A name that cannot be a module's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Module information `build_id` that names no build.
    #[error(
        "MODULE_INFO(build_id, \"{0}\") is neither a build-id in hexadecimal digits nor LIBRARY=BUILD-ID"
    )]
    BuildIdFormat(String),
    /// Two builds of one object.
    #[error(
        "it says that it was made for {0}, and for {1}; leave one MODULE_INFO(build_id, ...) of the object"
    )]
    TwoBuildIds(String, String),
}

/// One relocation that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Section that is relocated.
    pub section: String,
    /// Offset in it.
    pub offset: u64,
    /// The symbol.
    pub symbol: String,
    /// Why.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            section,
            offset,
            symbol,
            kind,
        } = self;
        write!(f, "'{symbol}' at '{section}'+{offset:#x}: {kind}")
    }
}

/// Why a relocation cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FaultKind {
    /// A type that has no meaning here.
    #[error("relocation {name} ({number}) is not supported: {reason}")]
    Unsupported {
        /// Its number.
        number: u32,
        /// Its name.
        name: &'static str,
        /// Why, and the way out.
        reason: &'static str,
    },
    /// The field is not inside the section.
    #[error("the relocated field lies outside the section")]
    OutOfBounds,
    /// The symbol lies in a section that does not become part of the target.
    #[error("the symbol lies in a section that is not loaded")]
    Dropped,
    /// Not one of the instruction sequences that the ABI prescribes for the access.
    #[error(
        "unknown instruction sequence for a thread-local variable; compile with -ftls-model=global-dynamic"
    )]
    TlsSequence,
    /// The value does not fit the field.
    #[error(
        "{target:#x} is out of reach of {place:#x} ({} bytes); compile with -fPIC and \
         without hidden visibility for this symbol",
        i128::from(*target) - i128::from(*place)
    )]
    OutOfReach {
        /// Address of the field.
        place: u64,
        /// Address it should lead to.
        target: u64,
    },
    /// The value does not fit the field, which holds an absolute number.
    #[error("{0:#x} does not fit into 32 bits; compile with -fPIC")]
    TooWide(u64),
    /// An ifunc's address is only known after a call, so it needs a slot.
    #[error("the address of an ifunc is taken without a slot; compile with -fPIC")]
    IfuncAddress,
    /// The access needs a distance from the thread pointer, and there is none.
    #[error(
        "the variable is not in static thread-local storage; compile with \
         -ftls-model=global-dynamic and -mtls-dialect=gnu"
    )]
    DynamicTls,
    /// A thread-local variable used as an ordinary symbol or the other way round.
    #[error("thread-local access to a symbol that is not thread-local, or the other way round")]
    ThreadLocalMismatch,
}

/// A module that cannot be linked to its place.
#[derive(Debug, Error)]
#[error("patch module '{module}': {kind}")]
pub struct LinkError {
    /// The module's name.
    pub module: String,
    /// What failed.
    pub kind: LinkErrorKind,
}

/// What failed when a module was linked.
#[derive(Debug, Error)]
pub enum LinkErrorKind {
    /// References without a value: all of them.
    #[error("{}", list(.0))]
    Unresolved(Vec<Unresolved>),
    /// Relocations that cannot be applied: all of them.
    #[error("{}", list(.0))]
    Faults(Vec<Fault>),
    /// An address is not aligned, or the region would wrap around.
    #[error("address {address:#x} of the {region:?} region is misaligned or out of range")]
    Misplaced {
        /// The region.
        region: Region,
        /// Its address.
        address: u64,
    },
    /// The regions overlap, or lie further than 2 GiB apart.
    #[error("the regions overlap or lie more than 2 GiB apart")]
    Arrangement,
    /// Fewer or more relocations were applied than the module has.
    #[error("{applied} of {expected} relocations were applied")]
    Unaccounted {
        /// Relocations of the module.
        expected: usize,
        /// Relocations applied.
        applied: usize,
    },
}

/// A reference without a value.
#[derive(Debug, Error)]
#[error("{reference} cannot be bound: {reason}")]
pub struct Unresolved {
    /// The reference.
    pub reference: Reference,
    /// Why, from [`crate::Resolve`].
    pub reason: ResolveError,
}

fn list(items: &[impl fmt::Display]) -> String {
    const SHOWN: usize = 32;
    let mut lines: Vec<String> = items.iter().take(SHOWN).map(ToString::to_string).collect();
    if items.len() > SHOWN {
        lines.push(format!("and {} more", items.len() - SHOWN));
    }
    lines.join("; ")
}
