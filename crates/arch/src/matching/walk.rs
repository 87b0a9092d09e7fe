//! The lockstep walk.

mod compare;

use iced_x86::FlowControl;

use super::matched::Matched;
use super::mismatch::{Difference, Mismatch};
use super::padding::{INT3, nop_length};
use super::pattern::{Form, Pattern, Step};
use super::tls_base::TlsBase;

/// Longest run of padding in the program: the largest alignment that makes sense, a page.
const MAX_PADDING: usize = 4096;

/// Compares all instructions, then where they lead.
pub(super) fn walk(
    pattern: &Pattern<'_>,
    address: u64,
    running: &[u8],
) -> Result<Matched, Mismatch> {
    let mut walk = Walk {
        pattern,
        address,
        running,
        at: 0,
        falls_through: true,
        links: Vec::new(),
        tls_base: TlsBase::Unknown,
        matched: Matched::default(),
    };
    walk.compare_all()?;
    walk.check_links()?;
    for (_, value) in &mut walk.matched.values {
        *value = walk.tls_base.settle(*value);
    }
    Ok(walk.matched)
}

struct Walk<'p> {
    pattern: &'p Pattern<'p>,
    address: u64,
    running: &'p [u8],
    /// Bytes of `running` behind us.
    at: usize,
    /// Control may go on from the last instruction to the next.
    falls_through: bool,
    links: Vec<Link>,
    tls_base: TlsBase,
    matched: Matched,
}

/// A place in the function that an instruction refers to.
struct Link {
    /// The instruction's own place.
    from: (u32, u64),
    /// What it refers to in the object file, and in the program.
    to: u32,
    target: u64,
}

impl<'p> Walk<'p> {
    fn compare_all(&mut self) -> Result<(), Mismatch> {
        let pattern = self.pattern;
        let mut steps = pattern.steps.iter();
        while let Some(step) = steps.next() {
            if self.is_left_out(step) {
                continue;
            }
            self.skip_padding(step);
            let place = (step.offset, self.here());
            let found = self.compare(step);
            let found = found.map_err(|reason| self.mismatch(place, reason))?;
            if found.replaces_next {
                steps.next();
            }
            self.matched.places.push(place);
            self.at += found.length;
            self.matched.length = self.at;
            self.falls_through = match step.flow {
                FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Exception => false,
                FlowControl::Interrupt => self.falls_through,
                _ => true,
            };
        }
        let end = self.address.wrapping_add(self.matched.length as u64);
        self.matched.end = (pattern.length(), end);
        if self.matched.places.is_empty() {
            return Err(self.mismatch((0, self.address), Difference::NoCode));
        }
        Ok(())
    }

    fn here(&self) -> u64 {
        self.address.wrapping_add(self.at as u64)
    }

    fn rest(&self) -> &'p [u8] {
        self.running.get(self.at..).unwrap_or_default()
    }

    fn mismatch(&self, place: (u32, u64), reason: Difference) -> Mismatch {
        let at = place.1.wrapping_sub(self.address) as usize;
        let running = self.running.get(at..).unwrap_or_default();
        let before = self.pattern.find(place.0);
        let before = before.map_or(&[][..], |step| self.pattern.bytes(step));
        Mismatch::new(place, before, running, reason)
    }

    /// Whether the object file's instruction counts for nothing.
    fn is_left_out(&mut self, step: &Step) -> bool {
        let is_nop = match step.form {
            Form::Padding => true,
            Form::TlsDescriptorCall => self.is_removed(step),
            _ => false,
        };
        let unreachable = !self.falls_through && self.rest().first() != Some(&INT3);
        let is_trap = step.form == Form::Trap && unreachable;
        let padding = &mut self.matched.before_padding;
        if is_nop {
            padding.push(step.offset);
        } else if is_trap {
            // Control that arrives at a nop before it does not get any further.
            let last = self.matched.places.last().map_or(0, |place| place.0);
            padding.truncate(padding.partition_point(|nop| *nop < last));
        }
        is_nop || is_trap
    }

    /// Whether the linker put a nop in the place of a call of a TLS descriptor.
    fn is_removed(&self, step: &Step) -> bool {
        let mut rest = self.rest();
        let mut nop = nop_length(rest);
        while nop > 0 {
            rest = &rest[nop..];
            nop = nop_length(rest);
        }
        rest.len() < self.rest().len() && !rest.starts_with(self.pattern.bytes(step))
    }

    /// Leaves out the program's padding before an instruction.
    fn skip_padding(&mut self, step: &Step) {
        let end = self.address.wrapping_add(self.matched.length as u64);
        while self.at - self.matched.length < MAX_PADDING {
            let nop = nop_length(self.rest());
            let is_trap = self.rest().first() == Some(&INT3);
            let padding = &mut self.matched.running_padding;
            if nop > 0 {
                padding.push(self.address.wrapping_add(self.at as u64));
                self.at += nop;
            } else if is_trap && !self.falls_through && step.form != Form::Trap {
                padding.truncate(padding.partition_point(|nop| *nop < end));
                self.at += 1;
            } else {
                break;
            }
        }
    }

    /// Whether what leads to a place in the function leads to the same place in the program.
    fn check_links(&self) -> Result<(), Mismatch> {
        for link in &self.links {
            let same = self.matched.corresponds(link.to, link.target)
                || self.is_same_inside(link.to, link.target);
            if !same {
                let reason = Difference::Destination {
                    before_target: link.to,
                    running_target: link.target,
                };
                return Err(self.mismatch(link.from, reason));
            }
        }
        Ok(())
    }

    /// Whether a place is inside an instruction, such as behind its `lock` prefix, and both
    /// sides have the very same one.
    fn is_same_inside(&self, offset: u32, address: u64) -> bool {
        let places = &self.matched.places;
        let behind = places.partition_point(|place| place.0 < offset);
        let Some(place) = behind.checked_sub(1).map(|last| places[last]) else {
            return false;
        };
        let Some(step) = self.pattern.find(place.0) else {
            return false;
        };
        let bytes = self.pattern.bytes(step);
        let inside = (offset - place.0) as usize;
        let at = place.1.wrapping_sub(self.address) as usize;
        let running = self.running.get(at..);
        step.form == Form::Same
            && inside < bytes.len()
            && address.wrapping_sub(place.1) == inside as u64
            && running.is_some_and(|running| running.starts_with(bytes))
    }
}
