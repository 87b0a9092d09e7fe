//! Making the target's code match the routes: entry jumps, routers, selectors.
//!
//! An entry is redirected once, while all threads stand still; from then on one 8-byte slot
//! decides where it leads. Routers, displaced prologues and thunks are never changed or taken
//! away again, selectors not before every thread has been seen outside them.

mod apply;
mod entry;
mod plan;
mod prepare;
mod rewrite;
mod text;

pub(crate) use plan::{Implementation, Planner};
pub(crate) use rewrite::Edit;
pub(crate) use text::{Overlay, Text};

use engraft_arch::stub::{CfaBase, Stub, UnwindRow};
use engraft_unwind::{Alias, AliasEntry, CodeMap, Fixed, FixedBase, FixedEntry};
use serde::{Deserialize, Serialize};

use crate::arrivals::Load;
use crate::space::Span;

/// A function's entry that is, was or is about to be redirected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Name of the old function.
    pub(crate) name: String,
    /// Address of the old function.
    pub(crate) function: u64,
    /// Where the jump goes.
    pub(crate) site: u64,
    /// Bytes of the displaced instructions.
    pub(crate) original: Vec<u8>,
    /// Addresses inside the overwritten bytes at which a thread may stand.
    pub(crate) interior: Vec<u64>,
    /// `jmp *slot`.
    pub(crate) router: Span,
    /// Address of the slot.
    pub(crate) slot: u64,
    /// The displaced prologue.
    pub(crate) copy: Span,
    /// Instruction boundaries: original, copy.
    pub(crate) boundaries: Vec<(u64, u64)>,
    /// Jumps in the copy that stand for calls.
    pub(crate) calls: Vec<Span>,
    /// Thunks by implementation.
    pub(crate) thunks: Vec<Thunk>,
    /// Implementations of which it is known whether they need a thunk.
    pub(crate) examined: Vec<u64>,
    /// The load of a library that it belongs to; `None` where nothing comes and goes.
    pub(crate) load: Option<Load>,
}

/// Preserves registers around one implementation, for callers that rely on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Thunk {
    pub(crate) implementation: u64,
    pub(crate) span: Span,
    rows: Vec<Row>,
}

/// Chooses by a thread's universe. Never rewritten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Selector {
    pub(crate) function: u64,
    pub(crate) token: u64,
    pub(crate) unswitched: u64,
    pub(crate) switched: u64,
    pub(crate) span: Span,
    rows: Vec<Row>,
}

/// An unwinding rule of a stub, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Row {
    offset: u32,
    distance: u32,
    from_rbp: bool,
    rbp_saved: bool,
}

impl From<&UnwindRow> for Row {
    fn from(row: &UnwindRow) -> Self {
        Self {
            offset: row.offset as u32,
            distance: row.distance as u32,
            from_rbp: row.base == CfaBase::Rbp,
            rbp_saved: row.rbp_saved,
        }
    }
}

fn rows_of(stub: &Stub) -> Vec<Row> {
    stub.rows.iter().map(Row::from).collect()
}

impl Entry {
    /// The jump that belongs at the site.
    pub(crate) fn jump(&self) -> Option<[u8; 5]> {
        engraft_arch::stub::encode_jump(self.site, self.router.start).ok()
    }

    /// The bytes that the jump overwrites.
    pub(crate) fn overwritten(&self) -> [u8; 5] {
        let mut bytes = [0; 5];
        for (byte, original) in bytes.iter_mut().zip(&self.original) {
            *byte = *original;
        }
        bytes
    }

    /// The same place in the displaced prologue.
    fn copy_of(&self, pc: u64) -> Option<u64> {
        self.boundaries
            .iter()
            .find(|(original, _)| *original == pc)
            .map(|(_, copy)| *copy)
    }

    /// Forgets what was found out about implementations at these addresses. Their thunks
    /// stay in memory, like all code that a thread may be in.
    pub(crate) fn forget(&mut self, implementations: &[u64]) {
        self.examined
            .retain(|address| !implementations.contains(address));
        self.thunks
            .iter_mut()
            .filter(|t| implementations.contains(&t.implementation))
            .for_each(|t| {
                t.implementation = 0;
            });
    }

    /// Tells an unwinder about the code that belongs to the entry.
    pub(crate) fn add_to(&self, code: &mut CodeMap) {
        for stub in self.stubs() {
            let _ = code.add_fixed(stub);
        }
        self.add_copy_to(code);
    }

    /// Its stubs, and the jumps in the displaced prologue that stand for calls: there the
    /// stack is as at the callee's first instruction.
    pub(crate) fn stubs(&self) -> Vec<Fixed> {
        let router = plain(format!("router of {}", self.name), self.router);
        let calls = self.calls.iter();
        let calls = calls.filter(|call| call.size > 0);
        let calls = calls.map(|call| plain(self.copy_name(), *call));
        let thunks = self.thunks.iter().map(|thunk| thunk.layout(&self.name));
        [router].into_iter().chain(calls).chain(thunks).collect()
    }

    /// What to call the displaced prologue.
    pub(crate) fn copy_name(&self) -> String {
        format!("displaced prologue of {}", self.name)
    }

    /// The displaced prologue but for its calls: its instructions unwind as the original's.
    fn add_copy_to(&self, code: &mut CodeMap) {
        let name = self.copy_name();
        let mut start = self.copy.start;
        let end = Span {
            start: self.copy.end(),
            size: 0,
        };
        for call in self.calls.iter().chain([&end]) {
            let entries: Vec<AliasEntry> = self
                .boundaries
                .iter()
                .filter(|(_, copy)| (start..call.start).contains(copy))
                .map(|(original, copy)| AliasEntry {
                    offset: (copy - start) as u32,
                    original: *original,
                })
                .collect();
            // A range that is refused stays unknown code, which no thread is switched in.
            let _ = code.add_alias(Alias {
                name: name.as_str().into(),
                range: start..call.start,
                entries,
            });
            start = call.end();
        }
    }
}

impl Thunk {
    /// How it unwinds.
    fn layout(&self, function: &str) -> Fixed {
        fixed(format!("thunk of {function}"), self.span, &self.rows)
    }
}

impl Selector {
    /// Tells an unwinder about the selector.
    pub(crate) fn add_to(&self, code: &mut CodeMap) {
        let _ = code.add_fixed(self.layout());
    }

    /// How it unwinds.
    pub(crate) fn layout(&self) -> Fixed {
        fixed("selector".to_owned(), self.span, &self.rows)
    }
}

impl Row {
    /// The layout at a function's first instruction.
    fn at_entry() -> Self {
        Self {
            offset: 0,
            distance: 8,
            from_rbp: false,
            rbp_saved: false,
        }
    }
}

/// A stub that leaves the stack alone.
fn plain(name: String, span: Span) -> Fixed {
    fixed(name, span, &[Row::at_entry()])
}

fn fixed(name: String, span: Span, rows: &[Row]) -> Fixed {
    Fixed {
        name: name.into(),
        range: span.start..span.end(),
        entries: rows
            .iter()
            .map(|row| FixedEntry {
                offset: row.offset,
                base: if row.from_rbp {
                    FixedBase::Rbp
                } else {
                    FixedBase::Rsp
                },
                cfa_from_base: row.distance,
                rbp_saved: row.rbp_saved,
            })
            .collect(),
    }
}

/// Stubs of calls out of a patch module: plain jumps, as a router is.
pub(crate) fn module_stubs(module: &str, span: Span) -> Option<Fixed> {
    (span.size > 0).then(|| plain(format!("call stubs of {module}"), span))
}

/// An entry with its code in `code`, as tests of those who keep it need one.
#[cfg(test)]
pub(crate) fn sample_entry(function: u64, code: Span, slot: u64) -> Entry {
    let at = |offset, size| Span {
        start: code.start + offset,
        size,
    };
    Entry {
        name: "function_0".into(),
        function,
        site: function + 4,
        original: vec![0x90; 6],
        interior: vec![function + 6],
        router: at(0, 8),
        slot,
        copy: at(16, 24),
        boundaries: vec![
            (function + 4, code.start + 16),
            (function + 6, code.start + 18),
        ],
        calls: vec![at(20, 5)],
        thunks: vec![Thunk {
            implementation: code.start,
            span: at(64, 32),
            rows: vec![Row::at_entry()],
        }],
        examined: vec![code.start],
        load: None,
    }
}

/// A selector at `span`.
#[cfg(test)]
pub(crate) fn sample_selector(function: u64, span: Span) -> Selector {
    Selector {
        function,
        token: 0x7300_0001,
        unswitched: function,
        switched: span.start,
        span,
        rows: vec![Row::at_entry()],
    }
}

#[cfg(test)]
mod tests {
    use engraft_elf::SliceMemory;
    use engraft_unwind::{Registers, walk};

    use super::*;

    /// `sub $8, %rsp; call f`, displaced to 0x1000: six bytes push the return address, five
    /// jump to f, five jump back, then comes a literal.
    fn entry_with_a_call() -> Entry {
        let span = |start, size| Span { start, size };
        Entry {
            name: "f".to_owned(),
            function: 0x40_0000,
            site: 0x40_0000,
            original: vec![0x48, 0x83, 0xec, 8, 0xe8, 0, 0, 0, 0],
            interior: vec![0x40_0004],
            router: span(0x2000, 8),
            slot: 0x3000,
            copy: span(0x1000, 32),
            boundaries: vec![
                (0x40_0000, 0x1000),
                (0x40_0004, 0x1004),
                (0x40_0009, 0x100f),
            ],
            calls: vec![span(0x100a, 5)],
            thunks: Vec::new(),
            examined: Vec::new(),
            load: None,
        }
    }

    #[test]
    fn a_displaced_call_unwinds_from_what_it_has_pushed() {
        let mut code = CodeMap::new();
        entry_with_a_call().add_to(&mut code);
        for pc in 0x1000..0x1020 {
            let name = code.name_at(pc).expect("known code");
            assert_eq!(&**name, "displaced prologue of f", "{pc:#x}");
        }
        let stack = [0u8; 64];
        let memory = SliceMemory {
            address: 0x7000,
            bytes: &stack,
        };
        let cfa_at = |rip| {
            let registers = Registers {
                rip,
                rsp: 0x7010,
                ..Registers::default()
            };
            let trace = walk(&code, &memory, &registers);
            (trace.frames[0].alias_of, trace.frames[0].cfa)
        };
        assert_eq!(cfa_at(0x100a), (None, Some(0x7018)));
        assert_eq!(cfa_at(0x100e), (None, Some(0x7018)));
        // Elsewhere the original's rules hold, which nobody has given here.
        assert_eq!(cfa_at(0x1004).0, Some(0x40_0004));
        assert_eq!(cfa_at(0x100f).0, Some(0x40_0009));
    }
}
