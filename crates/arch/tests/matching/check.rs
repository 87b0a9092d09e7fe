//! Every function of an object file must be found in the linked file, and every value must
//! be what its symbol table says.

use std::collections::BTreeMap;

use engraft_arch::matching::{FieldKind, Matched, Mismatch, Pattern, Value};
use iced_x86::{Decoder, DecoderOptions};

use crate::linked_file::{Dynamic, LinkedFile};
use crate::object_file::{Function, ObjectFile, Relocation, Symbol};

/// A function of the object file in the linked file.
pub(crate) struct Found<'a> {
    pub(crate) function: &'a Function,
    pub(crate) address: u64,
    pub(crate) matched: Matched,
}

/// How often which kind of field had which kind of value.
pub(crate) type Seen = BTreeMap<(String, String), usize>;

pub(crate) fn add_seen(seen: &mut Seen, more: Seen) {
    for (what, count) in more {
        *seen.entry(what).or_default() += count;
    }
}

pub(crate) fn find_all<'a>(object: &'a ObjectFile, linked: &LinkedFile) -> Vec<Found<'a>> {
    let mut found = Vec::new();
    for function in &object.functions {
        let addresses = linked.functions(&function.name);
        assert!(!addresses.is_empty(), "{} is not linked", function.name);
        let pattern = Pattern::new(&function.code, &function.fields);
        let mut mismatches: Vec<Mismatch> = Vec::new();
        let before = found.len();
        for &address in addresses {
            let running = linked.bytes(address).expect("code");
            match pattern.match_at(address, running) {
                Ok(matched) => {
                    assert!(pattern.may_match(running), "{}", function.name);
                    found.push(Found {
                        function,
                        address,
                        matched,
                    });
                }
                Err(mismatch) => mismatches.push(mismatch),
            }
        }
        assert!(found.len() > before, "{}: {mismatches:#?}", function.name);
    }
    found
}

pub(crate) fn check_all(object: &ObjectFile, linked: &LinkedFile, found: &[Found<'_>]) -> Seen {
    let mut seen = Seen::new();
    let mut add = |field: String, value: &str| {
        *seen.entry((field, value.to_owned())).or_default() += 1;
    };
    for one in found {
        check_places(one, linked, &mut add);
        let check = Check {
            object,
            linked,
            found,
            one,
        };
        let values: BTreeMap<usize, Value> = one.matched.values.iter().copied().collect();
        assert_eq!(values.len(), one.matched.values.len());
        assert!(
            values
                .keys()
                .all(|index| *index < one.function.fields.len())
        );
        for (index, field) in one.function.fields.iter().enumerate() {
            let relocation = &one.function.relocations[index];
            let value = values.get(&index);
            let name = value.map_or("nothing", |value| {
                check.value(field.kind, relocation, *value)
            });
            add(format!("{:?}", field.kind), name);
        }
    }
    seen
}

fn check_places(one: &Found<'_>, linked: &LinkedFile, add: &mut impl FnMut(String, &str)) {
    let function = one.function;
    let name = &function.name;
    let places = &one.matched.places;
    assert!(places.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{name}");
    for &(offset, address) in places {
        assert!(one.matched.corresponds(offset, address), "{name}");
        let before = &function.code[offset as usize..];
        let ours = Decoder::new(64, before, DecoderOptions::NONE).decode();
        let running = linked.bytes(address).expect("code");
        let theirs = Decoder::new(64, running, DecoderOptions::NONE).decode();
        assert!(
            !ours.is_invalid() && !theirs.is_invalid(),
            "{name}+{offset:#x}"
        );
        if ours.is_jmp_near() && theirs.is_jmp_short()
            || ours.is_jcc_near() && theirs.is_jcc_short()
        {
            let field = function
                .fields
                .iter()
                .find(|field| (offset..offset + ours.len() as u32).contains(&field.offset));
            add(
                field.map_or("None".into(), |field| format!("{:?}", field.kind)),
                "short",
            );
        }
    }
}

struct Check<'a> {
    object: &'a ObjectFile,
    linked: &'a LinkedFile,
    found: &'a [Found<'a>],
    one: &'a Found<'a>,
}

impl Check<'_> {
    fn value(&self, kind: FieldKind, relocation: &Relocation, value: Value) -> &'static str {
        let what = format!(
            "{}+{:#x}: {value:x?}",
            self.one.function.name,
            relocation.offset - self.one.function.start
        );
        let addend = relocation.addend;
        // In a module's block.
        let tls = || self.tls_place(relocation);
        let (name, right) = match value {
            Value::Address(address) => ("Address", self.is_at(relocation, address, kind)),
            Value::Target(address) => ("Target", self.is_symbol(relocation, address)),
            Value::Slot(slot) => ("Slot", self.is_slot_of(relocation, slot)),
            Value::TlsOffset(offset) => {
                let addend = match kind {
                    FieldKind::TlsOffset32
                    | FieldKind::TlsOffset64
                    | FieldKind::TlsBlockOffset32 => addend,
                    _ => 0,
                };
                // Linkers disagree on what they count from in an executable.
                let base = is_named(relocation, "_TLS_MODULE_BASE_") && offset == 0;
                let expected = tls().map(|place| self.linked.tls_offset(place));
                ("TlsOffset", base || expected == Some(offset - addend))
            }
            Value::TlsSlot(slot) => {
                let right = match (self.linked.dynamic(slot), tls()) {
                    (Some(dynamic), _) if dynamic.number == 18 => self.is_tls(relocation, dynamic),
                    (None, Some(place)) => {
                        self.linked.word(slot).cast_signed() == self.linked.tls_offset(place)
                    }
                    _ => false,
                };
                ("TlsSlot", right)
            }
            Value::TlsIndex(pair) => ("TlsIndex", self.is_index_of(relocation, pair)),
            Value::TlsModule(pair) => {
                let module = self.linked.dynamic(pair).map(|dynamic| dynamic.number);
                (
                    "TlsModule",
                    module == Some(16) && self.linked.word(pair + 8) == 0,
                )
            }
            Value::TlsBlockOffset(offset) => (
                "TlsBlockOffset",
                tls().map(u64::cast_signed) == Some(offset - addend),
            ),
            Value::TlsOffsetOrBlockOffset(offset) => {
                let place = tls().unwrap_or_default();
                let offset = offset - addend;
                let right =
                    offset == place.cast_signed() || offset == self.linked.tls_offset(place);
                ("TlsOffsetOrBlockOffset", right)
            }
            Value::TlsDescriptor(pair) => {
                let right = self.linked.dynamic(pair).is_some_and(|dynamic| {
                    dynamic.number == 36 && self.is_tls(relocation, dynamic)
                });
                ("TlsDescriptor", right)
            }
        };
        assert!(
            right,
            "{what} ({kind:?}): {:x?} + {addend}",
            relocation.symbol
        );
        name
    }

    /// Whether the field's address is the symbol's plus the addend.
    fn is_at(&self, relocation: &Relocation, address: u64, kind: FieldKind) -> bool {
        match &relocation.symbol {
            Symbol::Named(_) => {
                self.is_symbol(relocation, address.wrapping_add_signed(-relocation.addend))
            }
            // A pc-relative field counts from itself, the instruction from its end.
            Symbol::Place(section, place) => {
                let tail = match kind {
                    FieldKind::Relative32 => self.tail(relocation),
                    _ => 0,
                };
                let place = place.wrapping_add_signed(relocation.addend + tail);
                self.is_place(*section, place, address.wrapping_add_signed(tail))
            }
        }
    }

    fn tail(&self, relocation: &Relocation) -> i64 {
        let function = self.one.function;
        let offset = (relocation.offset - function.start) as u32;
        let places = &self.one.matched.places;
        let place = places[places.partition_point(|place| place.0 <= offset) - 1].0;
        let code = &function.code[place as usize..];
        let length = Decoder::new(64, code, DecoderOptions::NONE).decode().len();
        i64::from(place) + length as i64 - i64::from(offset)
    }

    fn is_symbol(&self, relocation: &Relocation, address: u64) -> bool {
        match &relocation.symbol {
            Symbol::Named(name) => self.is_named_symbol(name, address),
            Symbol::Place(section, place) => self.is_place(*section, *place, address),
        }
    }

    fn is_named_symbol(&self, name: &str, address: u64) -> bool {
        let symbols = self.linked.symbols(name);
        // Undefined and weak.
        if symbols.contains(&address) || address == 0 && symbols.is_empty() {
            return true;
        }
        let slot = self.linked.plt_slot(address);
        let dynamic = slot.and_then(|slot| self.linked.dynamic(slot));
        dynamic.is_some_and(|dynamic| {
            dynamic.name == name || symbols.contains(&dynamic.addend.cast_unsigned())
        })
    }

    /// Whether what is at a place of the object file is at an address.
    fn is_place(&self, section: usize, place: u64, address: u64) -> bool {
        let contents = &self.object.sections[&section];
        if contents.is_text {
            return self.found.iter().any(|found| {
                let function = found.function;
                let offset = place.wrapping_sub(function.start);
                function.section == section
                    && offset <= function.code.len() as u64
                    && found.matched.corresponds(offset as u32, address)
            });
        }
        if let Some(definition) = self.object.definition_at(section, place) {
            let start = address.wrapping_sub(place - definition.start);
            return self.linked.symbols(&definition.name).contains(&start);
        }
        let (Some(ours), Some(theirs)) = (
            contents.bytes.get(place as usize..),
            self.linked.bytes(address),
        ) else {
            return false;
        };
        if contents.is_strings {
            let end = ours.iter().position(|byte| *byte == 0).expect("a string");
            return theirs.starts_with(&ours[..=end]);
        }
        self.is_jump_table(section, place, address)
            .unwrap_or_else(|| theirs.starts_with(&ours[..ours.len().min(4)]))
    }

    /// Compares the entries of a jump table; `None` if there is none.
    fn is_jump_table(&self, section: usize, place: u64, address: u64) -> Option<bool> {
        let relocations = &self.object.sections[&section].relocations;
        let position = relocations
            .binary_search_by_key(&place, |entry| entry.offset)
            .ok()?;
        let function = self.one.function;
        let mut right = true;
        let wide = relocations[position].addend == 0
            || relocations
                .get(position + 1)
                .is_none_or(|next| next.offset == place + 8);
        let size = if wide { 8 } else { 4 };
        // Another table may follow.
        let others = function
            .relocations
            .iter()
            .filter_map(|other| match other.symbol {
                Symbol::Place(with, start) if with == section => {
                    Some(start.wrapping_add_signed(other.addend + self.tail(other)))
                }
                _ => None,
            });
        let end = others
            .filter(|other| *other > place)
            .min()
            .unwrap_or(u64::MAX);
        for (number, entry) in relocations[position..].iter().enumerate() {
            let distance = number as u64 * size;
            if place + distance >= end {
                break;
            }
            let Symbol::Place(text, start) = entry.symbol else {
                break;
            };
            if text != function.section || entry.offset != place + distance {
                break;
            }
            let bytes = self.linked.bytes(address + distance)?;
            let (offset, target) = if wide {
                let dynamic = self.linked.dynamic(address + distance);
                let word = self.linked.word(address + distance);
                let target = dynamic.map_or(word, |dynamic| dynamic.addend.cast_unsigned());
                (start.wrapping_add_signed(entry.addend), target)
            } else {
                let difference = i32::from_le_bytes(bytes[..4].try_into().unwrap());
                let addend = entry.addend - distance.cast_signed();
                let target = address.wrapping_add_signed(i64::from(difference));
                (start.wrapping_add_signed(addend), target)
            };
            right &= self
                .one
                .matched
                .corresponds((offset - function.start) as u32, target);
        }
        Some(right)
    }

    fn is_slot_of(&self, relocation: &Relocation, slot: u64) -> bool {
        match self.linked.dynamic(slot) {
            Some(dynamic) if matches!(dynamic.number, 1 | 6 | 7) => {
                is_named(relocation, &dynamic.name)
            }
            Some(dynamic) if matches!(dynamic.number, 8 | 37) => {
                self.is_symbol(relocation, dynamic.addend.cast_unsigned())
            }
            Some(_) => false,
            None => self.is_symbol(relocation, self.linked.word(slot)),
        }
    }

    fn is_index_of(&self, relocation: &Relocation, pair: u64) -> bool {
        let Some(module) = self.linked.dynamic(pair) else {
            return false;
        };
        let own = match self.linked.dynamic(pair + 8) {
            Some(offset) => offset.number == 17 && self.is_tls(relocation, offset),
            None => self.tls_place(relocation) == Some(self.linked.word(pair + 8)),
        };
        module.number == 16 && own
    }

    /// Whether the dynamic linker looks for the relocation's symbol.
    fn is_tls(&self, relocation: &Relocation, dynamic: &Dynamic) -> bool {
        let start = match dynamic.name.as_str() {
            "" => Some(0),
            name => self.linked.symbols(name).first().copied(),
        };
        let place = start.map(|start| start.wrapping_add_signed(dynamic.addend));
        is_named(relocation, &dynamic.name) || place == self.tls_place(relocation)
    }

    /// Where the relocation's symbol is in its module's block.
    fn tls_place(&self, relocation: &Relocation) -> Option<u64> {
        match &relocation.symbol {
            Symbol::Named(name) if name == "_TLS_MODULE_BASE_" => Some(0),
            Symbol::Named(name) => self.linked.symbols(name).first().copied(),
            Symbol::Place(section, place) => {
                let definition = self.object.definition_at(*section, *place)?;
                let start = self.linked.symbols(&definition.name).first()?;
                Some(start + place - definition.start)
            }
        }
    }
}

fn is_named(relocation: &Relocation, name: &str) -> bool {
    matches!(&relocation.symbol, Symbol::Named(own) if own == name)
}
