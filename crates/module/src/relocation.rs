//! Relocations: which kinds there are, and which are refused (x86-64 psABI, "Relocation").

use crate::FaultKind;

/// One relocation of a section that becomes part of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Position in [`crate::PatchModule::sections`].
    pub section: usize,
    /// Distance of the relocated field from the section's start; the field lies inside.
    pub offset: u64,
    /// How the field is computed.
    pub kind: RelocationKind,
    /// Index into [`crate::PatchModule::symbols`].
    pub symbol: usize,
    /// Addend.
    pub addend: i64,
    /// The field is the target of a call or jump: a stub may stand in for the symbol.
    pub call: bool,
    /// The field is that of an instruction that only computes the symbol's address: a load from
    /// a slot may stand in for it.
    pub address_only: bool,
}

/// How a relocated field is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelocationKind {
    /// R_X86_64_NONE.
    None,
    /// R_X86_64_64.
    Absolute64,
    /// R_X86_64_32.
    Absolute32,
    /// R_X86_64_32S.
    Absolute32Signed,
    /// R_X86_64_PC32, R_X86_64_PLT32.
    Relative32,
    /// R_X86_64_PC64.
    Relative64,
    /// R_X86_64_GOTPCREL, R_X86_64_GOTPCRELX, R_X86_64_REX_GOTPCRELX.
    Slot,
    /// R_X86_64_GOTTPOFF.
    TlsSlot,
    /// R_X86_64_TPOFF32.
    TlsOffset32,
    /// R_X86_64_TLSGD, the first of two.
    TlsGeneralDynamic,
    /// The call of `__tls_get_addr` that follows it; relocated together with it.
    TlsGetAddr,
    /// R_X86_64_GOTPC32_TLSDESC.
    TlsDescriptor,
    /// R_X86_64_TLSDESC_CALL.
    TlsDescriptorCall,
}

/// What a slot in the read-only region holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SlotKind {
    Address,
    TlsOffset,
    /// Two words, the argument of `__tls_get_addr`.
    TlsIndex,
}

impl SlotKind {
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::TlsIndex => 16,
            Self::Address | Self::TlsOffset => 8,
        }
    }
}

impl RelocationKind {
    /// Bytes before and after the offset that the relocation reads or writes.
    pub(crate) fn extent(self) -> (u64, u64) {
        match self {
            Self::None => (0, 0),
            Self::Absolute64 | Self::Relative64 => (0, 8),
            Self::TlsGeneralDynamic => (4, 12),
            Self::TlsDescriptor => (3, 4),
            Self::TlsDescriptorCall => (0, 2),
            _ => (0, 4),
        }
    }

    /// The slot that it needs.
    pub(crate) fn slot(self) -> Option<SlotKind> {
        match self {
            Self::Slot => Some(SlotKind::Address),
            Self::TlsSlot => Some(SlotKind::TlsOffset),
            Self::TlsGeneralDynamic => Some(SlotKind::TlsIndex),
            _ => None,
        }
    }

    /// Its symbol must be a thread-local variable.
    pub(crate) fn is_thread_local(self) -> bool {
        matches!(
            self,
            Self::TlsSlot
                | Self::TlsOffset32
                | Self::TlsGeneralDynamic
                | Self::TlsGetAddr
                | Self::TlsDescriptor
                | Self::TlsDescriptorCall
        )
    }

    /// The kind with this number, and whether it is meant for calls.
    pub(crate) fn decode(number: u32) -> Result<(Self, bool), FaultKind> {
        let kind = match number {
            0 => Self::None,
            1 => Self::Absolute64,
            2 => Self::Relative32,
            4 => return Ok((Self::Relative32, true)),
            9 | 41 | 42 => Self::Slot,
            10 => Self::Absolute32,
            11 => Self::Absolute32Signed,
            19 => Self::TlsGeneralDynamic,
            22 => Self::TlsSlot,
            23 => Self::TlsOffset32,
            24 => Self::Relative64,
            34 => Self::TlsDescriptor,
            35 => Self::TlsDescriptorCall,
            _ => return Err(refuse(number)),
        };
        Ok((kind, false))
    }
}

fn refuse(number: u32) -> FaultKind {
    const LARGE: &str = "compile without -mcmodel=medium or large";
    const LINKED: &str = "only linked files have it";
    const NARROW: &str = "an address does not fit into so few bits";
    const LOCAL_TLS: &str =
        "it belongs to a new thread-local variable; use a shadow variable (klp_shadow_alloc)";
    const LATER: &str = "compile without -mapxf";
    let (name, reason) = match number {
        3 => ("R_X86_64_GOT32", LARGE),
        5 => ("R_X86_64_COPY", LINKED),
        6 => ("R_X86_64_GLOB_DAT", LINKED),
        7 => ("R_X86_64_JUMP_SLOT", LINKED),
        8 => ("R_X86_64_RELATIVE", LINKED),
        12 => ("R_X86_64_16", NARROW),
        13 => ("R_X86_64_PC16", NARROW),
        14 => ("R_X86_64_8", NARROW),
        15 => ("R_X86_64_PC8", NARROW),
        16 => ("R_X86_64_DTPMOD64", LINKED),
        17 => ("R_X86_64_DTPOFF64", LOCAL_TLS),
        18 => ("R_X86_64_TPOFF64", LINKED),
        20 => ("R_X86_64_TLSLD", LOCAL_TLS),
        21 => ("R_X86_64_DTPOFF32", LOCAL_TLS),
        25 => ("R_X86_64_GOTOFF64", LARGE),
        26 => ("R_X86_64_GOTPC32", LARGE),
        27 => ("R_X86_64_GOT64", LARGE),
        28 => ("R_X86_64_GOTPCREL64", LARGE),
        29 => ("R_X86_64_GOTPC64", LARGE),
        30 => ("R_X86_64_GOTPLT64", LARGE),
        31 => ("R_X86_64_PLTOFF64", LARGE),
        32 => ("R_X86_64_SIZE32", "sizes of foreign symbols are not bound"),
        33 => ("R_X86_64_SIZE64", "sizes of foreign symbols are not bound"),
        36 => ("R_X86_64_TLSDESC", LINKED),
        37 => ("R_X86_64_IRELATIVE", LINKED),
        38 => ("R_X86_64_RELATIVE64", LINKED),
        43..=51 => ("R_X86_64_CODE_*", LATER),
        _ => ("of unknown type", "recompile for x86-64"),
    };
    FaultKind::Unsupported {
        number,
        name,
        reason,
    }
}
