//! Following a stack, frame by frame, to a proven bottom.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use engraft_arch::frame::{FrameBase, FrameLayout, FrameLayouts, Kept, PRESERVED};
use engraft_elf::ReadMemory;
use gimli::UnwindContext;

use crate::call_site::{LONGEST_CALL, ends_with_call};
use crate::cfi::{Description, base_addresses};
use crate::code_map::{Code, CodeObject};
use crate::registers::{
    RBP, RSP, Recovered, dwarf_number, forget_caller_saved, only_stack_pointer,
};
use crate::rules::{Activation, ReturnAddress};
use crate::signal::{is_sigreturn, read_context};
use crate::stack::StackReader;
use crate::thread_exit::{ends_thread, faults_or_ends_thread};
use crate::{
    Alias, Cfi, CodeMap, End, Fixed, FixedBase, Frame, Reason, ReasonKind, Registers, Trace,
};

/// Bytes of code that are looked through for a frame.
const LONGEST_FUNCTION: usize = 1 << 20;

/// Deeper stacks are unreliable: no walk takes longer than this many steps.
pub const MAX_FRAMES: usize = 10_000;

/// Walks stacks of one address space. Keeps what it learned about code from one walk to the
/// next, so use one for all threads; make a new one when code has changed.
pub struct Unwinder<'c> {
    code: &'c CodeMap,
    rows: UnwindContext<usize>,
    call_sites: HashSet<u64>,
    /// By the start of a function without call frame information.
    layouts: HashMap<u64, FrameLayouts>,
}

/// Walks one stack; see [`Unwinder::walk`].
#[must_use]
pub fn walk(code: &CodeMap, memory: &dyn ReadMemory, registers: &Registers) -> Trace {
    Unwinder::new(code).walk(memory, registers)
}

/// A frame before its rules are applied.
struct Cursor {
    pc: u64,
    /// Whether `pc` is about to be executed, rather than returned to.
    exact: bool,
    slot: Option<u64>,
    registers: Recovered,
}

/// What a frame turned out to be.
enum Step {
    Bottom { cfa: Option<u64> },
    Called { cfa: u64, caller: Cursor },
    Interrupted { cfa: u64, interrupted: Cursor },
}

/// Code that unwinds by call frame information.
struct Place<'c> {
    object: &'c CodeObject,
    /// Start of the mapped code that holds the cursor's own pc.
    start: u64,
    /// The address to look up: the original's for a displaced instruction.
    lookup_pc: u64,
}

impl Cursor {
    fn lookup_pc(&self) -> u64 {
        if self.exact {
            self.pc
        } else {
            self.pc.wrapping_sub(1)
        }
    }

    fn rsp(&self) -> Result<u64, ReasonKind> {
        self.registers[RSP].ok_or(ReasonKind::LostRegister(RSP as u16))
    }
}

impl<'c> Unwinder<'c> {
    /// An unwinder over `code`.
    #[must_use]
    pub fn new(code: &'c CodeMap) -> Self {
        Self {
            code,
            rows: UnwindContext::new(),
            call_sites: HashSet::new(),
            layouts: HashMap::new(),
        }
    }

    /// Walks the stack of a thread that is stopped with `registers`, to its bottom or to the
    /// first doubt. `memory` is the thread's address space.
    #[must_use]
    pub fn walk(&mut self, memory: &dyn ReadMemory, registers: &Registers) -> Trace {
        self.walk_from(memory, registers.rip, registers.recovered())
    }

    /// Walks the stack of a thread that is asleep in a system call, of which no other
    /// register is known. The frames it finds are certain; it ends, with
    /// [`ReasonKind::LostRegister`], where another register is needed.
    #[must_use]
    pub fn walk_asleep(&mut self, memory: &dyn ReadMemory, rip: u64, rsp: u64) -> Trace {
        self.walk_from(memory, rip, only_stack_pointer(rsp))
    }

    fn walk_from(&mut self, memory: &dyn ReadMemory, rip: u64, registers: Recovered) -> Trace {
        let mut stack = StackReader::new(memory);
        let mut frames = Vec::new();
        let mut signal_frames = Vec::new();
        let mut cursor = Cursor {
            pc: rip,
            exact: true,
            slot: None,
            registers,
        };
        let kind = loop {
            if frames.len() == MAX_FRAMES {
                break ReasonKind::TooManyFrames;
            }
            let mut frame = self.frame_at(&cursor);
            let step = self.step(&cursor, &mut stack);
            if let Ok(Step::Called { cfa, .. } | Step::Interrupted { cfa, .. }) = &step {
                frame.cfa = Some(*cfa);
            }
            frame.signal_frame = matches!(step, Ok(Step::Interrupted { .. }));
            frames.push(frame);
            cursor = match step {
                Err(kind) => break kind,
                Ok(Step::Bottom { cfa }) => {
                    if let Some(last) = frames.last_mut() {
                        last.cfa = cfa;
                    }
                    return Trace {
                        frames,
                        end: End::Bottom,
                    };
                }
                Ok(Step::Called { caller, .. }) => caller,
                Ok(Step::Interrupted { interrupted, .. }) => {
                    // Only here may the stack pointer fall, so only here can a walk go round.
                    let slot = interrupted.slot.unwrap_or_default();
                    if signal_frames.contains(&slot) {
                        break ReasonKind::Cycle(slot);
                    }
                    signal_frames.push(slot);
                    interrupted
                }
            };
        };
        let end = End::Unreliable(self.reason(cursor.pc, cursor.lookup_pc(), kind));
        Trace { frames, end }
    }

    fn frame_at(&self, cursor: &Cursor) -> Frame {
        let lookup_pc = cursor.lookup_pc();
        let alias_of = match self.code.find(lookup_pc) {
            Some((_, Code::Alias(alias))) => alias.original_of(lookup_pc),
            _ => None,
        };
        Frame {
            pc: cursor.pc,
            lookup_pc,
            alias_of,
            cfa: None,
            signal_frame: false,
            slot: cursor.slot,
        }
    }

    fn reason(&self, pc: u64, lookup_pc: u64, kind: ReasonKind) -> Reason {
        let object = self.code.name_at(lookup_pc).cloned();
        Reason { pc, object, kind }
    }

    fn step(&mut self, cursor: &Cursor, stack: &mut StackReader<'_>) -> Result<Step, ReasonKind> {
        let code = self.code;
        let lookup_pc = cursor.lookup_pc();
        let (range, found) = code.find(lookup_pc).ok_or(ReasonKind::UnknownCode)?;
        let start = range.start;
        match found {
            Code::Fixed(fixed) => self.step_fixed(fixed, cursor, stack),
            Code::Alias(alias) => {
                let place = original_place(code, alias, lookup_pc, start)?;
                self.step_object(&place, cursor, stack)
            }
            Code::Object(object) => {
                let place = Place {
                    object,
                    start,
                    lookup_pc,
                };
                self.step_object(&place, cursor, stack)
            }
        }
    }

    fn step_fixed(
        &mut self,
        fixed: &Fixed,
        cursor: &Cursor,
        stack: &mut StackReader<'_>,
    ) -> Result<Step, ReasonKind> {
        if !self.is_call_site(cursor, fixed.range.start, stack) {
            return Err(ReasonKind::NotAfterCall);
        }
        let layout = fixed
            .layout_at(cursor.lookup_pc())
            .ok_or(ReasonKind::NoFrameDescription)?;
        let rsp = cursor.rsp()?;
        let base = match layout.base {
            FixedBase::Rsp => rsp,
            FixedBase::Rbp => cursor.registers[RBP].ok_or(ReasonKind::LostRegister(RBP as u16))?,
        };
        let cfa = base.wrapping_add(layout.cfa_from_base.into());
        let mut registers = cursor.registers;
        forget_caller_saved(&mut registers);
        if layout.rbp_saved {
            registers[RBP] = Some(stack.word(cfa.wrapping_sub(16))?);
        }
        return_to_caller(rsp, cfa, registers, stack)
    }

    fn step_object(
        &mut self,
        place: &Place<'_>,
        cursor: &Cursor,
        stack: &mut StackReader<'_>,
    ) -> Result<Step, ReasonKind> {
        let cfi = place.object.cfi.as_deref();
        let description = match cfi.map(|cfi| cfi.find(place.lookup_pc)).transpose() {
            Ok(found) => found.flatten(),
            Err(error) => return Err(ReasonKind::MalformedCfi(error)),
        };
        if let (Some(cfi), Some(description)) = (cfi, &description)
            && (description.is_signal_trampoline() || self.is_call_site(cursor, place.start, stack))
        {
            return self.step_described(cfi, description, place, cursor, stack);
        }
        self.step_undescribed(place, cursor, stack)
    }

    /// A frame with call frame information.
    fn step_described(
        &mut self,
        cfi: &Cfi,
        description: &Description<'_>,
        place: &Place<'_>,
        cursor: &Cursor,
        stack: &mut StackReader<'_>,
    ) -> Result<Step, ReasonKind> {
        let section = cfi.section();
        let row = description
            .unwind_info_for_address(
                &section.eh_frame(),
                &base_addresses(section),
                &mut self.rows,
                place.lookup_pc,
            )
            .map_err(ReasonKind::MalformedCfi)?;
        let signal_frame = description.is_signal_trampoline();
        let frame = Activation {
            section: section.eh_frame(),
            row,
            pc: place.lookup_pc + u64::from(!cursor.exact),
            registers: &cursor.registers,
            signal_frame,
        };
        let may_end = place.object.may_end(place.lookup_pc);
        let memory = stack.memory();
        if frame.has_undefined_return_address() {
            let cfa = frame.cfa(stack).ok();
            return if may_end || (!cursor.exact && faults_or_ends_thread(memory, cursor.pc)) {
                Ok(Step::Bottom { cfa })
            } else {
                Err(ReasonKind::UndefinedReturnAddress)
            };
        }
        let cfa = frame.cfa(stack)?;
        let ReturnAddress { pc, slot } = frame.return_address(cfa, stack)?;
        if pc == 0 && may_end {
            return Ok(Step::Bottom { cfa: Some(cfa) });
        }
        let caller = Cursor {
            pc,
            exact: signal_frame,
            slot,
            registers: frame.caller_registers(cfa, stack)?,
        };
        if signal_frame {
            Ok(Step::Interrupted {
                cfa,
                interrupted: caller,
            })
        } else {
            called(cursor.rsp()?, cfa, caller)
        }
    }

    /// A frame without call frame information of its own, or one that no call can have made:
    /// a signal trampoline, an entry function in assembly, or a doubt.
    fn step_undescribed(
        &mut self,
        place: &Place<'_>,
        cursor: &Cursor,
        stack: &mut StackReader<'_>,
    ) -> Result<Step, ReasonKind> {
        let is_call_site = self.is_call_site(cursor, place.start, stack);
        if !cursor.exact
            && is_call_site
            && (place.object.is_entry(place.lookup_pc) || ends_thread(stack.memory(), cursor.pc))
        {
            return Ok(Step::Bottom { cfa: None });
        }
        if (cursor.exact || !is_call_site) && is_sigreturn(stack.memory(), cursor.pc) {
            let context = read_context(stack, cursor.rsp()?)?;
            let cfa = context.registers[RSP].unwrap_or_default();
            let interrupted = Cursor {
                pc: context.pc,
                exact: true,
                slot: Some(context.slot),
                registers: context.registers,
            };
            return Ok(Step::Interrupted { cfa, interrupted });
        }
        if is_call_site && let Some(layout) = self.find_layout(place, stack) {
            return step_by_layout(&layout, cursor, stack);
        }
        Err(match (is_call_site, &place.object.cfi) {
            (false, _) => ReasonKind::NotAfterCall,
            (true, None) => ReasonKind::NoCfi,
            (true, Some(_)) => ReasonKind::NoFrameDescription,
        })
    }

    /// The frame of a function without call frame information.
    fn find_layout(&mut self, place: &Place<'_>, stack: &StackReader<'_>) -> Option<FrameLayout> {
        let function = place.object.function_at(place.lookup_pc)?;
        let layouts = match self.layouts.entry(function.start) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(read_layouts(function, stack.memory())?),
        };
        layouts.at(place.lookup_pc)
    }

    /// Whether the cursor may have got where it is by a call, as far as the bytes before it
    /// tell; always so for an address that is not returned to.
    fn is_call_site(&mut self, cursor: &Cursor, start: u64, stack: &StackReader<'_>) -> bool {
        if cursor.exact || self.call_sites.contains(&cursor.pc) {
            return true;
        }
        let mut bytes = [0; LONGEST_CALL];
        let length = cursor.pc.saturating_sub(start).min(LONGEST_CALL as u64);
        let before = &mut bytes[..length as usize];
        let follows_call =
            stack.memory().read(cursor.pc - length, before).is_ok() && ends_with_call(before);
        if follows_call {
            self.call_sites.insert(cursor.pc);
        }
        follows_call
    }
}

fn read_layouts(function: &Range<u64>, memory: &dyn ReadMemory) -> Option<FrameLayouts> {
    let length = usize::try_from(function.end - function.start).ok()?;
    if length > LONGEST_FUNCTION {
        return None;
    }
    let mut code = vec![0; length];
    memory.read(function.start, &mut code).ok()?;
    let read = |address: u64, buffer: &mut [u8]| memory.read(address, buffer).is_ok();
    Some(FrameLayouts::of(function.start, &code, &read))
}

fn step_by_layout(
    layout: &FrameLayout,
    cursor: &Cursor,
    stack: &mut StackReader<'_>,
) -> Result<Step, ReasonKind> {
    let base = match layout.base {
        FrameBase::Rsp => RSP,
        FrameBase::Rbp => RBP,
    };
    let value = cursor.registers[base].ok_or(ReasonKind::LostRegister(base as u16))?;
    let cfa = value.wrapping_add_signed(layout.cfa_from_base);
    let mut registers = cursor.registers;
    forget_caller_saved(&mut registers);
    for (number, kept) in PRESERVED.into_iter().zip(layout.kept) {
        let register = &mut registers[dwarf_number(number)];
        match kept {
            Kept::InRegister => {}
            Kept::At(distance) => *register = Some(stack.word(cfa.wrapping_add_signed(distance))?),
            Kept::Lost => *register = None,
        }
    }
    return_to_caller(cursor.rsp()?, cfa, registers, stack)
}

/// A caller whose return address lies right below the canonical frame address.
fn return_to_caller(
    rsp: u64,
    cfa: u64,
    mut registers: Recovered,
    stack: &mut StackReader<'_>,
) -> Result<Step, ReasonKind> {
    let slot = cfa.wrapping_sub(8);
    registers[RSP] = Some(cfa);
    let caller = Cursor {
        pc: stack.word(slot)?,
        exact: false,
        slot: Some(slot),
        registers,
    };
    called(rsp, cfa, caller)
}

/// The place in an object whose rules hold for a displaced instruction.
fn original_place<'c>(
    code: &'c CodeMap,
    alias: &Alias,
    lookup_pc: u64,
    start: u64,
) -> Result<Place<'c>, ReasonKind> {
    let original = alias
        .original_of(lookup_pc)
        .ok_or(ReasonKind::NoFrameDescription)?;
    match code.find(original) {
        Some((_, Code::Object(object))) => Ok(Place {
            object,
            start,
            lookup_pc: original,
        }),
        _ => Err(ReasonKind::UnknownCode),
    }
}

/// A caller's frame, once it is certain that it lies above its callee's.
fn called(rsp: u64, cfa: u64, caller: Cursor) -> Result<Step, ReasonKind> {
    if cfa > rsp && caller.registers[RSP].is_some_and(|above| above >= cfa) {
        Ok(Step::Called { cfa, caller })
    } else {
        Err(ReasonKind::StackNotGrowing { cfa, rsp })
    }
}
