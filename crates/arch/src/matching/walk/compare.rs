//! One instruction of the object file against what is at one place of the program.

use iced_x86::{Code, FlowControl, Instruction};

use super::{Link, Walk};
use crate::decode::{MAX_INSTRUCTION, decode_one, direct_target};
use crate::matching::field::{FieldKind, Value};
use crate::matching::matched::Exit;
use crate::matching::mismatch::Difference;
use crate::matching::padding::{nop_length, prefixes, segment_prefixes};
use crate::matching::pattern::{Form, Step};
use crate::matching::relaxed::{RelaxedCall, relaxed_call, relaxed_slot};
use crate::matching::tls_base::TlsBase;

/// What the program has for an instruction.
pub(super) struct Found {
    pub(super) length: usize,
    /// It stands for the object file's next instruction, too.
    pub(super) replaces_next: bool,
}

impl From<usize> for Found {
    fn from(length: usize) -> Self {
        Self {
            length,
            replaces_next: false,
        }
    }
}

impl Walk<'_> {
    pub(super) fn compare(&mut self, step: &Step) -> Result<Found, Difference> {
        if let Form::Unmatchable(reason) = step.form {
            return Err(reason);
        }
        if self.rest().is_empty() {
            return Err(Difference::RunningEnds);
        }
        match step.form {
            Form::Branch { .. } | Form::Exit { .. } | Form::FieldBranch => {
                self.compare_branch(step)
            }
            Form::Reference { distance, to } => {
                let length = self.equal_length(step, Some(distance))?;
                let target = self.decode()?.ip_rel_memory_address();
                self.add_link(step, to, target);
                Ok(length.into())
            }
            Form::Slot(kind) => self.compare_slot(step, kind),
            Form::TlsCall(kind, length) => self.compare_call(step, kind, length),
            _ => self.compare_equal(step),
        }
    }

    fn compare_equal(&mut self, step: &Step) -> Result<Found, Difference> {
        let length = self.equal_length(step, None)?;
        self.read_values(step, length);
        Ok(length.into())
    }

    fn compare_branch(&mut self, step: &Step) -> Result<Found, Difference> {
        let running = self.decode()?;
        let target = direct_target(&running);
        let (Some(target), Some(before)) = (target, self.pattern.instruction(step)) else {
            return Err(Difference::Instruction);
        };
        let ours = form_of(&before, self.pattern.bytes(step));
        if ours != form_of(&running, self.rest()) {
            return Err(Difference::Instruction);
        }
        match step.form {
            Form::Branch { to } => self.add_link(step, to, target),
            Form::Exit { to } => self.matched.exits.push(Exit {
                from: (step.offset, self.here()),
                to,
                target,
            }),
            // The field ends the instruction, and the addend includes its length.
            _ => self.add_value(step, Value::Address(target.wrapping_sub(4))),
        }
        Ok(running.len().into())
    }

    fn compare_slot(&mut self, step: &Step, kind: FieldKind) -> Result<Found, Difference> {
        let asks = matches!(kind, FieldKind::TlsDescriptor | FieldKind::TlsModule);
        let reason = match self.compare_equal(step) {
            Ok(found) => {
                if asks {
                    self.tls_base.add(TlsBase::Block);
                }
                return Ok(found);
            }
            Err(reason) => reason,
        };
        let running = self.decode()?;
        let before = self.pattern.instruction(step).ok_or(reason)?;
        let value = relaxed_slot(kind, &before, &running).ok_or(reason)?;
        // Linkers fill what a shorter instruction leaves.
        let beside = self.at > self.matched.length || self.has_nop_behind(running.len());
        if running.len() != step.length && !beside {
            return Err(reason);
        }
        self.add_value(step, value);
        // No variable is there: it is the base from which others are counted.
        if asks && value == Value::TlsOffset(0) {
            self.tls_base.add(TlsBase::ThreadPointer);
        }
        Ok(running.len().into())
    }

    fn has_nop_behind(&self, length: usize) -> bool {
        nop_length(&self.rest()[length..]) > 0
    }

    fn compare_call(
        &mut self,
        step: &Step,
        kind: FieldKind,
        length: usize,
    ) -> Result<Found, Difference> {
        let reason = match self.compare_slot(step, kind) {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        let code = self.rest().get(..length).ok_or(reason)?;
        match relaxed_call(kind, code, self.here()).ok_or(reason)? {
            RelaxedCall::Variable(value) => self.add_value(step, value),
            RelaxedCall::Base(base) => self.tls_base.add(base),
        }
        Ok(Found {
            length,
            replaces_next: true,
        })
    }

    fn decode(&self) -> Result<Instruction, Difference> {
        let reason = match self.rest().len() < MAX_INSTRUCTION {
            true => Difference::RunningEnds,
            false => Difference::RunningUndecodable,
        };
        decode_one(self.here(), self.rest()).ok_or(reason)
    }

    /// Length in the program of an instruction that has the same bytes there, except for
    /// fields, segment prefixes that come to the same, and a distance.
    fn equal_length(&self, step: &Step, distance: Option<usize>) -> Result<usize, Difference> {
        let (ours, theirs) = self.equal_prefixes(step);
        let before = &self.pattern.bytes(step)[ours..];
        let found = &self.rest()[theirs..];
        let mut from = 0;
        let fields = self.pattern.fields_of(step);
        let holes = fields.map(|(_, field, at)| (at, field.kind.size()));
        for (at, size) in holes.chain(distance.map(|at| (at, 4))) {
            let at = at - ours;
            self.check_bytes(&before[from..at], found.get(from..at))?;
            from = at + size;
        }
        self.check_bytes(&before[from..], found.get(from..before.len()))?;
        Ok(theirs + before.len())
    }

    fn check_bytes(&self, before: &[u8], found: Option<&[u8]>) -> Result<(), Difference> {
        if found == Some(before) {
            return Ok(());
        }
        self.decode().and(Err(Difference::Instruction))
    }

    /// Lengths of an instruction's segment prefixes in the object file and in the program, if
    /// they come to the same.
    fn equal_prefixes(&self, step: &Step) -> (usize, usize) {
        let (before, found) = (self.pattern.bytes(step), self.rest());
        if step.flow != FlowControl::Next || found.starts_with(before) {
            return (0, 0);
        }
        let (ours, theirs) = (segment_prefixes(before), segment_prefixes(found));
        if ours.1 == theirs.1 {
            (ours.0, theirs.0)
        } else {
            (0, 0)
        }
    }

    /// Reads the fields of an instruction that has this length in the program.
    fn read_values(&mut self, step: &Step, length: usize) {
        // Only prefixes make a difference, and they come first.
        let moved = length.wrapping_sub(step.length);
        let end = self.here().wrapping_add(length as u64);
        for (index, field, at) in self.pattern.fields_of(step) {
            let at = at.wrapping_add(moved);
            let contents = self.rest().get(at..at + field.kind.size());
            let address = self.here().wrapping_add(at as u64);
            let value = contents.and_then(|contents| field.kind.read(contents, address, end));
            let values = &mut self.matched.values;
            values.extend(value.map(|value| (index, value)));
        }
    }

    /// What the only field of an instruction refers to.
    fn add_value(&mut self, step: &Step, value: Value) {
        let field = self.pattern.fields_of(step).next();
        let values = &mut self.matched.values;
        values.extend(field.map(|(index, ..)| (index, value)));
    }

    fn add_link(&mut self, step: &Step, to: u32, target: u64) {
        self.links.push(Link {
            from: (step.offset, self.here()),
            to,
            target,
        });
    }
}

/// What a direct branch does, whatever its length: prefixes and operation.
fn form_of<'a>(branch: &Instruction, bytes: &'a [u8]) -> (&'a [u8], Code) {
    let mut near = *branch;
    near.as_near_branch();
    (&bytes[..prefixes(bytes)], near.code())
}
