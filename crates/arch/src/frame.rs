//! Where a function keeps its return address and its caller's registers, told from its
//! instructions: for code without call frame information.
//!
//! A function that a compiler made moves its stack pointer by known amounts, and is at every
//! instruction at one distance from its return address, whichever way it got there. That is
//! followed from its first instruction on. Where ways disagree, nothing is known.

use std::ops::Range;

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use crate::decode::decode_one;
use crate::flow::{CodeAt, Exit, Flow, falls_through};
use crate::jump_table::Reader;

/// Numbers of the registers that a function must preserve, as instructions encode them (System V
/// x86-64 ABI, figure 3.4), without the stack pointer.
pub const PRESERVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

/// Position of the frame pointer among them.
const FRAME_POINTER: usize = 1;

/// CFA minus stack pointer at a function's entry, and where it returns or makes a call in last place.
const ENTRY_DEPTH: i64 = 8;

/// The register that a frame is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameBase {
    /// The stack pointer.
    Rsp,
    /// The frame pointer.
    Rbp,
}

/// Where a preserved register's value at the function's entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Still in the register.
    InRegister,
    /// On the stack, at this distance from the canonical frame address.
    At(i64),
    /// Nowhere.
    Lost,
}

/// The frame of a function at one instruction. The canonical frame address (CFA) is the stack
/// pointer's value before the call; the return address lies 8 below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    /// What the CFA is counted from.
    pub base: FrameBase,
    /// Distance of the CFA from that register.
    pub cfa_from_base: i64,
    /// In the order of [`PRESERVED`].
    pub kept: [Kept; PRESERVED.len()],
}

/// The layouts of one function's frame.
#[derive(Clone, Debug)]
pub struct FrameLayouts {
    /// First address and length of the instruction, with what is known before it.
    known: Vec<(Range<u64>, FrameLayout)>,
}

impl FrameLayouts {
    /// Finds out all about the function at `start`, which is entered nowhere else.
    #[must_use]
    pub fn of(start: u64, code: &[u8], read: &Reader<'_>) -> Self {
        let end = start + code.len() as u64;
        let code_at = |address: u64| {
            let inside = (start..end).contains(&address);
            inside.then(|| &code[(address - start) as usize..])
        };
        let mut flow = Flow::follow(&[start], &code_at, read);
        let mut states = spread(&flow, start, &[]);
        if let Some(state) = state_at_unknown_jumps(&flow, &states) {
            let roots = list_roots(&flow, start..end, &code_at);
            flow = Flow::follow(&[&[start], &*roots].concat(), &code_at, read);
            let guesses: Vec<(u64, State)> = roots
                .into_iter()
                .map(|root| (root, state.clone()))
                .collect();
            states = spread(&flow, start, &guesses);
        }
        let nodes = flow.nodes.iter().zip(&states);
        let known = nodes.filter_map(|(node, state)| {
            let layout = state.as_ref()?.layout()?;
            Some((node.instruction.ip()..node.instruction.next_ip(), layout))
        });
        Self {
            known: known.collect(),
        }
    }

    /// The layout before the instruction that covers an address is executed.
    #[must_use]
    pub fn at(&self, pc: u64) -> Option<FrameLayout> {
        let after = self.known.partition_point(|(range, _)| range.start <= pc);
        let (range, layout) = self.known.get(after.checked_sub(1)?)?;
        range.contains(&pc).then_some(*layout)
    }
}

/// What is known before an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// CFA minus stack pointer.
    depth: Option<i64>,
    /// CFA minus frame pointer, where that points into the frame.
    frame: Option<i64>,
    /// Of [`PRESERVED`]: still the caller's.
    untouched: [bool; PRESERVED.len()],
    /// Of [`PRESERVED`]: where it was stored, from the CFA.
    slots: [Option<i64>; PRESERVED.len()],
}

/// The state before each instruction that is reached. A call that does not return is followed by
/// whatever the compiler put there, so what follows a call counts only where nothing else leads.
///
/// `guesses` count where nothing leads at all.
fn spread(flow: &Flow, start: u64, guesses: &[(u64, State)]) -> Vec<Option<State>> {
    let mut states: Vec<Option<State>> = vec![None; flow.nodes.len()];
    let Some(first) = flow.position(start) else {
        return states;
    };
    let mut factory = InstructionInfoFactory::new();
    let mut sure = vec![(first, State::at_entry())];
    let mut behind_calls: Vec<(usize, State)> = Vec::new();
    let mut guesses = guesses.iter();
    loop {
        let (position, state) = if let Some(next) = sure.pop() {
            next
        } else if let Some((position, state)) = behind_calls.pop() {
            let other = states[position].as_ref();
            if other.is_some_and(|other| other.depth != state.depth) {
                continue;
            }
            (position, state)
        } else if let Some((address, state)) = guesses.next() {
            match flow.position(*address) {
                Some(position) if states[position].is_none() => (position, state.clone()),
                _ => continue,
            }
        } else {
            return states;
        };
        let joined = match &states[position] {
            Some(known) => known.join(&state),
            None => state,
        };
        if states[position].as_ref() == Some(&joined) {
            continue;
        }
        let node = &flow.nodes[position];
        let mut next = joined.clone();
        next.step(&node.instruction, &mut factory);
        states[position] = Some(joined);
        let is_call = matches!(
            node.instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        );
        let queue = if is_call {
            &mut behind_calls
        } else {
            &mut sure
        };
        queue.extend(
            node.successors
                .iter()
                .map(|to| (*to as usize, next.clone())),
        );
    }
}

/// What is known at all jumps whose targets are not, if it is the same: the cases of a `switch`
/// begin with it. Not where such a jump may be a call in last place, nor in a function with a part
/// elsewhere, which may come back to any place.
fn state_at_unknown_jumps(flow: &Flow, states: &[Option<State>]) -> Option<State> {
    let nodes = || flow.nodes.iter().zip(states);
    let mut jumps = nodes().filter(|(node, _)| node.exit == Exit::Anywhere);
    let state = jumps.next()?.1.as_ref()?;
    let same = jumps.all(|(_, other)| other.as_ref() == Some(state));
    let depth_of = |state: &Option<State>| state.as_ref()?.depth;
    let has_part = nodes().any(|(node, state)| {
        let conditional = node.instruction.flow_control() == FlowControl::ConditionalBranch;
        node.exit == Exit::Outside && (conditional || depth_of(state) != Some(ENTRY_DEPTH))
    });
    (same && !has_part && state.depth != Some(ENTRY_DEPTH)).then(|| state.clone())
}

/// Where code may begin that nothing is known to lead to: behind what goes elsewhere.
fn list_roots(flow: &Flow, function: Range<u64>, code_at: &CodeAt<'_, '_>) -> Vec<u64> {
    let mut roots = Vec::new();
    let mut address = function.start;
    let mut begins = false;
    while address < function.end {
        let known = flow
            .position(address)
            .map(|position| flow.nodes[position].instruction);
        let instruction = known.or_else(|| decode_one(address, code_at(address)?));
        let Some(instruction) = instruction else {
            address += 1;
            begins = true;
            continue;
        };
        if known.is_none() && begins {
            roots.push(address);
        }
        begins = !falls_through(&instruction);
        address = instruction.next_ip();
    }
    roots
}

impl State {
    fn at_entry() -> Self {
        Self {
            depth: Some(ENTRY_DEPTH),
            frame: None,
            untouched: [true; PRESERVED.len()],
            slots: [None; PRESERVED.len()],
        }
    }

    fn join(&self, other: &Self) -> Self {
        let same = |a: Option<i64>, b: Option<i64>| a.filter(|_| a == b);
        let mut joined = self.clone();
        joined.depth = same(self.depth, other.depth);
        joined.frame = same(self.frame, other.frame);
        for register in 0..PRESERVED.len() {
            joined.untouched[register] &= other.untouched[register];
            joined.slots[register] = same(self.slots[register], other.slots[register]);
        }
        joined
    }

    fn layout(&self) -> Option<FrameLayout> {
        let (base, cfa_from_base) = match (self.depth, self.frame) {
            (Some(depth), _) => (FrameBase::Rsp, depth),
            (None, Some(frame)) => (FrameBase::Rbp, frame),
            (None, None) => return None,
        };
        let mut kept = [Kept::Lost; PRESERVED.len()];
        for (register, kept) in kept.iter_mut().enumerate() {
            *kept = match self.slots[register] {
                _ if self.untouched[register] => Kept::InRegister,
                Some(slot) => Kept::At(slot),
                None => Kept::Lost,
            };
        }
        Some(FrameLayout {
            base,
            cfa_from_base,
            kept,
        })
    }

    fn step(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) {
        match instruction.mnemonic() {
            Mnemonic::Push if instruction.stack_pointer_increment() == -8 => {
                self.depth = self.depth.map(|depth| depth.wrapping_add(8));
                if let (Some(register), Some(depth)) = (pushed(instruction), self.depth) {
                    self.store(register, depth.wrapping_neg());
                }
            }
            Mnemonic::Pop if instruction.stack_pointer_increment() == 8 => {
                self.pop(instruction.op0_register());
            }
            Mnemonic::Leave => {
                self.depth = self.frame;
                self.pop(Register::RBP);
            }
            Mnemonic::Sub | Mnemonic::Add if is_by_constant(instruction) => {
                let amount = instruction.immediate(1).cast_signed();
                let down = instruction.mnemonic() == Mnemonic::Sub;
                let amount = if down { amount } else { amount.wrapping_neg() };
                self.depth = self.depth.map(|depth| depth.wrapping_add(amount));
            }
            Mnemonic::Lea if self.load_address(instruction) => {}
            Mnemonic::Mov if self.move_pointer(instruction) => {}
            Mnemonic::Mov if self.move_preserved(instruction) => {}
            Mnemonic::Call => {
                // One way to get the program counter: it pushes and returns to nobody.
                if instruction.near_branch_target() == instruction.next_ip() {
                    self.depth = None;
                }
            }
            _ => self.overwrite(instruction, factory),
        }
    }

    fn store(&mut self, register: usize, slot: i64) {
        if self.untouched[register] {
            self.slots[register] = Some(slot);
        }
    }

    fn pop(&mut self, into: Register) {
        let slot = self.depth.map(i64::wrapping_neg);
        self.depth = self.depth.map(|depth| depth.wrapping_sub(8));
        if into == Register::RSP {
            self.depth = None;
        }
        if into == Register::RBP {
            self.frame = None;
        }
        if let Some(register) = preserved(into) {
            self.untouched[register] = slot.is_some() && self.slots[register] == slot;
        }
        // Whatever is pushed next lies there.
        for kept in &mut self.slots {
            *kept = kept.filter(|_| *kept != slot);
        }
    }

    /// `lea` into the stack or frame pointer, from one of them.
    fn load_address(&mut self, instruction: &Instruction) -> bool {
        let distance = instruction.memory_displacement64().cast_signed();
        if instruction.memory_index() != Register::None {
            return false;
        }
        let from = match instruction.memory_base() {
            Register::RSP => self.depth,
            Register::RBP => self.frame,
            _ => return false,
        };
        self.point(
            instruction.op0_register(),
            from.map(|from| from.wrapping_sub(distance)),
        )
    }

    /// `mov` between the stack and the frame pointer.
    fn move_pointer(&mut self, instruction: &Instruction) -> bool {
        if instruction.op1_kind() != OpKind::Register || instruction.op0_kind() != OpKind::Register
        {
            return false;
        }
        let from = match instruction.op1_register() {
            Register::RSP => self.depth,
            Register::RBP => self.frame,
            _ => return false,
        };
        self.point(instruction.op0_register(), from)
    }

    fn point(&mut self, register: Register, from: Option<i64>) -> bool {
        match register {
            Register::RSP => self.depth = from,
            Register::RBP => {
                self.frame = from;
                self.untouched[FRAME_POINTER] = false;
            }
            _ => return false,
        }
        true
    }

    /// `mov` of a preserved register to the stack, or back.
    fn move_preserved(&mut self, instruction: &Instruction) -> bool {
        let (register, to_memory) = match (instruction.op0_kind(), instruction.op1_kind()) {
            (OpKind::Memory, OpKind::Register) => (instruction.op1_register(), true),
            (OpKind::Register, OpKind::Memory) => (instruction.op0_register(), false),
            _ => return false,
        };
        let base = match instruction.memory_base() {
            Register::RSP => self.depth,
            Register::RBP => self.frame,
            _ => return false,
        };
        let (Some(register), Some(base), Register::None) =
            (preserved(register), base, instruction.memory_index())
        else {
            return false;
        };
        let slot = instruction
            .memory_displacement64()
            .cast_signed()
            .wrapping_sub(base);
        if to_memory {
            // Of a value that is not the caller's any more nothing is known.
            if !self.untouched[register] && self.slots[register] == Some(slot) {
                self.slots[register] = None;
            }
            self.store(register, slot);
            return true;
        }
        if register == FRAME_POINTER {
            self.frame = None;
        }
        self.untouched[register] = self.slots[register] == Some(slot);
        true
    }

    /// Any other instruction: what it writes is not known any more.
    fn overwrite(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) {
        for used in factory.info(instruction).used_registers() {
            let writes = !matches!(
                used.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
            );
            let full = used.register().full_register();
            if !writes {
                continue;
            }
            if full == Register::RSP {
                self.depth = None;
            }
            if full == Register::RBP {
                self.frame = None;
            }
            if let Some(register) = preserved(full) {
                self.untouched[register] = false;
            }
        }
    }
}

fn pushed(instruction: &Instruction) -> Option<usize> {
    (instruction.op0_kind() == OpKind::Register)
        .then(|| preserved(instruction.op0_register()))
        .flatten()
}

/// Position in [`PRESERVED`] of a whole register.
fn preserved(register: Register) -> Option<usize> {
    register.is_gpr64().then_some(())?;
    let number = register.number() as u8;
    PRESERVED.iter().position(|known| *known == number)
}

fn is_by_constant(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::RSP
        && matches!(
            instruction.op1_kind(),
            OpKind::Immediate8to64 | OpKind::Immediate32to64
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x1000;

    fn at(code: &[u8], offset: u64) -> Option<FrameLayout> {
        FrameLayouts::of(START, code, &|_, _| false).at(START + offset)
    }

    fn from_rsp(code: &[u8], offset: u64) -> Option<i64> {
        let layout = at(code, offset)?;
        assert_eq!(layout.base, FrameBase::Rsp);
        Some(layout.cfa_from_base)
    }

    #[test]
    fn pushes_and_room_are_counted() {
        let code = [
            0x53, // 0: push %rbx
            0x48, 0x83, 0xec, 0x20, // 1: sub $0x20, %rsp
            0x89, 0xfb, // 5: mov %edi, %ebx
            0x48, 0x83, 0xc4, 0x20, // 7: add $0x20, %rsp
            0x5b, // 11: pop %rbx
            0xc3, // 12: ret
        ];
        let depths: Vec<_> = [0, 1, 5, 7, 11, 12]
            .map(|offset| from_rsp(&code, offset))
            .into();
        assert_eq!(depths, [8, 16, 48, 48, 16, 8].map(Some));
        let rbx = |offset| at(&code, offset).unwrap().kept[0];
        assert_eq!(rbx(5), Kept::InRegister);
        assert_eq!(rbx(7), Kept::At(-16));
        assert_eq!(rbx(12), Kept::InRegister);
        assert_eq!(at(&code, 13), None);
    }

    #[test]
    fn a_frame_pointer_tells_where_the_stack_pointer_does_not() {
        let code = [
            0x55, // 0: push %rbp
            0x48, 0x89, 0xe5, // 1: mov %rsp, %rbp
            0x48, 0x29, 0xfc, // 4: sub %rdi, %rsp
            0x90, // 7: nop
            0xc9, // 8: leave
            0xc3, // 9: ret
        ];
        let layout = at(&code, 7).unwrap();
        assert_eq!((layout.base, layout.cfa_from_base), (FrameBase::Rbp, 16));
        assert_eq!(layout.kept[FRAME_POINTER], Kept::At(-16));
        assert_eq!(from_rsp(&code, 9), Some(8));
        assert_eq!(at(&code, 9).unwrap().kept[FRAME_POINTER], Kept::InRegister);
    }

    #[test]
    fn ways_that_disagree_tell_nothing() {
        let code = [
            0x74, 0x01, // 0: je 3
            0x50, // 2: push %rax
            0x90, // 3: nop
            0xc3, // 4: ret
        ];
        assert_eq!(from_rsp(&code, 2), Some(8));
        assert_eq!(at(&code, 3), None);
    }

    #[test]
    fn what_follows_a_call_counts_only_where_nothing_else_leads() {
        let code = [
            0x74, 0x06, // 0: je 8
            0x50, // 2: push %rax
            0xe8, 0x00, 0x10, 0x00, 0x00, // 3: call, which does not return
            0xc3, // 8: ret
        ];
        assert_eq!(from_rsp(&code, 3), Some(16));
        assert_eq!(from_rsp(&code, 8), Some(8));
    }

    #[test]
    fn cases_begin_as_their_jump_ends() {
        let code = [
            0x48, 0x83, 0xec, 0x18, // 0: sub $0x18, %rsp
            0xff, 0xe0, // 4: jmp *%rax
            0x48, 0x83, 0xc4, 0x18, // 6: add $0x18, %rsp
            0xc3, // 10: ret
            0x50, // 11: push %rax
            0xeb, 0xfe, // 12: jmp 12
        ];
        assert_eq!(from_rsp(&code, 6), Some(32));
        assert_eq!(from_rsp(&code, 10), Some(8));
        assert_eq!(from_rsp(&code, 12), Some(40));
    }

    /// The jump may be a call in last place, or the part elsewhere may come back.
    #[test]
    fn what_nothing_leads_to_is_unknown_where_a_part_may_be_elsewhere() {
        let last_call = [
            0xff, 0xe0, // 0: jmp *%rax
            0x50, // 2: push %rax
            0xc3, // 3: ret
        ];
        assert_eq!(from_rsp(&last_call, 0), Some(8));
        assert_eq!(at(&last_call, 2), None);
        let with_part = [
            0x48, 0x83, 0xec, 0x18, // 0: sub $0x18, %rsp
            0x0f, 0x84, 0x00, 0x10, 0x00, 0x00, // 4: je elsewhere
            0xff, 0xe0, // 10: jmp *%rax
            0x90, // 12: nop
            0xc3, // 13: ret
        ];
        assert_eq!(from_rsp(&with_part, 10), Some(32));
        assert_eq!(at(&with_part, 12), None);
    }

    /// Amounts that no frame has are counted all the same.
    #[test]
    fn senseless_amounts_are_survived() {
        let mut code = vec![0x48, 0x8d, 0xa4, 0x24, 0, 0, 0, 0x80]; // lea -0x80000000(%rsp), %rsp
        code.extend([0x50, 0x58, 0xc9, 0xc3]);
        assert_eq!(from_rsp(&code, 9), Some((1 << 31) + 16));
    }

    #[test]
    fn a_register_that_is_not_saved_is_lost() {
        let code = [
            0x31, 0xdb, // 0: xor %ebx, %ebx
            0x90, // 2: nop
            0xf4, // 3: hlt
        ];
        assert_eq!(at(&code, 2).unwrap().kept[0], Kept::Lost);
    }
}
