//! Jump tables: which addresses an indirect jump inside a function may go to.
//!
//! Recognised are the forms that gcc and clang emit for `switch` and computed goto:
//! offsets relative to the table (`lea table(%rip), %b; movslq (%b,%i,4), %t; add %b, %t;
//! jmp *%t`) and absolute addresses (`jmp *table(,%i,8)`, `jmp *(%b,%i,8)`, or the same
//! through a `mov`). The bound comes from a `cmp $n, %i; ja` in front of it.

use std::collections::BTreeMap;

use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

/// Reads memory of the program at an address into the whole buffer; false if it cannot.
pub type Reader<'a> = dyn Fn(u64, &mut [u8]) -> bool + 'a;

/// More entries than any table that a compiler emits for a `switch`.
const MAX_ENTRIES: u64 = 1 << 16;
/// Instructions between the bound check and the jump; compilers need up to eight.
const MAX_DISTANCE: usize = 24;

/// What is known about an indirect jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Jump {
    /// Goes to one of these and nowhere else: table and bound are certain.
    Bounded(Vec<u64>),
    /// A table whose length is not certain; the entries up to the first that leaves the
    /// function.
    Unbounded(Vec<u64>),
    /// A table at this address that could not be read.
    Unreadable(u64),
    /// No table: a tail call through a pointer, or a form not known here.
    Unknown,
}

/// Shape of a table before it is read.
struct Table {
    address: u64,
    relative: bool,
    count: Option<u64>,
    certain: bool,
}

/// Decides where the indirect jump at `site` goes. `instructions` are the decoded ones of
/// the function by address, `inside` tells whether an address belongs to it.
pub(crate) fn resolve_jump(
    instructions: &BTreeMap<u64, Instruction>,
    site: u64,
    inside: &dyn Fn(u64) -> bool,
    read: &Reader<'_>,
) -> Jump {
    let history = straight_line_before(instructions, site);
    let Some(table) = recognise_table(instructions, &history, &instructions[&site]) else {
        return Jump::Unknown;
    };
    read_table(&table, inside, read)
}

fn read_table(table: &Table, inside: &dyn Fn(u64) -> bool, read: &Reader<'_>) -> Jump {
    let limit = match table.count {
        Some(count) if count > MAX_ENTRIES => return Jump::Unknown,
        Some(count) => count,
        None => MAX_ENTRIES,
    };
    let mut targets = Vec::new();
    for position in 0..limit {
        let Some(target) = read_entry(table, position, read) else {
            if position == 0 || table.count.is_some() {
                return Jump::Unreadable(table.address);
            }
            break;
        };
        if table.count.is_none() && !inside(target) {
            break;
        }
        targets.push(target);
    }
    if table.count.is_some() && table.certain {
        Jump::Bounded(targets)
    } else {
        Jump::Unbounded(targets)
    }
}

fn read_entry(table: &Table, position: u64, read: &Reader<'_>) -> Option<u64> {
    if table.relative {
        let mut entry = [0; 4];
        let address = table.address.wrapping_add(position * 4);
        read(address, &mut entry).then(|| {
            table
                .address
                .wrapping_add_signed(i32::from_le_bytes(entry).into())
        })
    } else {
        let mut entry = [0; 8];
        let address = table.address.wrapping_add(position * 8);
        read(address, &mut entry).then(|| u64::from_le_bytes(entry))
    }
}

/// The instructions that fall through to `site`, nearest first.
fn straight_line_before(instructions: &BTreeMap<u64, Instruction>, site: u64) -> Vec<Instruction> {
    let mut history = Vec::new();
    let mut expected = site;
    for instruction in instructions
        .range(..site)
        .rev()
        .map(|(_, instruction)| instruction)
    {
        let falls_through = !matches!(
            instruction.flow_control(),
            iced_x86::FlowControl::UnconditionalBranch
                | iced_x86::FlowControl::IndirectBranch
                | iced_x86::FlowControl::Return
        );
        if instruction.next_ip() != expected || !falls_through || history.len() == MAX_DISTANCE {
            break;
        }
        expected = instruction.ip();
        history.push(*instruction);
    }
    history
}

fn recognise_table(
    instructions: &BTreeMap<u64, Instruction>,
    history: &[Instruction],
    jump: &Instruction,
) -> Option<Table> {
    if jump.op0_kind() == OpKind::Memory {
        return table_of_operand(instructions, history, jump, false);
    }
    let pointer = jump.op0_register();
    let (position, last) = last_write(history, pointer)?;
    let earlier = &history[position + 1..];
    if last.mnemonic() == Mnemonic::Add && last.op1_kind() == OpKind::Register {
        relative_table(
            instructions,
            earlier,
            last.op0_register(),
            last.op1_register(),
        )
    } else if last.mnemonic() == Mnemonic::Mov && last.op1_kind() == OpKind::Memory {
        table_of_operand(instructions, earlier, last, false)
    } else {
        None
    }
}

/// `movslq (%b,%i,4), %t; add` of %b and %t in either order.
fn relative_table(
    instructions: &BTreeMap<u64, Instruction>,
    history: &[Instruction],
    sum: Register,
    addend: Register,
) -> Option<Table> {
    [sum, addend].into_iter().find_map(|offset| {
        let (position, load) = last_write(history, offset)?;
        let is_load = load.code() == Code::Movsxd_r64_rm32 && load.op1_kind() == OpKind::Memory;
        if !is_load {
            return None;
        }
        table_of_operand(instructions, &history[position + 1..], load, true)
    })
}

/// The table that the memory operand of `user` indexes.
fn table_of_operand(
    instructions: &BTreeMap<u64, Instruction>,
    history: &[Instruction],
    user: &Instruction,
    relative: bool,
) -> Option<Table> {
    let scale = if relative { 4 } else { 8 };
    if user.memory_index() == Register::None || user.memory_index_scale() != scale {
        return None;
    }
    let (address, certain) = match user.memory_base() {
        Register::None => (user.memory_displacement64(), true),
        base => {
            let (table, certain) = find_constant(instructions, history, base)?;
            (table.wrapping_add(user.memory_displacement64()), certain)
        }
    };
    let count = find_bound(history, user.memory_index());
    Some(Table {
        address,
        relative,
        count,
        certain,
    })
}

/// The address that `lea x(%rip), %base` (or `mov $x, %base`) puts into `base`: surely if
/// it is in the straight line, else if all `lea` of the function agree.
fn find_constant(
    instructions: &BTreeMap<u64, Instruction>,
    history: &[Instruction],
    base: Register,
) -> Option<(u64, bool)> {
    if let Some((_, last)) = last_write(history, base) {
        return constant_of(last).map(|address| (address, true));
    }
    let mut found = None;
    for instruction in instructions.values() {
        let loads = instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == base.full_register();
        if !loads || instruction.mnemonic() != Mnemonic::Lea {
            continue;
        }
        let Some(address) = constant_of(instruction) else {
            continue;
        };
        if found.is_some_and(|other| other != address) {
            return None;
        }
        found = Some(address);
    }
    found.map(|address| (address, false))
}

fn constant_of(instruction: &Instruction) -> Option<u64> {
    match instruction.mnemonic() {
        Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
            Some(instruction.ip_rel_memory_address())
        }
        Mnemonic::Mov if is_immediate(instruction) => Some(instruction.immediate(1)),
        _ => None,
    }
}

/// Number of entries by the check in front of the jump, following copies of the index.
fn find_bound(history: &[Instruction], index: Register) -> Option<u64> {
    let mut index = index.full_register();
    let mut inclusive = None;
    let mut factory = InstructionInfoFactory::new();
    for instruction in history {
        match instruction.mnemonic() {
            Mnemonic::Ja => inclusive = Some(true),
            Mnemonic::Jae => inclusive = Some(false),
            Mnemonic::Cmp
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op0_register().full_register() == index
                    && is_immediate(instruction) =>
            {
                let bits = instruction.op0_register().size() * 8;
                let mask = u64::MAX >> (64 - bits);
                let limit = instruction.immediate(1) & mask;
                return limit.checked_add(u64::from(inclusive?));
            }
            _ if writes(instruction, index, &mut factory) => {
                let copies = matches!(
                    instruction.mnemonic(),
                    Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsxd
                ) && instruction.op1_kind() == OpKind::Register;
                if !copies {
                    return None;
                }
                index = instruction.op1_register().full_register();
            }
            _ => {}
        }
    }
    None
}

fn is_immediate(instruction: &Instruction) -> bool {
    instruction.op_count() == 2 && instruction.try_immediate(1).is_ok()
}

fn last_write(history: &[Instruction], register: Register) -> Option<(usize, &Instruction)> {
    let mut factory = InstructionInfoFactory::new();
    history
        .iter()
        .enumerate()
        .find(|(_, instruction)| writes(instruction, register.full_register(), &mut factory))
}

fn writes(instruction: &Instruction, full: Register, factory: &mut InstructionInfoFactory) -> bool {
    // A call between the load of the base and the jump may change it.
    let calls = instruction.is_call_near() || instruction.is_call_near_indirect();
    calls
        || factory
            .info(instruction)
            .used_registers()
            .iter()
            .any(|used| {
                used.register().full_register() == full
                    && !matches!(
                        used.access(),
                        iced_x86::OpAccess::Read | iced_x86::OpAccess::CondRead
                    )
            })
}
