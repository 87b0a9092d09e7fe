//! What sections hold.

use object::elf::{self, SectionFlags, SectionType};

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SectionKind {
    /// Instructions.
    Code,
    /// Variables with initial values.
    Data,
    /// Variables that start as zero.
    Zero,
    /// Constants without addresses in them.
    ReadOnly,
    /// Constants with addresses in them, which the dynamic linker fills in (`.data.rel.ro`).
    RelocatedReadOnly,
    /// Texts that the linker may merge.
    Strings,
    /// Constants that the linker may merge.
    Constants,
    /// Thread-local variables.
    Tls,
    /// Addresses of functions that run before `main` or after it.
    Startup,
    /// Call frame information.
    EhFrame,
    /// What an exception does in a function (`.gcc_except_table`).
    ExceptionTable,
    /// Code in a compiler's own form, for optimization at link time.
    LinkTimeCode,
    /// Part of the program in a way that is not understood.
    Other,
    /// Not part of the program in memory, or without meaning for it.
    Ignored,
}

impl SectionKind {
    /// Constants, mergeable or not.
    #[must_use]
    pub(crate) fn is_constant(self) -> bool {
        matches!(
            self,
            Self::ReadOnly | Self::RelocatedReadOnly | Self::Strings | Self::Constants
        )
    }

    /// Variables.
    #[must_use]
    pub(crate) fn is_variable(self) -> bool {
        matches!(self, Self::Data | Self::Zero | Self::Tls)
    }

    pub(super) fn of(name: &str, kind: SectionType, flags: SectionFlags) -> Self {
        let has = |flag: SectionFlags| flags.0 & flag.0 != 0;
        let family = |prefix: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if name.starts_with(".gnu.lto_") || name.starts_with(".llvmbc") {
            return Self::LinkTimeCode;
        }
        let for_tools = name.starts_with(".note") || name == "__patchable_function_entries";
        if !has(elf::SHF_ALLOC) || kind == elf::SHT_NOTE || for_tools {
            return Self::Ignored;
        }
        if family(".eh_frame") {
            return Self::EhFrame;
        }
        if family(".gcc_except_table") {
            return Self::ExceptionTable;
        }
        let startup = [
            ".init_array",
            ".fini_array",
            ".preinit_array",
            ".ctors",
            ".dtors",
        ];
        if startup.iter().any(|prefix| family(prefix)) {
            return Self::Startup;
        }
        if has(elf::SHF_TLS) {
            return Self::Tls;
        }
        if has(elf::SHF_EXECINSTR) {
            return Self::Code;
        }
        // A linker set: code looks it up by its start and end, so a new element or a changed
        // one has an effect that no function shows.
        if !name.starts_with('.') {
            return Self::Other;
        }
        // What clang copies into an array whose elements are not all given. It is writable,
        // but nothing else refers to it.
        let copied_from = [".data..Lconstinit", ".bss..Lconstinit"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        match (kind, has(elf::SHF_WRITE)) {
            (elf::SHT_NOBITS, _) if copied_from => Self::RelocatedReadOnly,
            (elf::SHT_NOBITS, _) => Self::Zero,
            (elf::SHT_PROGBITS, true) if family(".data.rel.ro") || copied_from => {
                Self::RelocatedReadOnly
            }
            (elf::SHT_PROGBITS, true) => Self::Data,
            (elf::SHT_PROGBITS, false) if !has(elf::SHF_MERGE) => Self::ReadOnly,
            (elf::SHT_PROGBITS, false) if has(elf::SHF_STRINGS) => Self::Strings,
            (elf::SHT_PROGBITS, false) => Self::Constants,
            (elf::SHT_GROUP, _) => Self::Ignored,
            _ => Self::Other,
        }
    }
}
