//! Applying relocations (x86-64 psABI, "Relocation Types").

use std::collections::BTreeMap;

use super::values::{Value, Values};
use crate::layout::STUB_SIZE;
use crate::relocation::SlotKind;
use crate::{
    Contents, Definition, Fault, FaultKind, IfuncFixup, Layout, LinkErrorKind, LinkedBinding,
    PatchModule, Placement, Region, Relocation, RelocationKind, tls,
};

/// What fills the gaps between functions: a trap.
const CODE_FILLER: u8 = 0xcc;
/// `jmp *slot(%rip)`, up to the distance.
const INDIRECT_JUMP: [u8; 2] = [0xff, 0x25];
const STUB_PADDING: [u8; 2] = [0x66, 0x90];

/// The relocated bytes.
pub(super) struct Applied {
    pub(super) text: Vec<u8>,
    pub(super) read_only: Vec<u8>,
    pub(super) data: Vec<u8>,
    pub(super) ifuncs: Vec<IfuncFixup>,
    pub(super) bindings: Vec<LinkedBinding>,
    pub(super) fixed: Vec<String>,
    pub(super) relocations: usize,
}

struct Linker<'a> {
    module: &'a PatchModule,
    layout: &'a Layout,
    placement: &'a Placement,
    values: &'a Values,
    ifuncs: BTreeMap<u64, IfuncFixup>,
    applied: Applied,
}

impl Applied {
    pub(super) fn apply(
        module: &PatchModule,
        layout: &Layout,
        placement: &Placement,
        values: &Values,
    ) -> Result<Self, LinkErrorKind> {
        let mut linker = Linker {
            module,
            layout,
            placement,
            values,
            ifuncs: BTreeMap::new(),
            applied: Self {
                text: vec![CODE_FILLER; layout.text.size as usize],
                read_only: vec![0; layout.read_only.size as usize],
                data: vec![0; layout.data.size as usize],
                ifuncs: Vec::new(),
                bindings: Vec::new(),
                fixed: Vec::new(),
                relocations: 0,
            },
        };
        linker.copy_sections();
        linker.fill_slots();
        linker.write_stubs();
        linker.apply_relocations()?;
        let mut applied = linker.applied;
        applied.ifuncs = linker.ifuncs.into_values().collect();
        applied.fixed.sort_unstable();
        applied.fixed.dedup();
        Ok(applied)
    }

    fn region(&mut self, region: Region) -> &mut [u8] {
        match region {
            Region::Text => &mut self.text,
            Region::ReadOnly => &mut self.read_only,
            Region::Data => &mut self.data,
        }
    }
}

impl Linker<'_> {
    fn copy_sections(&mut self) {
        let sections = self.module.sections.iter().zip(&self.layout.sections);
        for (section, &offset) in sections {
            let start = offset as usize;
            let room = &mut self.applied.region(section.region)[start..];
            match &section.contents {
                Contents::Bytes(bytes) => room[..bytes.len()].copy_from_slice(bytes),
                Contents::Zero(size) => room[..*size as usize].fill(0),
            }
        }
    }

    fn fill_slots(&mut self) {
        let mut get_addr = 0u64;
        for (&(symbol, kind), &offset) in &self.layout.slots {
            if kind == SlotKind::Address {
                let place = self.placement.read_only + offset;
                self.add_binding(symbol, place, 0, Region::ReadOnly);
            } else {
                self.note_fixed(symbol);
            }
            let word = match (kind, self.values.get(symbol)) {
                (SlotKind::Address, Value::Address(address)) => address,
                (SlotKind::TlsOffset, Value::TlsOffset(distance)) => distance.cast_unsigned(),
                (SlotKind::TlsIndex, Value::TlsIndex(index)) => {
                    write(
                        &mut self.applied.read_only,
                        offset as usize + 8,
                        &index.offset.to_le_bytes(),
                    );
                    get_addr = index.get_addr;
                    index.module
                }
                (SlotKind::Address, Value::Ifunc(resolver)) => {
                    self.add_ifunc(self.placement.read_only + offset, symbol, resolver, 0);
                    0
                }
                // Absent symbols stay zero; mismatches fail at the relocation that needs them.
                _ => 0,
            };
            write(
                &mut self.applied.read_only,
                offset as usize,
                &word.to_le_bytes(),
            );
        }
        if let Some((_, slot)) = self.layout.get_addr {
            write(
                &mut self.applied.read_only,
                slot as usize,
                &get_addr.to_le_bytes(),
            );
        }
    }

    fn write_stubs(&mut self) {
        let of_symbols = self.layout.stubs.iter().map(|(symbol, stub)| {
            let slot = self.layout.slots[&(*symbol, SlotKind::Address)];
            (*stub, slot)
        });
        for (offset, slot) in of_symbols.chain(self.layout.get_addr) {
            let next = self.placement.text + offset + 6;
            let distance = (self.placement.read_only + slot).wrapping_sub(next) as u32;
            let mut stub = [0; STUB_SIZE as usize];
            stub[..2].copy_from_slice(&INDIRECT_JUMP);
            stub[2..6].copy_from_slice(&distance.to_le_bytes());
            stub[6..].copy_from_slice(&STUB_PADDING);
            write(&mut self.applied.text, offset as usize, &stub);
        }
    }

    fn apply_relocations(&mut self) -> Result<(), LinkErrorKind> {
        let mut faults = Vec::new();
        for relocation in &self.module.relocations {
            match self.apply_one(relocation) {
                Ok(()) => self.applied.relocations += 1,
                Err(kind) => faults.push(self.describe(relocation, kind)),
            }
        }
        if !faults.is_empty() {
            return Err(LinkErrorKind::Faults(faults));
        }
        let expected = self.module.relocations.len();
        let applied = self.applied.relocations;
        if applied != expected {
            return Err(LinkErrorKind::Unaccounted { expected, applied });
        }
        Ok(())
    }

    fn apply_one(&mut self, relocation: &Relocation) -> Result<(), FaultKind> {
        let value = self.values.get(relocation.symbol);
        let thread_local = matches!(value, Value::TlsOffset(_) | Value::TlsIndex(_));
        let absent = value == Value::Absent;
        if relocation.kind == RelocationKind::None {
            return Ok(());
        }
        if !absent && relocation.kind.is_thread_local() != thread_local {
            return Err(FaultKind::ThreadLocalMismatch);
        }
        if self.library_of(relocation.symbol).is_some() && relocation.kind.is_thread_local() {
            self.note_fixed(relocation.symbol);
        }
        match relocation.kind {
            RelocationKind::None => Ok(()),
            RelocationKind::TlsGeneralDynamic if matches!(value, Value::TlsIndex(_)) => {
                self.apply_tls_index(relocation)
            }
            RelocationKind::TlsGetAddr => Ok(()),
            kind if kind.is_thread_local() && matches!(value, Value::TlsIndex(_)) => {
                Err(FaultKind::DynamicTls)
            }
            RelocationKind::Slot | RelocationKind::TlsSlot => self.apply_slot(relocation),
            kind if kind.is_thread_local() => self.apply_thread_local(relocation, value),
            _ if relocation.call => self.apply_call(relocation, value),
            _ if self.library_of(relocation.symbol).is_some()
                && relocation.address_only
                && self
                    .layout
                    .slots
                    .contains_key(&(relocation.symbol, SlotKind::Address)) =>
            {
                self.load_slot(relocation)
            }
            RelocationKind::Absolute64 if self.library_of(relocation.symbol).is_some() => {
                let (region, _) = self.field(relocation);
                let place = self.place(relocation);
                self.add_binding(relocation.symbol, place, relocation.addend, region);
                if absent {
                    self.clear_field(relocation);
                    return Ok(());
                }
                self.apply_address(relocation, value)
            }
            _ if absent => {
                self.note_fixed(relocation.symbol);
                self.clear_field(relocation);
                Ok(())
            }
            _ if relocation.address_only => self.apply_address_only(relocation, value),
            _ => {
                self.note_fixed(relocation.symbol);
                self.apply_address(relocation, value)
            }
        }
    }

    /// The library that a symbol is looked for in, if it is one.
    fn library_of(&self, symbol: usize) -> Option<&str> {
        match &self.module.symbols[symbol].definition {
            Definition::Undefined(reference) => self.module.object_of(reference),
            _ => None,
        }
    }

    fn add_binding(&mut self, symbol: usize, place: u64, addend: i64, region: Region) {
        let module = self.module;
        if let Definition::Undefined(reference) = &module.symbols[symbol].definition
            && let Some(object) = module.object_of(reference)
        {
            self.applied.bindings.push(LinkedBinding {
                object: object.to_owned(),
                name: reference.name.clone(),
                sympos: reference.sympos,
                place,
                addend,
                region,
            });
        }
    }

    /// Notes that a symbol of a library is referred to where it lies now.
    fn note_fixed(&mut self, symbol: usize) {
        if let Some(object) = self.library_of(symbol).map(str::to_owned) {
            self.applied.fixed.push(object);
        }
    }

    fn apply_slot(&mut self, relocation: &Relocation) -> Result<(), FaultKind> {
        let kind = match relocation.kind {
            RelocationKind::TlsSlot => SlotKind::TlsOffset,
            _ => SlotKind::Address,
        };
        let offset = self.layout.slots[&(relocation.symbol, kind)];
        let target = (self.placement.read_only + offset).wrapping_add_signed(relocation.addend);
        self.write_distance(relocation, target)
    }

    /// The access stays as it is: it asks `__tls_get_addr`.
    fn apply_tls_index(&mut self, relocation: &Relocation) -> Result<(), FaultKind> {
        let slot = self.layout.slots[&(relocation.symbol, SlotKind::TlsIndex)];
        let index = self.placement.read_only + slot;
        // A module with such an access has the stub.
        let (stub, _) = self.layout.get_addr.ok_or(FaultKind::TlsSequence)?;
        let stub = self.placement.text + stub;
        let place = self.place(relocation);
        let distance = |from: u64, to: u64| {
            let distance = i32::try_from(i128::from(to) - i128::from(from));
            distance.map_err(|_| FaultKind::OutOfReach {
                place: from,
                target: to,
            })
        };
        let load = distance(place + 4, index)?;
        let call = distance(place + tls::GENERAL_DYNAMIC_END, stub)?;
        let (region, field) = self.field(relocation);
        tls::keep_general_dynamic(self.applied.region(region), field, load, call);
        Ok(())
    }

    fn apply_thread_local(
        &mut self,
        relocation: &Relocation,
        value: Value,
    ) -> Result<(), FaultKind> {
        // An absent variable gets distance 0 until its object is there.
        let distance = match value {
            Value::TlsOffset(distance) => distance,
            _ => 0,
        };
        let offset = tls::field_offset(relocation, distance)
            .ok_or(FaultKind::TooWide(distance.cast_unsigned()))?;
        let (region, field) = self.field(relocation);
        let bytes = self.applied.region(region);
        match relocation.kind {
            RelocationKind::TlsGeneralDynamic => tls::relax_general_dynamic(bytes, field, offset),
            RelocationKind::TlsDescriptor => tls::relax_descriptor(bytes, field, offset),
            RelocationKind::TlsDescriptorCall => tls::relax_descriptor_call(bytes, field),
            _ => write(bytes, field, &offset.to_le_bytes()),
        }
        Ok(())
    }

    /// Branches go straight to what they reach, and through the symbol's stub otherwise.
    fn apply_call(&mut self, relocation: &Relocation, value: Value) -> Result<(), FaultKind> {
        let stub = self.layout.stubs.get(&relocation.symbol);
        let stub = stub.map(|offset| self.placement.text + offset);
        let through_stub = self.library_of(relocation.symbol).is_some();
        if let Some(stub) = stub.filter(|_| through_stub && relocation.addend == -4) {
            return self.write_distance(relocation, stub.wrapping_sub(4));
        }
        self.note_fixed(relocation.symbol);
        let direct = match value {
            Value::Address(address) => Some(address.wrapping_add_signed(relocation.addend)),
            _ => None,
        };
        let direct_result = direct.map(|target| self.write_distance(relocation, target));
        match (direct_result, stub) {
            (Some(Ok(())), _) => Ok(()),
            // A stub stands for the function's entry only.
            (_, Some(stub)) if relocation.addend == -4 => {
                self.write_distance(relocation, stub.wrapping_sub(4))
            }
            (Some(Err(fault)), _) => Err(fault),
            (None, _) if value == Value::Absent => {
                self.clear_field(relocation);
                Ok(())
            }
            (None, _) => Err(FaultKind::IfuncAddress),
        }
    }

    /// `lea symbol(%rip), register` becomes `mov slot(%rip), register` where the symbol is out of
    /// reach: the linker's relaxation (psABI, "Optimize GOTPCRELX relocations") the other way.
    fn apply_address_only(
        &mut self,
        relocation: &Relocation,
        value: Value,
    ) -> Result<(), FaultKind> {
        let direct = self.apply_address(relocation, value);
        let slot = (relocation.symbol, SlotKind::Address);
        if direct.is_ok() || !self.layout.slots.contains_key(&slot) {
            self.note_fixed(relocation.symbol);
            return direct;
        }
        self.load_slot(relocation)
    }

    fn load_slot(&mut self, relocation: &Relocation) -> Result<(), FaultKind> {
        const LOAD: u8 = 0x8b;
        let slot = self.layout.slots[&(relocation.symbol, SlotKind::Address)];
        let target = (self.placement.read_only + slot).wrapping_add_signed(relocation.addend);
        self.write_distance(relocation, target)?;
        let (region, field) = self.field(relocation);
        write(self.applied.region(region), field - 2, &[LOAD]);
        Ok(())
    }

    fn apply_address(&mut self, relocation: &Relocation, value: Value) -> Result<(), FaultKind> {
        let address = match value {
            Value::Address(address) => address,
            Value::Ifunc(resolver) if relocation.kind == RelocationKind::Absolute64 => {
                let place = self.place(relocation);
                self.add_ifunc(place, relocation.symbol, resolver, relocation.addend);
                self.clear_field(relocation);
                return Ok(());
            }
            _ => return Err(FaultKind::IfuncAddress),
        };
        let target = address.wrapping_add_signed(relocation.addend);
        match relocation.kind {
            RelocationKind::Absolute64 => self.write_field(relocation, &target.to_le_bytes()),
            RelocationKind::Relative64 => {
                let distance = target.wrapping_sub(self.place(relocation));
                self.write_field(relocation, &distance.to_le_bytes());
            }
            RelocationKind::Absolute32 => {
                let word = u32::try_from(target).map_err(|_| FaultKind::TooWide(target))?;
                self.write_field(relocation, &word.to_le_bytes());
            }
            RelocationKind::Absolute32Signed => {
                let word = i32::try_from(target.cast_signed());
                let word = word.map_err(|_| FaultKind::TooWide(target))?;
                self.write_field(relocation, &word.to_le_bytes());
            }
            _ => return self.write_distance(relocation, target),
        }
        Ok(())
    }

    fn write_distance(&mut self, relocation: &Relocation, target: u64) -> Result<(), FaultKind> {
        let place = self.place(relocation);
        let distance = i128::from(target) - i128::from(place);
        let word = i32::try_from(distance).map_err(|_| FaultKind::OutOfReach { place, target })?;
        self.write_field(relocation, &word.to_le_bytes());
        Ok(())
    }

    fn clear_field(&mut self, relocation: &Relocation) {
        let (_, width) = relocation.kind.extent();
        self.write_field(relocation, &[0; 8][..width as usize]);
    }

    fn write_field(&mut self, relocation: &Relocation, bytes: &[u8]) {
        let (region, field) = self.field(relocation);
        write(self.applied.region(region), field, bytes);
    }

    /// Region and offset of the relocated field in it.
    fn field(&self, relocation: &Relocation) -> (Region, usize) {
        let start = self.layout.sections[relocation.section];
        let region = self.module.sections[relocation.section].region;
        (region, (start + relocation.offset) as usize)
    }

    fn place(&self, relocation: &Relocation) -> u64 {
        let (region, field) = self.field(relocation);
        self.placement.address(region) + field as u64
    }

    fn add_ifunc(&mut self, address: u64, symbol: usize, resolver: u64, addend: i64) {
        let fixup = IfuncFixup {
            name: self.module.symbols[symbol].name.clone(),
            address,
            resolver,
            addend,
        };
        self.ifuncs.insert(address, fixup);
    }

    fn describe(&self, relocation: &Relocation, kind: FaultKind) -> Fault {
        Fault {
            section: self.module.sections[relocation.section].name.clone(),
            offset: relocation.offset,
            symbol: self.module.symbols[relocation.symbol].name.clone(),
            kind,
        }
    }
}

fn write(region: &mut [u8], offset: usize, bytes: &[u8]) {
    region[offset..offset + bytes.len()].copy_from_slice(bytes);
}
