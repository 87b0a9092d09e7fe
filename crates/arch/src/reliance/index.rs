//! Direct calls and jumps between the functions of an object, by destination.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use crate::decode::direct_target;
use crate::entry::clip_to_address_space;

/// A function: its address and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Address of the first byte.
    pub address: u64,
    /// All bytes, from a symbol or an FDE.
    pub code: &'a [u8],
}

impl Function<'_> {
    /// The addresses that it covers.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.code.len() as u64)
    }
}

/// How control leaves at a [`CallSite`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SiteKind {
    /// A call; control comes back.
    Call,
    /// A jump or a branch: a tail call, or a part of the same function elsewhere.
    Jump,
}

/// A direct call, or a direct jump that leaves its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallSite {
    /// Where it goes.
    pub target: u64,
    /// Address of the instruction.
    pub address: u64,
    /// Its length in bytes.
    pub length: u8,
    /// Call or jump.
    pub kind: SiteKind,
}

impl CallSite {
    /// Address of the instruction behind it: a call's return address.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.address.saturating_add(u64::from(self.length))
    }
}

/// The functions of an object and the direct calls among them. Built once per object.
#[derive(Clone, Debug, Default)]
pub struct CallIndex<'a> {
    functions: Vec<Function<'a>>,
    sites: Vec<CallSite>,
}

impl<'a> CallIndex<'a> {
    /// Decodes all functions, in any order. Of several at the same address the longest
    /// counts; code in none of them is not seen.
    #[must_use]
    pub fn build(functions: impl IntoIterator<Item = Function<'a>>) -> Self {
        let clip = |function: Function<'a>| Function {
            code: clip_to_address_space(function.address, function.code),
            ..function
        };
        let mut functions: Vec<_> = functions.into_iter().map(clip).collect();
        functions.sort_by_key(|function| (function.address, usize::MAX - function.code.len()));
        functions.dedup_by_key(|function| function.address);
        let mut sites = Vec::new();
        let mut seen = 0;
        for function in &functions {
            collect_sites(function, seen, &mut sites);
            seen = seen.max(function.range().end);
        }
        sites.sort_unstable();
        Self { functions, sites }
    }

    /// All functions by address.
    #[must_use]
    pub fn functions(&self) -> &[Function<'a>] {
        &self.functions
    }

    /// The function that contains `address`.
    #[must_use]
    pub fn function_at(&self, address: u64) -> Option<Function<'a>> {
        let behind = self
            .functions
            .partition_point(|function| function.address <= address);
        // Nested symbols hide at most a few functions that begin earlier and end later.
        let candidates = self.functions[behind.saturating_sub(8)..behind]
            .iter()
            .rev();
        candidates
            .copied()
            .find(|function| function.range().contains(&address))
    }

    /// Direct calls of and jumps to exactly `target` from anywhere, its own function's jumps
    /// excepted.
    #[must_use]
    pub fn sites_of(&self, target: u64) -> &[CallSite] {
        self.between(target, target.saturating_add(1))
    }

    /// Direct calls and jumps from other functions into `range`, and calls from its own.
    /// Asked with the bytes behind an entry jump's first, the answer must be empty.
    #[must_use]
    pub fn branches_into(&self, range: Range<u64>) -> &[CallSite] {
        self.between(range.start, range.end)
    }

    /// Bytes from `address` to the end of its function.
    pub(crate) fn code_at(&self, address: u64) -> Option<&'a [u8]> {
        let function = self.function_at(address)?;
        function
            .code
            .get(usize::try_from(address - function.address).ok()?..)
    }

    fn between(&self, start: u64, end: u64) -> &[CallSite] {
        let first = self.sites.partition_point(|site| site.target < start);
        let behind = self.sites.partition_point(|site| site.target < end);
        &self.sites[first..behind.max(first)]
    }
}

/// Sites of one function, leaving out what begins before `seen`: a symbol inside another.
fn collect_sites(function: &Function<'_>, seen: u64, sites: &mut Vec<CallSite>) {
    let skip = seen
        .saturating_sub(function.address)
        .min(function.code.len() as u64);
    let code = &function.code[skip as usize..];
    let start = function.address + skip;
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let kind = match instruction.flow_control() {
            FlowControl::Call => SiteKind::Call,
            FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::XbeginXabortXend => SiteKind::Jump,
            _ => continue,
        };
        let Some(target) = direct_target(&instruction) else {
            continue;
        };
        if kind == SiteKind::Jump && function.range().contains(&target) {
            continue;
        }
        let length = instruction.len() as u8;
        sites.push(CallSite {
            target,
            address: instruction.ip(),
            length,
            kind,
        });
    }
}
