//! Whether a function reads what its caller pushed: stack arguments, the overflow area of
//! variadic functions, or its own return address.

use std::collections::BTreeMap;

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register as IcedRegister,
};

use super::index::CallIndex;
use crate::decode::is_system_call;
use crate::flow::{Exit, Flow};
use crate::jump_table::Reader;
use crate::registers::{Register, RegisterSet, effects_of};

/// Distance of general registers from the CFA, where known.
type Distances = [Option<i64>; 16];

/// Distance of the return address from the CFA.
const RETURN_ADDRESS: i64 = -8;

/// Whether the function at `address` of `index` may access memory at or above its return
/// address. Unknown code, an unknown stack pointer and tail calls out of the index (which
/// may hand such arguments on) count as yes. Addresses computed inside the own frame are
/// trusted to stay there, as C requires of them.
#[must_use]
pub fn uses_stack_arguments(index: &CallIndex<'_>, address: u64, read: &Reader<'_>) -> bool {
    let flow = Flow::follow(&[address], &|at| index.code_at(at), read);
    let Some(entry) = flow.position(address) else {
        return true;
    };
    if !flow.is_complete() || flow.nodes.iter().any(|node| node.exit == Exit::Outside) {
        return true;
    }
    let mut factory = InstructionInfoFactory::new();
    let mut at_entry: Distances = [None; 16];
    at_entry[usize::from(RSP)] = Some(RETURN_ADDRESS);
    let mut known: BTreeMap<usize, Distances> = BTreeMap::from([(entry, at_entry)]);
    let mut pending = vec![entry];
    while let Some(position) = pending.pop() {
        let node = &flow.nodes[position];
        let before = known[&position];
        if reaches_caller(&node.instruction, &before, &mut factory) {
            return true;
        }
        let after = distances_after(&node.instruction, before, &mut factory);
        for next in node.successors.iter().map(|next| *next as usize) {
            let merged = match known.get(&next) {
                Some(other) => merge(other, &after),
                None => after,
            };
            if known.insert(next, merged) != Some(merged) {
                pending.push(next);
            }
        }
    }
    false
}

const RSP: u8 = 4;
const RBP: u8 = 5;

fn merge(one: &Distances, other: &Distances) -> Distances {
    std::array::from_fn(|register| one[register].filter(|_| one[register] == other[register]))
}

fn number_of(register: IcedRegister) -> Option<u8> {
    let full = register.is_gpr64().then_some(register)?;
    Register::from_iced(full)?.general_number()
}

fn distance_of(register: IcedRegister, distances: &Distances) -> Option<i64> {
    distances[usize::from(number_of(register)?)]
}

/// Whether an operand lies at or above the return address, or may.
fn reaches_caller(
    instruction: &Instruction,
    distances: &Distances,
    factory: &mut InstructionInfoFactory,
) -> bool {
    if instruction.flow_control() == FlowControl::Return {
        return distances[usize::from(RSP)] != Some(RETURN_ADDRESS);
    }
    if instruction.mnemonic() == Mnemonic::Lea {
        let base = instruction.memory_base();
        return address_reaches(base, instruction.memory_displacement64(), 0, distances);
    }
    let memory = factory.info(instruction).used_memory();
    memory.iter().any(|used| {
        let size = used.memory_size().size() as u64;
        address_reaches(used.base(), used.displacement(), size, distances)
    })
}

/// Whether `base` plus `displacement`, `size` bytes long, is in the caller's frame. Stack
/// pointers of unknown distance may be, upwards; other unknown pointers are the program's
/// data.
fn address_reaches(
    base: IcedRegister,
    displacement: u64,
    size: u64,
    distances: &Distances,
) -> bool {
    match distance_of(base, distances) {
        Some(distance) => {
            let start = distance.saturating_add(displacement.cast_signed());
            start.saturating_add_unsigned(size.max(1)) > RETURN_ADDRESS
        }
        None => base == IcedRegister::RSP && displacement.cast_signed() >= 0,
    }
}

fn distances_after(
    instruction: &Instruction,
    mut distances: Distances,
    factory: &mut InstructionInfoFactory,
) -> Distances {
    let before = distances;
    let calls = matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    ) && !is_system_call(instruction);
    let rsp = usize::from(RSP);
    let changed = if calls {
        RegisterSet::CALLER_SAVED
    } else {
        effects_of(instruction, factory).writes
    };
    for register in changed.iter().filter_map(Register::general_number) {
        distances[usize::from(register)] = None;
    }
    if calls {
        return distances;
    }
    let increment = i64::from(instruction.stack_pointer_increment());
    match instruction.mnemonic() {
        Mnemonic::Leave => {
            distances[rsp] = before[usize::from(RBP)].and_then(|distance| distance.checked_add(8));
            return distances;
        }
        _ if instruction.is_stack_instruction() => {
            distances[rsp] = before[rsp].and_then(|rsp| rsp.checked_add(increment));
        }
        _ => {}
    }
    if let Some((target, distance)) = computed(instruction, &before) {
        distances[usize::from(target)] = distance;
    }
    distances
}

/// Result of an instruction that computes an address from a register of known distance.
fn computed(instruction: &Instruction, before: &Distances) -> Option<(u8, Option<i64>)> {
    if instruction.op_count() != 2 || instruction.op0_kind() != OpKind::Register {
        return None;
    }
    let target = number_of(instruction.op0_register())?;
    let immediate = || instruction.try_immediate(1).ok().map(u64::cast_signed);
    let current = before[usize::from(target)];
    let distance = match instruction.mnemonic() {
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => {
            distance_of(instruction.op1_register(), before)
        }
        Mnemonic::Lea if instruction.memory_index() == IcedRegister::None => {
            let displacement = instruction.memory_displacement64().cast_signed();
            distance_of(instruction.memory_base(), before)
                .and_then(|base| base.checked_add(displacement))
        }
        Mnemonic::Add => current
            .zip(immediate())
            .and_then(|(at, add)| at.checked_add(add)),
        Mnemonic::Sub => current
            .zip(immediate())
            .and_then(|(at, sub)| at.checked_sub(sub)),
        _ => return None,
    };
    Some((target, distance))
}
