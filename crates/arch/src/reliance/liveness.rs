//! Which registers a caller still needs when a call returns.
//!
//! Explicit operands are exact. What later calls and returns read is not written in machine
//! code, so two rules of the psABI narrow it down: arguments take registers in a fixed
//! order, and what has not been written since it was last clobbered holds no value.

use std::collections::VecDeque;

use iced_x86::FlowControl;

use super::clobbers::Clobbers;
use super::index::{CallIndex, CallSite, Function, SiteKind};
use crate::decode::{direct_target, is_system_call};
use crate::flow::{Exit, Flow, Node};
use crate::registers::{Effects, Register, RegisterSet, effects_of};

/// Registers needed behind one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveAfter {
    pub(super) site: u64,
    low: RegisterSet,
    rest: RegisterSet,
    pub(super) wide: RegisterSet,
}

impl LiveAfter {
    pub(super) fn registers(&self) -> RegisterSet {
        self.low | self.rest
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Live {
    low: RegisterSet,
    rest: RegisterSet,
    wide: RegisterSet,
}

impl Live {
    fn everything() -> Self {
        let all = RegisterSet::CALLER_SAVED;
        Self {
            low: all,
            rest: all,
            wide: all & RegisterSet::VECTORS,
        }
    }

    fn union(self, other: Self) -> Self {
        Self {
            low: self.low | other.low,
            rest: self.rest | other.rest,
            wide: self.wide | other.wide,
        }
    }
}

/// Registers live behind each of `calls`, which are in `caller`.
pub(super) fn live_after_calls(
    clobbers: &mut Clobbers<'_, '_>,
    caller: Function<'_>,
    calls: &[CallSite],
) -> Vec<LiveAfter> {
    if calls.is_empty() {
        return Vec::new();
    }
    let mut roots = vec![caller.address];
    roots.extend(calls.iter().map(CallSite::next));
    let analysis = Analysis::run(clobbers, &roots, Depth::Callees);
    let after = |call: &CallSite| {
        // Behind a call that ends its function nothing runs: it does not return.
        let live = analysis.live_before(call.next());
        LiveAfter {
            site: call.address,
            low: live.low,
            rest: live.rest,
            wide: live.wide,
        }
    };
    calls.iter().map(after).collect()
}

/// How far to look into callees for what they read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Look into direct callees.
    Callees,
    /// Take a callee for one that reads all arguments that it may be given.
    Convention,
}

struct Analysis {
    flow: Flow,
    live: Vec<Live>,
}

impl Analysis {
    /// Analyses the code reachable from `roots`; the first is the function's entry.
    fn run(clobbers: &mut Clobbers<'_, '_>, roots: &[u64], depth: Depth) -> Self {
        let index = clobbers.index;
        let flow = Flow::follow(roots, &|address| index.code_at(address), clobbers.read);
        let effects = effects_of_all(&flow, clobbers);
        let clobbered_by = clobbered_by_all(&flow, clobbers);
        let defined = find_defined(index, &flow, roots, &effects, &clobbered_by);
        let reads = implicit_reads(clobbers, &flow, &effects, &defined, depth);
        let live = find_live(&flow, &effects, &clobbered_by, &reads);
        Self { flow, live }
    }

    fn live_before(&self, address: u64) -> Live {
        match self.flow.position(address) {
            Some(position) => self.live[position],
            None if self.flow.truncated || self.flow.undecodable == Some(address) => {
                Live::everything()
            }
            None => Live::default(),
        }
    }
}

fn effects_of_all(flow: &Flow, clobbers: &Clobbers<'_, '_>) -> Vec<Effects> {
    let mut factory = clobbers.factory.borrow_mut();
    flow.nodes
        .iter()
        .map(|node| effects_of(&node.instruction, &mut factory))
        .collect()
}

/// For every call the registers that its caller knew to be changed by it.
fn clobbered_by_all(flow: &Flow, clobbers: &mut Clobbers<'_, '_>) -> Vec<Option<RegisterSet>> {
    let of_node = |node: &Node| {
        is_call(node).then(|| match direct_target(&node.instruction) {
            Some(target) => clobbers.of_function(target),
            None => RegisterSet::CALLER_SAVED,
        })
    };
    flow.nodes.iter().map(of_node).collect()
}

/// Registers that may hold a value before each instruction.
///
/// At the entry these are the argument registers; all, if other functions jump into this
/// one, for it may then be the cold part of another.
fn find_defined(
    index: &CallIndex<'_>,
    flow: &Flow,
    roots: &[u64],
    effects: &[Effects],
    clobbered_by: &[Option<RegisterSet>],
) -> Vec<RegisterSet> {
    let all = RegisterSet::CALLER_SAVED;
    if !flow.is_complete() {
        return vec![all; flow.nodes.len()];
    }
    let entry = roots[0];
    let range = index
        .function_at(entry)
        .map_or(entry..entry, |function| function.range());
    let jumped_to = index
        .branches_into(range)
        .iter()
        .any(|site| site.kind == SiteKind::Jump);
    let mut defined = vec![RegisterSet::EMPTY; flow.nodes.len()];
    let mut reached = vec![false; flow.nodes.len()];
    let mut pending = VecDeque::new();
    if let Some(position) = flow.position(entry) {
        defined[position] = if jumped_to { all } else { argument_registers() };
        reached[position] = true;
        pending.push_back(position);
    }
    while let Some(position) = pending.pop_front() {
        let mut after = defined[position] | effects[position].writes;
        if let Some(clobbered) = clobbered_by[position] {
            after = (after - clobbered) | (clobbered & result_registers());
        }
        for next in flow.nodes[position]
            .successors
            .iter()
            .map(|next| *next as usize)
        {
            let merged = defined[next] | after;
            if merged != defined[next] || !reached[next] {
                defined[next] = merged;
                reached[next] = true;
                pending.push_back(next);
            }
        }
    }
    // Landing pads and what follows them: nothing is known of how they are entered.
    for (set, reached) in defined.iter_mut().zip(reached) {
        if !reached {
            *set = all;
        }
    }
    defined
}

/// What calls, tail calls and returns read besides their operands.
fn implicit_reads(
    clobbers: &mut Clobbers<'_, '_>,
    flow: &Flow,
    effects: &[Effects],
    defined: &[RegisterSet],
    depth: Depth,
) -> Vec<Live> {
    let uses_wide = effects.iter().any(|effects| effects.wide);
    let mut reads = Vec::with_capacity(flow.nodes.len());
    for (node, defined) in flow.nodes.iter().zip(defined) {
        let set = match node.exit {
            Exit::Anywhere | Exit::Undecodable => {
                reads.push(Live::everything());
                continue;
            }
            Exit::Return => returned(*defined),
            Exit::Outside => passed(*defined),
            Exit::None if is_call(node) => read_by_call(clobbers, node, *defined, depth),
            Exit::None => RegisterSet::EMPTY,
        };
        let wide = if uses_wide {
            set & RegisterSet::VECTORS
        } else {
            RegisterSet::EMPTY
        };
        reads.push(Live {
            low: set,
            rest: set,
            wide,
        });
    }
    reads
}

fn read_by_call(
    clobbers: &mut Clobbers<'_, '_>,
    node: &Node,
    defined: RegisterSet,
    depth: Depth,
) -> RegisterSet {
    let target = direct_target(&node.instruction);
    let known = target.filter(|target| clobbers.index.function_at(*target).is_some());
    match known {
        Some(target) if depth == Depth::Callees => arguments_read(clobbers, target) & defined,
        Some(_) => passed(defined) | (defined & Register::R10.into()),
        None => passed(defined),
    }
}

/// Registers that the function at `target` needs at its entry.
fn arguments_read(clobbers: &mut Clobbers<'_, '_>, target: u64) -> RegisterSet {
    if let Some(read) = clobbers.arguments_read.get(&target) {
        return *read;
    }
    let live = Analysis::run(clobbers, &[target], Depth::Convention).live_before(target);
    let read = live.low | live.rest;
    clobbers.arguments_read.insert(target, read);
    read
}

fn find_live(
    flow: &Flow,
    effects: &[Effects],
    clobbered_by: &[Option<RegisterSet>],
    reads: &[Live],
) -> Vec<Live> {
    let mut predecessors = vec![Vec::new(); flow.nodes.len()];
    for (position, node) in flow.nodes.iter().enumerate() {
        for next in &node.successors {
            predecessors[*next as usize].push(position);
        }
    }
    let mut live = vec![Live::default(); flow.nodes.len()];
    let mut pending: Vec<usize> = (0..flow.nodes.len()).collect();
    let mut waiting = vec![true; flow.nodes.len()];
    while let Some(position) = pending.pop() {
        waiting[position] = false;
        let successors = &flow.nodes[position].successors;
        let after = successors.iter().fold(Live::default(), |live_out, next| {
            live_out.union(live[*next as usize])
        });
        let effects = &effects[position];
        let clobbered = clobbered_by[position].unwrap_or_default();
        let kills_rest = effects.kills_rest | clobbered;
        let before = Live {
            low: (after.low - effects.kills_low - clobbered) | effects.reads_low,
            rest: (after.rest - kills_rest) | effects.reads_rest,
            wide: (after.wide - kills_rest) | effects.reads_wide,
        }
        .union(reads[position]);
        if before != live[position] {
            live[position] = before;
            for previous in &predecessors[position] {
                if !waiting[*previous] {
                    waiting[*previous] = true;
                    pending.push(*previous);
                }
            }
        }
    }
    live
}

fn is_call(node: &Node) -> bool {
    let flow = node.instruction.flow_control();
    matches!(flow, FlowControl::Call | FlowControl::IndirectCall)
        && !is_system_call(&node.instruction)
}

/// Integer arguments, psABI 3.2.3, in order.
fn integer_arguments() -> impl Iterator<Item = Register> {
    [7, 6, 2, 1, 8, 9].into_iter().filter_map(Register::general)
}

fn vector_arguments() -> impl Iterator<Item = Register> {
    (0..8).filter_map(Register::vector)
}

/// What a function may find at its entry: arguments and the static chain.
fn argument_registers() -> RegisterSet {
    let arguments: RegisterSet = integer_arguments().chain(vector_arguments()).collect();
    arguments | Register::R10.into()
}

/// rax, rdx, xmm0, xmm1 (psABI 3.2.3).
fn result_registers() -> RegisterSet {
    let general: RegisterSet = [Register::RAX, Register::RDX].into_iter().collect();
    let vector: RegisterSet = vector_arguments().take(2).collect();
    general | vector
}

/// Registers that a call by the psABI may read when `defined` hold values: no argument is
/// passed behind one that is not; rax tells a variadic function the number of vectors.
fn passed(defined: RegisterSet) -> RegisterSet {
    let integers = integer_arguments().take_while(|register| defined.contains(*register));
    let vectors = vector_arguments().take_while(|register| defined.contains(*register));
    let number = defined & Register::RAX.into();
    integers.chain(vectors).collect::<RegisterSet>() | number
}

/// Registers that may carry a result when `defined` hold values: the second of a kind only
/// with the first.
///
/// A caller that returns its callee's result does not write it; then the old callee does,
/// and the register is not among those in question.
fn returned(defined: RegisterSet) -> RegisterSet {
    let general = [Register::RAX, Register::RDX].into_iter();
    let general = general.take_while(|register| defined.contains(*register));
    let vector = vector_arguments()
        .take(2)
        .take_while(|register| defined.contains(*register));
    general.chain(vector).collect()
}
