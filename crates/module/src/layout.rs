//! Where the sections, slots and stubs of a module go within its three regions.

use std::collections::BTreeMap;

use crate::relocation::SlotKind;
use crate::{
    Contents, Definition, PatchModule, Region, Relocation, RelocationKind, Symbol, SymbolKind,
};

/// Length of a stub: `jmp *slot(%rip)` and two bytes of padding.
pub(crate) const STUB_SIZE: u64 = 8;
/// The zero word that ends .eh_frame (LSB, "The .eh_frame section").
const TERMINATOR_SIZE: u64 = 4;

/// Room that a region needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Length in bytes, possibly 0.
    pub size: u64,
    /// What its address must be a multiple of; a power of two, at most 4096.
    pub alignment: u64,
}

/// Addresses chosen for the three regions. They must be aligned as [`Layout`] asks, must not
/// overlap, and must lie within 2 GiB of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Address of the executable region.
    pub text: u64,
    /// Address of the read-only region.
    pub read_only: u64,
    /// Address of the writable region.
    pub data: u64,
}

impl Placement {
    /// Address of `region`.
    #[must_use]
    pub fn address(&self, region: Region) -> u64 {
        match region {
            Region::Text => self.text,
            Region::ReadOnly => self.read_only,
            Region::Data => self.data,
        }
    }
}

/// The inner arrangement of a module, the same for every placement and however its references
/// are resolved.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Code and stubs.
    pub text: Room,
    /// Constants, unwind information, slots for addresses.
    pub read_only: Room,
    /// Variables, parameters, `__this_module`.
    pub data: Room,
    /// Offset of each of [`PatchModule::sections`] in its region.
    pub(crate) sections: Vec<u64>,
    /// Offset of each slot in the read-only region.
    pub(crate) slots: BTreeMap<(usize, SlotKind), u64>,
    /// Offset of each symbol's stub in the executable region.
    pub(crate) stubs: BTreeMap<usize, u64>,
    /// Offsets of the stub of `__tls_get_addr`, the last one, and of its slot.
    pub(crate) get_addr: Option<(u64, u64)>,
    /// Offset of the first stub.
    pub(crate) stubs_start: u64,
    /// Start and end of .eh_frame with its terminator in the read-only region.
    pub(crate) eh_frame: Option<(u64, u64)>,
}

impl Layout {
    /// Arranges the sections of `module` and all the slots and stubs that it may need.
    #[must_use]
    pub fn of(module: &PatchModule) -> Self {
        let mut layout = Self {
            text: EMPTY,
            read_only: EMPTY,
            data: EMPTY,
            sections: vec![0; module.sections.len()],
            slots: BTreeMap::new(),
            stubs: BTreeMap::new(),
            get_addr: None,
            stubs_start: 0,
            eh_frame: None,
        };
        layout.place_sections(module);
        layout.place_eh_frame(module);
        layout.place_stubs(module);
        layout.place_slots(module);
        layout
    }

    /// Room that `region` needs.
    #[must_use]
    pub fn room(&self, region: Region) -> Room {
        match region {
            Region::Text => self.text,
            Region::ReadOnly => self.read_only,
            Region::Data => self.data,
        }
    }

    /// Length of all stubs.
    pub(crate) fn stubs_size(&self) -> u64 {
        (self.stubs.len() + usize::from(self.get_addr.is_some())) as u64 * STUB_SIZE
    }

    fn room_mut(&mut self, region: Region) -> &mut Room {
        match region {
            Region::Text => &mut self.text,
            Region::ReadOnly => &mut self.read_only,
            Region::Data => &mut self.data,
        }
    }

    /// Sections with contents first: what is zero needs no bytes written.
    fn place_sections(&mut self, module: &PatchModule) {
        for zero in [false, true] {
            for (index, section) in module.sections.iter().enumerate() {
                let is_zero = matches!(section.contents, Contents::Zero(_));
                if is_zero == zero && section.name != EH_FRAME {
                    let room = self.room_mut(section.region);
                    self.sections[index] = room.take(section.size(), section.alignment);
                }
            }
        }
    }

    /// Without gaps: padding would read as the terminator.
    fn place_eh_frame(&mut self, module: &PatchModule) {
        let mut start = None;
        for (index, section) in module.sections.iter().enumerate() {
            if section.name == EH_FRAME {
                let alignment = start.map_or(section.alignment, |_| 1);
                let offset = self.read_only.take(section.size(), alignment);
                self.sections[index] = offset;
                start.get_or_insert(offset);
            }
        }
        if let Some(start) = start {
            let end = self.read_only.take(TERMINATOR_SIZE, 1) + TERMINATOR_SIZE;
            self.eh_frame = Some((start, end));
        }
    }

    fn place_stubs(&mut self, module: &PatchModule) {
        self.stubs_start = self.text.take(0, STUB_SIZE);
        for relocation in &module.relocations {
            let foreign = is_foreign(&module.symbols[relocation.symbol]);
            if foreign && relocation.call && !self.stubs.contains_key(&relocation.symbol) {
                let offset = self.text.take(STUB_SIZE, STUB_SIZE);
                self.stubs.insert(relocation.symbol, offset);
                self.add_slot(relocation.symbol, SlotKind::Address);
            }
        }
        let asks = |relocation: &Relocation| relocation.kind == RelocationKind::TlsGeneralDynamic;
        if module.relocations.iter().any(asks) {
            let stub = self.text.take(STUB_SIZE, STUB_SIZE);
            let size = SlotKind::Address.size();
            self.get_addr = Some((stub, self.read_only.take(size, size)));
        }
    }

    fn place_slots(&mut self, module: &PatchModule) {
        for relocation in &module.relocations {
            let symbol = &module.symbols[relocation.symbol];
            if let Some(kind) = relocation.kind.slot() {
                self.add_slot(relocation.symbol, kind);
            } else if relocation.address_only && is_foreign(symbol) {
                self.add_slot(relocation.symbol, SlotKind::Address);
            }
        }
    }

    fn add_slot(&mut self, symbol: usize, kind: SlotKind) {
        let read_only = &mut self.read_only;
        let place = || read_only.take(kind.size(), kind.size());
        self.slots.entry((symbol, kind)).or_insert_with(place);
    }
}

/// Whether a symbol may lie anywhere.
fn is_foreign(symbol: &Symbol) -> bool {
    matches!(symbol.definition, Definition::Undefined(_)) || symbol.kind == SymbolKind::Ifunc
}

/// Name of the section with unwind information.
pub(crate) const EH_FRAME: &str = ".eh_frame";

const EMPTY: Room = Room {
    size: 0,
    alignment: 1,
};

impl Room {
    /// Appends `size` bytes and returns their offset. The limits of `parse` rule out overflow.
    fn take(&mut self, size: u64, alignment: u64) -> u64 {
        let offset = self.size.next_multiple_of(alignment);
        self.alignment = self.alignment.max(alignment);
        self.size = offset + size;
        offset
    }
}
