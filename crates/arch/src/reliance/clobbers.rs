//! Which caller-saved registers a call of a function changes.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, MemorySize,
    Mnemonic, Register as IcedRegister,
};

use super::index::{CallIndex, Function, SiteKind};
use crate::decode::{direct_target, is_system_call};
use crate::flow::{Exit, Flow};
use crate::jump_table::{Jump, Reader};
use crate::registers::{RegisterSet, effects_of, hidden_writes};

/// From which side an answer may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// Only what the compiler surely counted: no more than the truth. A call counts only if
    /// it surely returns, because gcc leaves calls of noreturn functions out.
    Least,
    /// Whatever may happen: no less than the truth.
    Most,
}

/// Changes made by one function itself, and whom it calls.
#[derive(Clone, Default)]
struct Own {
    writes: RegisterSet,
    callees: Vec<u64>,
    /// Calls something by pointer or outside of the index.
    outside: bool,
    /// Uses vector memory on the stack that may have to be aligned.
    aligned_access: bool,
}

/// Answers for the functions of one index.
pub(super) struct Clobbers<'i, 'r> {
    pub(super) index: &'i CallIndex<'i>,
    pub(super) read: &'r Reader<'r>,
    bound: Bound,
    own: HashMap<u64, Rc<Own>>,
    total: HashMap<u64, RegisterSet>,
    /// What functions read of their arguments; kept here for `liveness`.
    pub(super) arguments_read: HashMap<u64, RegisterSet>,
    pub(super) factory: RefCell<InstructionInfoFactory>,
}

impl<'i, 'r> Clobbers<'i, 'r> {
    pub(super) fn new(index: &'i CallIndex<'i>, bound: Bound, read: &'r Reader<'r>) -> Self {
        let factory = RefCell::new(InstructionInfoFactory::new());
        Self {
            index,
            read,
            bound,
            own: HashMap::new(),
            total: HashMap::new(),
            arguments_read: HashMap::new(),
            factory,
        }
    }

    /// Caller-saved registers that a call of `address` changes, callees included.
    pub(super) fn of_function(&mut self, address: u64) -> RegisterSet {
        if let Some(total) = self.total.get(&address) {
            return *total;
        }
        let mut total = RegisterSet::EMPTY;
        self.visit_callees(address, |own| {
            total |= own.writes;
            if own.outside {
                total = RegisterSet::CALLER_SAVED;
            }
            total == RegisterSet::CALLER_SAVED
        });
        total = total & RegisterSet::CALLER_SAVED;
        self.total.insert(address, total);
        total
    }

    /// Whether a call of `address` changes every caller-saved register.
    pub(super) fn is_everything(&mut self, address: u64) -> bool {
        self.of_function(address) == RegisterSet::CALLER_SAVED
    }

    /// Whether `address` itself or a callee makes a call outside of the index.
    pub(super) fn calls_outside(&mut self, address: u64) -> bool {
        let mut outside = false;
        self.visit_callees(address, |own| {
            outside |= own.outside;
            outside
        });
        outside
    }

    /// Whether `address` or a callee may need a stack aligned to 16 bytes.
    pub(super) fn needs_alignment(&mut self, address: u64) -> bool {
        let mut needs = false;
        self.visit_callees(address, |own| {
            needs |= own.outside || own.aligned_access;
            needs
        });
        needs
    }

    /// Shows `address` and everything that it calls or jumps to, until `done` says so.
    fn visit_callees(&mut self, address: u64, mut done: impl FnMut(&Own) -> bool) {
        let mut seen = HashSet::new();
        let mut pending = vec![address];
        while let Some(address) = pending.pop() {
            let Some(function) = self.index.function_at(address) else {
                let outside = self.bound == Bound::Most;
                if done(&Own {
                    outside,
                    ..Own::default()
                }) {
                    return;
                }
                continue;
            };
            if !seen.insert(function.address) {
                continue;
            }
            let own = self.own_of(&function);
            if done(&own) {
                return;
            }
            pending.extend_from_slice(&own.callees);
        }
    }

    fn own_of(&mut self, function: &Function<'i>) -> Rc<Own> {
        if let Some(own) = self.own.get(&function.address) {
            return Rc::clone(own);
        }
        let own = Rc::new(self.scan(function));
        self.own.insert(function.address, Rc::clone(&own));
        own
    }

    /// Every instruction counts, reached or not: gcc counts landing pads as well.
    fn scan(&self, function: &Function<'_>) -> Own {
        let mut own = Own::default();
        let mut calls = Vec::new();
        let mut decoder =
            Decoder::with_ip(64, function.code, function.address, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let mut factory = self.factory.borrow_mut();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            own.writes |= effects_of(&instruction, &mut factory).writes;
            own.aligned_access |= is_aligned_stack_access(&instruction);
            if self.bound == Bound::Most {
                own.writes |= hidden_writes(&instruction);
                own.outside |= instruction.is_invalid();
            }
            match instruction.flow_control() {
                _ if is_system_call(&instruction) => {}
                FlowControl::Call | FlowControl::IndirectCall => calls.push(instruction),
                FlowControl::Interrupt => own.outside |= self.bound == Bound::Most,
                FlowControl::IndirectBranch => {
                    own.outside |= self.is_outside_jump(function, &instruction);
                }
                FlowControl::UnconditionalBranch
                | FlowControl::ConditionalBranch
                | FlowControl::XbeginXabortXend => {
                    let target = direct_target(&instruction);
                    let leaves = target.filter(|target| !function.range().contains(target));
                    own.callees.extend(leaves);
                }
                _ => {}
            }
        }
        drop(factory);
        if self.bound == Bound::Least {
            self.keep_returning(function, &mut calls);
        }
        for call in calls {
            match direct_target(&call) {
                Some(target) => own.callees.push(target),
                None => own.outside = true,
            }
        }
        own
    }

    fn is_outside_jump(&self, function: &Function<'_>, jump: &Instruction) -> bool {
        match self.bound {
            // Any other form may be a table that is not recognised.
            Bound::Least => jump.is_ip_rel_memory_operand(),
            Bound::Most => {
                let flow = self.flow_of(function);
                !matches!(flow.jumps.get(&jump.ip()), Some(Jump::Bounded(_)))
            }
        }
    }

    /// Keeps the calls that surely return: control comes to the next instruction in no
    /// other way, so it would not be there otherwise, and from it the function returns.
    fn keep_returning(&self, function: &Function<'_>, calls: &mut Vec<Instruction>) {
        if calls.is_empty() {
            return;
        }
        let flow = self.flow_of(function);
        if !flow.is_complete() {
            calls.clear();
            return;
        }
        let joined = joined_addresses(&flow);
        let entered = |address| {
            let sites = self.index.sites_of(address);
            sites.iter().any(|site| site.kind == SiteKind::Jump)
        };
        calls.retain(|call| {
            let next = call.next_ip();
            !joined.contains(&next) && !entered(next) && reaches_return(&flow, next)
        });
    }

    /// Parts of the function elsewhere and functions that it jumps to are included.
    fn flow_of(&self, function: &Function<'_>) -> Flow {
        Flow::follow(&[function.address], &|at| self.index.code_at(at), self.read)
    }
}

/// Addresses that a jump or branch leads to.
fn joined_addresses(flow: &Flow) -> HashSet<u64> {
    let mut joined = HashSet::new();
    for node in &flow.nodes {
        joined.extend(crate::flow::branch_target(&node.instruction));
    }
    for jump in flow.jumps.values() {
        if let Jump::Bounded(targets) | Jump::Unbounded(targets) = jump {
            joined.extend(targets);
        }
    }
    joined
}

fn reaches_return(flow: &Flow, start: u64) -> bool {
    let mut seen = HashSet::new();
    let mut pending: Vec<usize> = flow.position(start).into_iter().collect();
    while let Some(position) = pending.pop() {
        if !seen.insert(position) {
            continue;
        }
        let node = &flow.nodes[position];
        if matches!(node.exit, Exit::Return | Exit::Outside | Exit::Anywhere) {
            return true;
        }
        pending.extend(node.successors.iter().map(|next| *next as usize));
    }
    false
}

/// Whether `instruction` accesses 16 bytes or more of stack by a vector register in a form that
/// may fault on misalignment.
fn is_aligned_stack_access(instruction: &Instruction) -> bool {
    let on_stack = matches!(
        instruction.memory_base(),
        IcedRegister::RSP | IcedRegister::RBP
    );
    let unaligned = matches!(
        instruction.mnemonic(),
        Mnemonic::Movups
            | Mnemonic::Movupd
            | Mnemonic::Movdqu
            | Mnemonic::Lddqu
            | Mnemonic::Vmovups
            | Mnemonic::Vmovupd
            | Mnemonic::Vmovdqu
            | Mnemonic::Lea
            | Mnemonic::Nop
    );
    let memory = instruction.memory_size();
    on_stack && !unaligned && memory != MemorySize::Unknown && memory.size() >= 16
}
