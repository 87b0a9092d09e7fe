//! Flow of control of one function, as far as its instructions tell.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{FlowControl, Instruction};

use crate::decode::{decode_one, direct_target};
use crate::jump_table::{Jump, Reader, resolve_jump};

/// More instructions than any sane function has; a flow beyond it counts as not known.
const MAX_INSTRUCTIONS: usize = 1 << 18;

/// Limits for indirect jumps and for all entries of their tables.
const MAX_JUMPS: usize = 1 << 12;
const MAX_TARGETS: usize = 1 << 20;

/// Bytes from an address to the end of the function there; `None` outside known code.
pub(crate) type CodeAt<'a, 'c> = dyn Fn(u64) -> Option<&'c [u8]> + 'a;

/// How an instruction leaves the known flow, apart from its successors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It does not.
    None,
    /// Returns.
    Return,
    /// Jumps to code that is not known, such as a PLT entry.
    Outside,
    /// Jumps somewhere, perhaps into this very function.
    Anywhere,
    /// Cannot be decoded; this is its address.
    Undecodable,
}

/// One instruction.
pub(crate) struct Node {
    pub(crate) instruction: Instruction,
    /// Positions of the next instructions in [`Flow::nodes`].
    pub(crate) successors: Vec<u32>,
    pub(crate) exit: Exit,
}

/// The instructions reachable from the roots, by address.
pub(crate) struct Flow {
    pub(crate) nodes: Vec<Node>,
    /// Indirect jumps and what was found about them.
    pub(crate) jumps: BTreeMap<u64, Jump>,
    /// First address that was reached and is undecodable.
    pub(crate) undecodable: Option<u64>,
    /// The limit was hit: `nodes` is not everything.
    pub(crate) truncated: bool,
}

impl Flow {
    /// Follows control from `roots` through all code that `code_at` knows.
    pub(crate) fn follow(roots: &[u64], code_at: &CodeAt<'_, '_>, read: &Reader<'_>) -> Self {
        let mut explorer = Explorer::default();
        explorer.explore(roots.to_vec(), code_at);
        loop {
            let open: Vec<u64> = explorer
                .indirect
                .iter()
                .copied()
                .filter(|site| !explorer.jumps.contains_key(site))
                .collect();
            if open.is_empty() {
                break;
            }
            let mut found = Vec::new();
            for site in open {
                let inside = |address| code_at(address).is_some();
                let room = explorer.jumps.len() < MAX_JUMPS && explorer.targets < MAX_TARGETS;
                explorer.truncated |= !room;
                let jump = if room {
                    resolve_jump(&explorer.instructions, site, &inside, read)
                } else {
                    Jump::Unknown
                };
                if let Jump::Bounded(targets) | Jump::Unbounded(targets) = &jump {
                    explorer.targets += targets.len();
                }
                if let Jump::Bounded(targets) = &jump {
                    found.extend_from_slice(targets);
                }
                explorer.jumps.insert(site, jump);
            }
            explorer.explore(found, code_at);
        }
        explorer.into_flow()
    }

    /// Position of the instruction at `address`.
    pub(crate) fn position(&self, address: u64) -> Option<usize> {
        self.nodes
            .binary_search_by_key(&address, |node| node.instruction.ip())
            .ok()
    }

    /// Whether every place inside known code that control can go to is in `nodes`.
    pub(crate) fn is_complete(&self) -> bool {
        !self.truncated
            && self.undecodable.is_none()
            && self.nodes.iter().all(|node| node.exit != Exit::Anywhere)
    }
}

#[derive(Default)]
struct Explorer {
    instructions: BTreeMap<u64, Instruction>,
    indirect: BTreeSet<u64>,
    jumps: BTreeMap<u64, Jump>,
    undecodable: BTreeSet<u64>,
    targets: usize,
    truncated: bool,
}

impl Explorer {
    fn explore(&mut self, mut pending: Vec<u64>, code_at: &CodeAt<'_, '_>) {
        while let Some(start) = pending.pop() {
            let Some(code) = code_at(start) else { continue };
            let mut offset = 0;
            while offset < code.len() {
                let address = start + offset as u64;
                if self.instructions.contains_key(&address) {
                    break;
                }
                if self.instructions.len() == MAX_INSTRUCTIONS {
                    self.truncated = true;
                    return;
                }
                let Some(instruction) = decode_one(address, &code[offset..]) else {
                    self.undecodable.insert(address);
                    break;
                };
                self.instructions.insert(address, instruction);
                offset += instruction.len();
                if instruction.flow_control() == FlowControl::IndirectBranch {
                    self.indirect.insert(address);
                }
                pending.extend(branch_target(&instruction));
                if !falls_through(&instruction) {
                    break;
                }
            }
        }
    }

    fn into_flow(self) -> Flow {
        let positions: HashMap<u64, u32> = self.instructions.keys().copied().zip(0_u32..).collect();
        let nodes = self
            .instructions
            .values()
            .map(|instruction| self.make_node(*instruction, &positions))
            .collect();
        Flow {
            nodes,
            undecodable: self.undecodable.first().copied(),
            truncated: self.truncated,
            jumps: self.jumps,
        }
    }

    fn make_node(&self, instruction: Instruction, positions: &HashMap<u64, u32>) -> Node {
        let mut successors = Vec::new();
        let mut exit = Exit::None;
        if falls_through(&instruction) {
            match positions.get(&instruction.next_ip()) {
                Some(position) => successors.push(*position),
                None if self.undecodable.contains(&instruction.next_ip()) => {
                    exit = Exit::Undecodable;
                }
                None => {}
            }
        }
        let mut targets: Vec<u64> = branch_target(&instruction).into_iter().collect();
        match self.jumps.get(&instruction.ip()) {
            Some(Jump::Bounded(table)) => targets.extend_from_slice(table),
            Some(_) if instruction.is_ip_rel_memory_operand() => exit = Exit::Outside,
            Some(_) => exit = Exit::Anywhere,
            None => {}
        }
        for target in targets {
            match positions.get(&target) {
                Some(position) => successors.push(*position),
                None if self.undecodable.contains(&target) => exit = Exit::Undecodable,
                None => exit = Exit::Outside,
            }
        }
        if instruction.flow_control() == FlowControl::Return {
            exit = Exit::Return;
        }
        successors.sort_unstable();
        successors.dedup();
        Node {
            instruction,
            successors,
            exit,
        }
    }
}

/// Where a jump or branch, not a call, may go directly.
pub(crate) fn branch_target(instruction: &Instruction) -> Option<u64> {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch
        | FlowControl::ConditionalBranch
        | FlowControl::XbeginXabortXend => direct_target(instruction),
        _ => None,
    }
}

pub(crate) fn falls_through(instruction: &Instruction) -> bool {
    !matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return
            | FlowControl::Exception
    )
}
