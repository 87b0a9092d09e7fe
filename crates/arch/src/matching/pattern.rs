//! A function of the object file, prepared for comparisons with many places of a program.

use std::ops::Range;

use iced_x86::{Code, ConstantOffsets, FlowControl, Instruction, Register};

use super::field::{Field, FieldKind};
use super::matched::Matched;
use super::mismatch::{Difference, Mismatch};
use super::padding::{INT3, nop_length, segment_prefixes};
use super::prefix::Prefix;
use super::walk;
use crate::decode::{decode_one, decode_with_constants, direct_target};

/// What `call rel32` begins with.
const CALL: u8 = 0xe8;

/// A function of the object file, decoded once.
#[derive(Clone, Debug)]
pub struct Pattern<'a> {
    pub(super) before: &'a [u8],
    pub(super) fields: &'a [Field],
    /// Positions in `fields`, by offset.
    order: Vec<u32>,
    pub(super) steps: Vec<Step>,
    prefix: Prefix,
}

/// One instruction of the object file.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) offset: u32,
    pub(super) length: usize,
    /// Its fields, as a part of [`Pattern::order`].
    fields: Range<usize>,
    pub(super) form: Form,
    /// What the instruction does to the flow of control.
    pub(super) flow: FlowControl,
}

/// How an instruction is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Equal bytes outside the fields.
    Same,
    /// The same, and the linker may have replaced the access through a slot.
    Slot(FieldKind),
    /// `call *(%rax)`, or a nop.
    TlsDescriptorCall,
    /// A call for a thread-local variable's address, of which this is the first instruction;
    /// the length is that of both.
    TlsCall(FieldKind, usize),
    /// Equal bytes outside the distance, which begins at this byte; it refers to the offset
    /// `to` in the function.
    Reference { distance: usize, to: u32 },
    /// Direct jump, branch or call within the function.
    Branch { to: u32 },
    /// Direct jump, branch or call without a field to what is so far from the function's start,
    /// outside of it: the assembler resolves what stays in a section.
    Exit { to: i64 },
    /// Direct jump, branch or call with a field.
    FieldBranch,
    /// Nop.
    Padding,
    /// `int3`.
    Trap,
    /// Never equal to anything.
    Unmatchable(Difference),
}

impl<'a> Pattern<'a> {
    /// Prepares a function's code, whose relocations are `fields` in any order.
    #[must_use]
    pub fn new(before: &'a [u8], fields: &'a [Field]) -> Self {
        let mut order: Vec<u32> = (0u32..).take(fields.len()).collect();
        order.sort_by_key(|index| fields[*index as usize].offset);
        let mut pattern = Self {
            before,
            fields,
            order,
            steps: Vec::new(),
            prefix: Prefix::default(),
        };
        pattern.decode();
        pattern.find_calls_for_tls();
        pattern.prefix = pattern.find_prefix();
        pattern
    }

    /// Quick answer for a search: `false` if the program's code `running` is certainly not
    /// this function. `true` promises nothing.
    #[must_use]
    pub fn may_match(&self, running: &[u8]) -> bool {
        let Some(differs) = self.prefix.find_difference(running) else {
            return true;
        };
        // Only what counts for nothing excuses a difference.
        self.prefix.suspects(differs).any(|start| {
            let (before, running) = (&self.before[start..], &running[start..]);
            running.first() == Some(&INT3)
                || nop_length(running) > 0
                || segment_prefixes(running).0 > 0
                || segment_prefixes(before).0 > 0
        })
    }

    /// Compares the function with the program's code at `address`, whose bytes are `running`
    /// as far as they are known.
    ///
    /// # Errors
    ///
    /// As [`super::match_code`].
    pub fn match_at(&self, address: u64, running: &[u8]) -> Result<Matched, Mismatch> {
        walk::walk(self, address, running)
    }

    /// The fields in an instruction: position in the list, and offset from the
    /// instruction's start.
    pub(super) fn fields_of(&self, step: &Step) -> impl Iterator<Item = (usize, Field, usize)> {
        let start = step.offset;
        self.order[step.fields.clone()].iter().map(move |index| {
            let field = self.fields[*index as usize];
            (*index as usize, field, (field.offset - start) as usize)
        })
    }

    pub(super) fn length(&self) -> u32 {
        u32::try_from(self.before.len()).unwrap_or(u32::MAX)
    }

    /// The instruction that begins at an offset.
    pub(super) fn find(&self, offset: u32) -> Option<&Step> {
        let found = self.steps.binary_search_by_key(&offset, |step| step.offset);
        found.ok().map(|position| &self.steps[position])
    }

    pub(super) fn instruction(&self, step: &Step) -> Option<Instruction> {
        decode_one(u64::from(step.offset), self.bytes(step))
    }

    pub(super) fn bytes(&self, step: &Step) -> &'a [u8] {
        let start = step.offset as usize;
        &self.before[start..start + step.length]
    }

    fn decode(&mut self) {
        let (mut offset, mut next) = (0, 0);
        while offset < self.before.len() {
            let rest = &self.before[offset..];
            let Ok(start) = u32::try_from(offset) else {
                self.spoil(Difference::NoCode);
                return;
            };
            let decoded = decode_with_constants(offset as u64, rest);
            let length = decoded.as_ref().map_or(rest.len(), |(it, _)| it.len());
            let first = next;
            while next < self.order.len()
                && u64::from(self.field(next).offset) < (offset + length) as u64
            {
                next += 1;
            }
            let fields: Vec<Field> = (first..next).map(|at| self.field(at)).collect();
            let (form, flow) = match &decoded {
                Some((instruction, constants)) => (
                    self.classify(instruction, constants, &fields),
                    instruction.flow_control(),
                ),
                None => (
                    Form::Unmatchable(Difference::BeforeUndecodable),
                    FlowControl::Exception,
                ),
            };
            self.steps.push(Step {
                offset: start,
                length,
                fields: first..next,
                form,
                flow,
            });
            offset += length;
        }
        if next < self.order.len() {
            self.spoil(Difference::UnfitField);
        }
    }

    fn spoil(&mut self, reason: Difference) {
        if let Some(last) = self.steps.last_mut() {
            last.form = Form::Unmatchable(reason);
        }
    }

    fn field(&self, position: usize) -> Field {
        self.fields[self.order[position] as usize]
    }

    fn classify(
        &self,
        instruction: &Instruction,
        constants: &ConstantOffsets,
        fields: &[Field],
    ) -> Form {
        let start = instruction.ip() as usize;
        let bytes = &self.before[start..start + instruction.len()];
        let fit = |field: &Field| fits(field, start, instruction, constants);
        let disjoint = |pair: &[Field]| pair[0].end() <= u64::from(pair[1].offset);
        if !fields.iter().all(fit) || !fields.windows(2).all(disjoint) {
            return Form::Unmatchable(Difference::UnfitField);
        }
        let inside = |target: u64| {
            let known = target <= self.before.len() as u64;
            u32::try_from(target).ok().filter(|_| known)
        };
        if let Some(target) = direct_target(instruction) {
            return match (fields, inside(target)) {
                ([field], _) if field.kind == FieldKind::Relative32 => Form::FieldBranch,
                ([], Some(to)) => Form::Branch { to },
                ([], None) => Form::Exit {
                    to: target.cast_signed(),
                },
                _ => Form::Unmatchable(Difference::UnfitField),
            };
        }
        match fields {
            [field] if field.kind == FieldKind::TlsDescriptorCall => {
                return Form::TlsDescriptorCall;
            }
            [field] if field.kind.is_slot() => return Form::Slot(field.kind),
            [] if nop_length(bytes) > 0 => return Form::Padding,
            [] if bytes == [INT3] => return Form::Trap,
            _ => {}
        }
        let distance = constants.displacement_offset();
        let relocated = |field: &Field| field.offset as usize == start + distance;
        if instruction.is_ip_rel_memory_operand() && !fields.iter().any(relocated) {
            return match inside(instruction.ip_rel_memory_address()) {
                Some(to) if fields.is_empty() => Form::Reference { distance, to },
                _ => Form::Unmatchable(Difference::LeavesFunction),
            };
        }
        Form::Same
    }

    /// The psABI's sequences of two instructions that linkers know, and replace as a whole.
    fn find_calls_for_tls(&mut self) {
        for first in 0..self.steps.len().saturating_sub(1) {
            let (lea, call) = (&self.steps[first], &self.steps[first + 1]);
            let Form::Slot(kind) = lea.form else {
                continue;
            };
            let is_call = call.form == Form::FieldBranch
                || call.form == Form::Slot(FieldKind::Slot)
                    && call.flow == FlowControl::IndirectCall;
            let known = match kind {
                FieldKind::TlsIndex => matches!(
                    (self.bytes(lea), self.bytes(call)),
                    (
                        [0x66, 0x48, 0x8d, 0x3d, ..],
                        [0x66, 0x66, 0x48, 0xe8, ..] | [0x66, 0x48, 0xff, 0x15, ..]
                    )
                ),
                FieldKind::TlsModule => matches!(
                    (self.bytes(lea), self.bytes(call)),
                    ([0x48, 0x8d, 0x3d, ..], [0xe8, ..] | [0xff, 0x15, ..])
                ),
                _ => false,
            };
            if known && is_call {
                self.steps[first].form = Form::TlsCall(kind, lea.length + call.length);
            }
        }
    }

    /// Collects instructions as long as every program has them at the same distances.
    fn find_prefix(&self) -> Prefix {
        let mut prefix = Prefix::default();
        let mut rewritten = 0;
        for step in &self.steps {
            let end = step.offset as usize + step.length;
            match step.form {
                Form::Same => {}
                // A direct call has one form only.
                Form::FieldBranch if self.bytes(step)[0] == CALL => {}
                Form::Slot(_) => rewritten = rewritten.max(end),
                Form::TlsCall(_, length) => rewritten = step.offset as usize + length,
                _ if end <= rewritten => {}
                _ => break,
            }
            let whole = 0..step.length;
            let fields = self.fields_of(step);
            let variable: Vec<_> = fields
                .map(|(_, field, at)| at..at + field.kind.size())
                .chain((end <= rewritten).then_some(whole))
                .collect();
            if !prefix.push(self.bytes(step), &variable) {
                break;
            }
        }
        prefix
    }
}

/// Whether a relocation is for an operand of the instruction.
fn fits(
    field: &Field,
    start: usize,
    instruction: &Instruction,
    constants: &ConstantOffsets,
) -> bool {
    let at = field.offset as usize - start;
    let size = field.kind.size();
    let displacement = constants.has_displacement()
        && at == constants.displacement_offset()
        && size == constants.displacement_size();
    match field.kind {
        FieldKind::TlsDescriptorCall => {
            at == 0
                && instruction.code() == Code::Call_rm64
                && instruction.memory_base() == Register::RAX
        }
        kind if kind.is_slot() => displacement && instruction.is_ip_rel_memory_operand(),
        _ => {
            let immediate = constants.has_immediate()
                && at == constants.immediate_offset()
                && size == constants.immediate_size();
            displacement || immediate
        }
    }
}
