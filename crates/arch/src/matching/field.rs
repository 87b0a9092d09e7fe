//! Relocated fields, and what they turn out to refer to.

/// A relocation of the object file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Distance of the field from the function's start in the object file.
    pub offset: u32,
    /// How the field is computed.
    pub kind: FieldKind,
}

/// How a relocated field is computed (x86-64 psABI, "Relocation Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
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
    /// R_X86_64_TPOFF32.
    TlsOffset32,
    /// R_X86_64_TPOFF64.
    TlsOffset64,
    /// R_X86_64_GOTTPOFF.
    TlsSlot,
    /// R_X86_64_TLSGD, the first of two fields.
    TlsIndex,
    /// R_X86_64_TLSLD, the first of two fields.
    TlsModule,
    /// R_X86_64_DTPOFF32.
    TlsBlockOffset32,
    /// R_X86_64_GOTPC32_TLSDESC.
    TlsDescriptor,
    /// R_X86_64_TLSDESC_CALL, which marks an instruction and has no bytes.
    TlsDescriptorCall,
}

impl Field {
    pub(super) fn end(self) -> u64 {
        u64::from(self.offset) + self.kind.size() as u64
    }
}

impl FieldKind {
    /// The kind with this number in the object file. `None` for relocations that do not
    /// occur in code, except that of the large code model.
    #[must_use]
    pub fn from_raw(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Absolute64,
            2 | 4 => Self::Relative32,
            9 | 41 | 42 => Self::Slot,
            10 => Self::Absolute32,
            11 => Self::Absolute32Signed,
            18 => Self::TlsOffset64,
            19 => Self::TlsIndex,
            20 => Self::TlsModule,
            21 => Self::TlsBlockOffset32,
            22 => Self::TlsSlot,
            23 => Self::TlsOffset32,
            24 => Self::Relative64,
            34 => Self::TlsDescriptor,
            35 => Self::TlsDescriptorCall,
            _ => return None,
        })
    }

    /// Length of the field in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Absolute64 | Self::Relative64 | Self::TlsOffset64 => 8,
            Self::TlsDescriptorCall => 0,
            _ => 4,
        }
    }

    /// Whether the field is the distance of a GOT slot from the end of the instruction.
    pub(super) fn is_slot(self) -> bool {
        matches!(
            self,
            Self::Slot | Self::TlsSlot | Self::TlsIndex | Self::TlsModule | Self::TlsDescriptor
        )
    }

    /// What a field at `address` with these contents refers to, in an instruction that ends
    /// at `end`. `None` for [`FieldKind::TlsDescriptorCall`].
    pub(super) fn read(self, contents: &[u8], address: u64, end: u64) -> Option<Value> {
        let long = || contents.try_into().ok().map(i64::from_le_bytes);
        let short = || contents.try_into().ok().map(i32::from_le_bytes);
        let signed = || short().map(i64::from);
        Some(match self {
            Self::Absolute64 => Value::Address(long()?.cast_unsigned()),
            Self::Absolute32 => Value::Address(u64::from(short()?.cast_unsigned())),
            Self::Absolute32Signed => Value::Address(signed()?.cast_unsigned()),
            Self::Relative32 => Value::Address(address.wrapping_add_signed(signed()?)),
            Self::Relative64 => Value::Address(address.wrapping_add_signed(long()?)),
            Self::Slot => Value::Slot(end.wrapping_add_signed(signed()?)),
            Self::TlsOffset32 => Value::TlsOffset(signed()?),
            Self::TlsOffset64 => Value::TlsOffset(long()?),
            Self::TlsSlot => Value::TlsSlot(end.wrapping_add_signed(signed()?)),
            Self::TlsIndex => Value::TlsIndex(end.wrapping_add_signed(signed()?)),
            Self::TlsModule => Value::TlsModule(end.wrapping_add_signed(signed()?)),
            Self::TlsBlockOffset32 => Value::TlsBlockOffset(signed()?),
            Self::TlsDescriptor => Value::TlsDescriptor(end.wrapping_add_signed(signed()?)),
            Self::TlsDescriptorCall => return None,
        })
    }
}

/// What a relocated field refers to in the program. S is the address of the relocation's
/// symbol and A its addend, as the psABI calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// S + A. Subtract the addend as it is in the object file (-4 in most calls and
    /// pc-relative accesses) to get S. S may be the address of a PLT entry that stands in
    /// for the symbol.
    Address(u64),
    /// S itself, where the linker replaced the access through a GOT slot.
    Target(u64),
    /// Address of the 8-byte GOT slot that contains S.
    Slot(u64),
    /// Distance of the thread-local variable S from the thread pointer; plus A if the
    /// field's kind is [`FieldKind::TlsOffset32`], [`FieldKind::TlsOffset64`] or
    /// [`FieldKind::TlsBlockOffset32`]. The linkers' own symbol `_TLS_MODULE_BASE_` is 0 or
    /// the block's start, as the linker likes it.
    TlsOffset(i64),
    /// Address of the 8-byte GOT slot that contains S's distance from the thread pointer.
    TlsSlot(u64),
    /// Address of the 16 bytes that `__tls_get_addr` takes for S: number of the module,
    /// S's distance from the start of the module's block.
    TlsIndex(u64),
    /// Address of the 16 bytes that `__tls_get_addr` takes for the start of the block of
    /// the module that contains the code: its number, 0.
    TlsModule(u64),
    /// Distance of S from the start of its module's block, plus A.
    TlsBlockOffset(i64),
    /// [`Value::TlsBlockOffset`], or, in executables by most linkers, [`Value::TlsOffset`]:
    /// the code does not tell which.
    TlsOffsetOrBlockOffset(i64),
    /// Address of the 16-byte descriptor of S.
    TlsDescriptor(u64),
}
