//! One function at one address: does its code match, do its exception table and the constants
//! that it uses, and what do its references lead to?

mod exceptions;

use std::collections::{BTreeMap, HashSet};

use engraft_arch::decode::instruction_length;
use engraft_arch::matching::{Field, FieldKind, Matched, Pattern, Value};
use engraft_module::{PreRelocation, PreSymbolKind};

use super::claim::Claim;
use super::names::check_name;
use super::pre::{Constant, PreCodeOf, PreIndex, SymbolId, Target, entry_size, relocations_in};
use super::program::{Binding, Found, Program};
use super::reason::Reason;

/// The relocation of calls.
const R_X86_64_PLT32: u32 = 4;

/// Bytes of a constant that a message shows.
const SHOWN: usize = 16;

/// A function that matches, and what that says of others.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) address: u64,
    pub(super) matched: Matched,
    pub(super) claims: BTreeMap<SymbolId, Claim>,
    pub(super) labels: Vec<Label>,
}

/// A reference into the inside of a function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    pub(super) function: SymbolId,
    /// Distance from the function's start in the pre-patch code.
    pub(super) offset: u64,
    /// Where it leads in the program.
    pub(super) address: u64,
    /// Where the reference is.
    pub(super) at: u64,
}

/// Where a reference is, and what for.
#[derive(Clone, Copy)]
struct Use {
    at: u64,
    only_called: bool,
}

impl Use {
    fn of(at: u64) -> Self {
        Self {
            at,
            only_called: false,
        }
    }

    fn call(at: u64) -> Self {
        Self {
            at,
            only_called: true,
        }
    }
}

/// A function's code, prepared for comparisons at many addresses.
pub(super) struct Prepared<'a> {
    code: &'a PreCodeOf<'a>,
    pattern: Pattern<'a>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(code: &'a PreCodeOf<'a>, fields: &'a [Field]) -> Self {
        Self {
            code,
            pattern: Pattern::new(code.bytes, fields),
        }
    }

    /// `false` if the function is certainly not at this place.
    pub(super) fn may_match(&self, running: &[u8]) -> bool {
        self.pattern.may_match(running)
    }

    /// Compares function `id` with what is at `address`.
    pub(super) fn compare(
        &self,
        pre: &PreIndex<'_>,
        program: &Program<'_>,
        id: SymbolId,
        address: u64,
    ) -> Result<Comparison, Reason> {
        let running = program
            .code_from(address)
            .ok_or(Reason::OutsideCode(address))?;
        let matched = self.pattern.match_at(address, running)?;
        check_name(program, pre.symbol(id), address)?;
        let mut comparer = Comparer {
            pre,
            program,
            claims: BTreeMap::new(),
            labels: Vec::new(),
            pending: Vec::new(),
            seen: HashSet::new(),
        };
        for (position, value) in &matched.values {
            let relocation = &self.code.relocations[*position];
            comparer.look_at_value(self.code, &matched, relocation, *value)?;
        }
        for exit in &matched.exits {
            let target = pre.exit_target(self.code, exit.to);
            comparer.refer_to(target, 0, exit.target, Use::call(exit.from.1))?;
        }
        comparer.compare_exceptions(id, address, &matched)?;
        while let Some((constant, at)) = comparer.pending.pop() {
            comparer.compare_constant(constant, at)?;
        }
        Ok(Comparison {
            address,
            claims: comparer.claims,
            labels: comparer.labels,
            matched,
        })
    }
}

struct Comparer<'a> {
    pre: &'a PreIndex<'a>,
    program: &'a Program<'a>,
    claims: BTreeMap<SymbolId, Claim>,
    labels: Vec<Label>,
    /// Constants to be compared, with their addresses.
    pending: Vec<(Constant, u64)>,
    seen: HashSet<(Constant, u64)>,
}

impl Comparer<'_> {
    fn look_at_value(
        &mut self,
        code: &PreCodeOf<'_>,
        matched: &Matched,
        relocation: &PreRelocation,
        value: Value,
    ) -> Result<(), Reason> {
        let offset = relocation.offset - code.start as u32;
        let place = matched.places.partition_point(|place| place.0 <= offset);
        let (start, at) = place
            .checked_sub(1)
            .and_then(|place| matched.places.get(place).copied())
            .unwrap_or_default();
        let id = self.pre.canonical(relocation.symbol);
        let symbol = self.pre.symbol(id);
        let addend = relocation.addend;
        let program = self.program;
        let binding = match value {
            Value::Address(value) => {
                // Relative fields count from themselves, instructions from their end.
                let behind = match FieldKind::from_raw(relocation.kind) {
                    Some(FieldKind::Relative32 | FieldKind::Relative64) => {
                        let length = instruction_length(&code.bytes[start as usize..]);
                        i64::from(start) + length.unwrap_or(0) as i64 - i64::from(offset)
                    }
                    _ => 0,
                };
                let reach = value.wrapping_add_signed(behind);
                let only_called = relocation.kind == R_X86_64_PLT32;
                let use_at = Use { at, only_called };
                let distance = addend.wrapping_add(behind);
                return self.refer(relocation.symbol, distance, reach, use_at);
            }
            Value::Target(value) => return self.refer(relocation.symbol, 0, value, Use::of(at)),
            Value::Slot(slot) => program.read_slot(symbol, slot)?,
            Value::TlsSlot(slot) => program.read_tls_slot(symbol, slot)?,
            Value::TlsIndex(pair) => program.read_tls_index(symbol, pair)?,
            Value::TlsDescriptor(descriptor) => program.read_tls_descriptor(symbol, descriptor)?,
            Value::TlsOffset(offset) => {
                let addend = if is_offset(relocation.kind) {
                    addend
                } else {
                    0
                };
                Binding::direct(Found::Tls(offset.wrapping_sub(addend)))
            }
            Value::TlsBlockOffset(offset) => {
                Binding::direct(program.own_tls(offset.wrapping_sub(addend)))
            }
            Value::TlsOffsetOrBlockOffset(offset) => {
                let offset = offset.wrapping_sub(addend);
                Binding::direct(if program.object.is_main {
                    Found::Tls(offset)
                } else {
                    program.own_tls(offset)
                })
            }
            // The own block's start, which is no symbol.
            Value::TlsModule(_) => return Ok(()),
        };
        self.claim(id, binding, at)
    }

    /// A reference to what is `distance` bytes behind a symbol, which leads to `reach`.
    fn refer(
        &mut self,
        symbol: SymbolId,
        distance: i64,
        reach: u64,
        use_at: Use,
    ) -> Result<(), Reason> {
        let target = self.pre.target(symbol, distance);
        self.refer_to(target, distance, reach, use_at)
    }

    /// A reference that leads to `target` in the pre-patch code, and to `reach`.
    fn refer_to(
        &mut self,
        target: Target,
        distance: i64,
        reach: u64,
        use_at: Use,
    ) -> Result<(), Reason> {
        let Use { at, only_called } = use_at;
        match target {
            Target::Symbol(id) => {
                let start = reach.wrapping_sub_signed(distance);
                let binding = self
                    .program
                    .follow(self.pre.symbol(id), start, only_called)?;
                self.claim(id, binding, at)
            }
            Target::Code(id, 0) => {
                let binding = self
                    .program
                    .follow(self.pre.symbol(id), reach, only_called)?;
                self.claim(id, binding, at)
            }
            Target::Code(function, offset) => {
                self.labels.push(Label {
                    function,
                    offset,
                    address: reach,
                    at,
                });
                Ok(())
            }
            Target::Constant { constant, distance } => {
                self.use_constant(constant, reach.wrapping_sub_signed(distance), at)
            }
            Target::Text { section, offset } => self.compare_text(section, offset, reach, at),
            Target::Nothing => Err(Reason::Malformed),
        }
    }

    fn use_constant(&mut self, constant: Constant, address: u64, at: u64) -> Result<(), Reason> {
        if let Some(id) = constant.symbol {
            self.claim(id, Binding::direct(Found::Address(address)), at)?;
        }
        if self.seen.insert((constant, address)) {
            self.pending.push((constant, address));
        }
        Ok(())
    }

    fn claim(&mut self, id: SymbolId, binding: Binding, at: u64) -> Result<(), Reason> {
        let symbol = self.pre.symbol(id);
        if symbol.kind == PreSymbolKind::Section && symbol.place.is_none() {
            // The start of data that has no name of its own.
            return Ok(());
        }
        let claim = Claim { binding, at };
        if let Some(known) = self.claims.get_mut(&id) {
            *known = known.agree(&claim, &symbol.name)?;
            return Ok(());
        }
        if let (Found::Address(address), false) = (binding.found, binding.by_name) {
            check_name(self.program, symbol, address)?;
        }
        self.claims.insert(id, claim);
        Ok(())
    }

    fn compare_text(&self, section: u32, offset: u64, address: u64, at: u64) -> Result<(), Reason> {
        let section = &self.pre.object.sections[section as usize];
        let rest = &section.bytes[offset as usize..];
        // Wide characters end with a zero as wide as they are.
        let width = entry_size(&section.name, ".str").unwrap_or(1) as usize;
        let end = rest
            .chunks(width)
            .position(|unit| unit.iter().all(|byte| *byte == 0))
            .map_or(rest.len(), |position| (position + 1) * width);
        let expected = &rest[..end.min(rest.len())];
        let found = self.program.read_data(address, expected.len())?;
        if found == expected {
            return Ok(());
        }
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0);
            String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
        };
        Err(Reason::Text {
            expected: text(expected),
            found: text(&found),
            at,
        })
    }

    /// Compares a constant's bytes, and follows the references in it.
    fn compare_constant(&mut self, constant: Constant, address: u64) -> Result<(), Reason> {
        let section = &self.pre.object.sections[constant.section as usize];
        let expected = &section.bytes[constant.start as usize..constant.end as usize];
        let found = self.program.read_data(address, expected.len())?;
        let mut fixed = vec![true; expected.len()];
        for relocation in relocations_in(section, constant.start, constant.end) {
            let offset = (u64::from(relocation.offset) - constant.start) as usize;
            let size = FieldKind::from_raw(relocation.kind)
                .ok_or(Reason::UnknownRelocation(relocation.kind))?
                .size();
            let field = found.get(offset..offset + size).ok_or(Reason::Malformed)?;
            self.follow_field(relocation, field, address, offset as u64)?;
            fixed[offset..offset + size].fill(false);
        }
        let zeros = expected.iter().zip(&fixed).rev();
        let zeros = zeros
            .take_while(|(byte, fixed)| **fixed && **byte == 0)
            .count();
        let filler = zeros.saturating_sub(1).min(constant.filler as usize);
        let compared = expected.len() - filler;
        let differs = (0..compared).find(|at| fixed[*at] && expected[*at] != found[*at]);
        let Some(offset) = differs else {
            return Ok(());
        };
        let shown = |bytes: &[u8]| bytes[offset..compared.min(offset + SHOWN)].to_vec();
        Err(Reason::Constant {
            name: match constant.symbol {
                Some(id) => self.pre.symbol(id).name.clone(),
                None => format!("in {}", section.name),
            },
            offset: offset as u64,
            address,
            expected: shown(expected),
            found: shown(&found),
        })
    }

    /// A relocated field of a constant that lies at `address`.
    fn follow_field(
        &mut self,
        relocation: &PreRelocation,
        field: &[u8],
        address: u64,
        offset: u64,
    ) -> Result<(), Reason> {
        let at = address.wrapping_add(offset);
        let symbol = relocation.symbol;
        let addend = relocation.addend;
        let unknown = Reason::UnknownRelocation(relocation.kind);
        match (FieldKind::from_raw(relocation.kind), field) {
            (Some(FieldKind::Absolute64), _) => self.follow_pointer(symbol, addend, at),
            (Some(FieldKind::Absolute32), &[a, b, c, d]) => {
                let value = u64::from(u32::from_le_bytes([a, b, c, d]));
                self.refer(symbol, addend, value, Use::of(at))
            }
            (Some(FieldKind::Absolute32Signed), &[a, b, c, d]) => {
                let value = i64::from(i32::from_le_bytes([a, b, c, d]));
                self.refer(symbol, addend, value.cast_unsigned(), Use::of(at))
            }
            (Some(FieldKind::Relative32), &[a, b, c, d]) => {
                let value = i64::from(i32::from_le_bytes([a, b, c, d]));
                self.follow_relative(symbol, addend, at.wrapping_add_signed(value), at, offset)
            }
            _ => Err(unknown),
        }
    }

    /// A pointer, which the dynamic linker may have filled in.
    fn follow_pointer(&mut self, symbol: SymbolId, addend: i64, at: u64) -> Result<(), Reason> {
        match self.pre.target(symbol, addend) {
            Target::Symbol(id) | Target::Code(id, 0) => {
                let from = self.pre.symbol(id);
                let binding = self.program.follow_pointer(from, at, addend)?;
                self.claim(id, binding, at)
            }
            _ => {
                let word = self.program.read_data(at, 8)?;
                let (words, _) = word.as_chunks::<8>();
                let value = words.first().map_or(0, |word| u64::from_le_bytes(*word));
                self.refer(symbol, addend, value, Use::of(at))
            }
        }
    }

    /// A distance in a table, from the table's start as in jump tables, or from the field
    /// itself. The assembler turns the former into the latter.
    fn follow_relative(
        &mut self,
        symbol: SymbolId,
        addend: i64,
        reach: u64,
        at: u64,
        offset: u64,
    ) -> Result<(), Reason> {
        let from_start = addend.wrapping_sub(offset.cast_signed());
        let reach_from_start = reach.wrapping_sub(offset);
        match self.pre.target(symbol, from_start) {
            Target::Nothing => self.refer(symbol, addend, reach, Use::of(at)),
            Target::Text { .. } => self
                .refer(symbol, from_start, reach_from_start, Use::of(at))
                .or_else(|reason| {
                    self.refer(symbol, addend, reach, Use::of(at))
                        .map_err(|_| reason)
                }),
            _ => self.refer(symbol, from_start, reach_from_start, Use::of(at)),
        }
    }
}

/// The kinds whose fields hold the sum of a distance and the addend.
fn is_offset(kind: u32) -> bool {
    matches!(
        FieldKind::from_raw(kind),
        Some(FieldKind::TlsOffset32 | FieldKind::TlsOffset64 | FieldKind::TlsBlockOffset32)
    )
}
