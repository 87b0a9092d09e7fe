//! Stacks of stopped threads: what code there is, where threads are in it, and whether that
//! allows switching them.

use std::ops::Range;
use std::sync::Arc;

use engraft_core::{Address, ForbiddenRange, Verdict, check_stack};
use engraft_elf::{ReadMemory, Unreadable};
use engraft_process::{Mapping, Registers};
use engraft_unwind::{Cfi, CodeMap, CodeObject, End, Frame, Section, Trace, Unwinder, scan};

use crate::attached::Attached;
use crate::database::Records;
use crate::error::Error;
use crate::objects::{LoadedObject, Objects};
use crate::redirect::module_stubs;
use crate::space::Span;

/// Functions that threads start in; their frames have no caller.
const BOTTOMS: [&str; 2] = ["_start", "clone"];

/// Bytes of `_start`, which C libraries write in assembly, up to its last call: 38 in the GNU C
/// library, 22 in musl, whose next function is never returned into so near its start.
const LONGEST_ENTRY: u64 = 38;

/// Everything executable in the target, and how to walk through it.
pub(crate) struct Stacks {
    code: CodeMap,
    maps: Vec<Mapping>,
    /// The runtime's text.
    runtime: Range<u64>,
    /// Selectors: a thread inside one has chosen or is about to.
    selectors: Vec<Range<u64>>,
    /// Displaced prologues by their function.
    copies: Vec<(u64, Range<u64>)>,
    /// Thunks by the implementation that they are part of.
    thunks: Vec<(u64, Range<u64>)>,
    /// Bytes that entry jumps have overwritten, by address.
    overwritten: Vec<(u64, [u8; 5])>,
}

impl Stacks {
    pub(crate) fn read(
        process: &Attached,
        objects: &Objects,
        records: Option<&Records>,
    ) -> Result<Self, Error> {
        let maps = process.maps()?;
        let mut code = CodeMap::new();
        for object in objects.iter() {
            add_object(&mut code, process, &maps, object);
        }
        let mut stacks = Self {
            code,
            maps,
            runtime: 0..0,
            selectors: Vec::new(),
            copies: Vec::new(),
            thunks: Vec::new(),
            overwritten: Vec::new(),
        };
        if let Some(records) = records {
            stacks.add_ours(process, records);
        }
        Ok(stacks)
    }

    /// The code that patching has put into the target.
    fn add_ours(&mut self, process: &Attached, records: &Records) {
        let code = &mut self.code;
        let runtime = &records.runtime;
        self.runtime = range(runtime.text);
        let cfi = runtime.eh_frame.and_then(|span| read_cfi(process, span));
        add_code(
            code,
            CodeObject {
                name: "engraft runtime".into(),
                text: ranges(&[runtime.text]),
                cfi,
                functions: [].into(),
                entries: Vec::new(),
                // Only `engraft_enter` has an undefined return address there.
                starts_threads: true,
            },
        );
        for module in &records.modules {
            let cfi = module.eh_frame.and_then(|span| read_cfi(process, span));
            let stubs = module.stubs;
            let text = Span {
                start: module.text.start,
                size: stubs.start - module.text.start,
            };
            add_code(
                code,
                CodeObject {
                    name: (*module.name).into(),
                    text: ranges(&[text]),
                    cfi,
                    functions: [].into(),
                    entries: Vec::new(),
                    starts_threads: false,
                },
            );
            if let Some(stubs) = module_stubs(&module.name, stubs) {
                let _ = code.add_fixed(stubs);
            }
        }
        for entry in records.entries.values() {
            entry.add_to(code);
        }
        for selector in &records.selectors {
            selector.add_to(code);
        }
        self.selectors = records
            .selectors
            .iter()
            .map(|selector| range(selector.span))
            .collect();
        self.copies = records
            .entries
            .values()
            .map(|e| (e.function, range(e.copy)))
            .collect();
        self.thunks = records
            .entries
            .values()
            .flat_map(|entry| &entry.thunks)
            .map(|thunk| (thunk.implementation, range(thunk.span)))
            .collect();
        self.overwritten = records
            .entries
            .values()
            .map(|entry| (entry.site, entry.overwritten()))
            .collect();
    }

    pub(crate) fn unwinder(&self) -> Unwinder<'_> {
        Unwinder::new(&self.code)
    }

    /// The target's memory with its code as it was compiled, for unwinding: an entry jump
    /// may lie over the call that a return address follows.
    pub(crate) fn memory<'m>(&'m self, memory: &'m dyn ReadMemory) -> OriginalCode<'m> {
        OriginalCode {
            memory,
            overwritten: &self.overwritten,
        }
    }

    /// Whether a thread with these registers and this trace may be switched.
    pub(crate) fn judge(
        &self,
        process: &Attached,
        tid: i32,
        registers: &Registers,
        trace: &Trace,
        forbidden: &[ForbiddenRange],
    ) -> Verdict {
        // What it has chosen in there belongs to the universe that it is about to leave.
        if trace
            .frames
            .iter()
            .any(|frame| self.selectors.iter().any(|s| s.contains(&frame.lookup_pc)))
        {
            return Verdict::Running;
        }
        // A thread that is being given back: its own stack begins where it will go on.
        let bottom = trace.frames.last().filter(|_| trace.end == End::Bottom);
        if bottom.is_some_and(|frame| self.runtime.contains(&frame.lookup_pc)) {
            return Verdict::Running;
        }
        let addresses = trace.frames.iter().map(|frame| self.address_of(frame));
        let verdict = check_stack(forbidden, addresses);
        match (&trace.end, verdict) {
            (_, hit @ Verdict::OnStack(_)) => hit,
            (End::Bottom, verdict) => verdict,
            (End::Unreliable(reason), _) => {
                self.scan_stack(process, tid, registers, forbidden, &reason.to_string())
            }
        }
    }

    fn address_of(&self, frame: &Frame) -> Address {
        let thunk = self
            .thunks
            .iter()
            .find(|(_, thunk)| thunk.contains(&frame.lookup_pc));
        match (frame.alias_of, thunk) {
            (Some(original), _) => Address::Exact(original),
            // A thread in a thunk has chosen the implementation that it leads to.
            (None, Some((implementation, _))) => Address::Exact(*implementation),
            (None, None) if frame.lookup_pc == frame.pc => Address::Exact(frame.pc),
            (None, None) => Address::Return(frame.pc),
        }
    }

    /// The second opinion: no word of the whole stack may lead into a forbidden range.
    fn scan_stack(
        &self,
        process: &Attached,
        tid: i32,
        registers: &Registers,
        forbidden: &[ForbiddenRange],
        doubt: &str,
    ) -> Verdict {
        let Some(end) = self.stack_end(process.pid, tid, registers) else {
            return Verdict::Unreliable(format!("{doubt}; and it is not on its own stack"));
        };
        let mut names: Vec<&str> = Vec::new();
        let mut ranges = Vec::new();
        for range in forbidden {
            names.push(&range.old_name);
            ranges.push(range.start..range.start + range.len);
            let (parts, owner) = if range.original {
                (&self.copies, range.old_entry)
            } else {
                (&self.thunks, range.start)
            };
            for (_, part) in parts.iter().filter(|(of, _)| *of == owner) {
                names.push(&range.old_name);
                ranges.push(part.clone());
            }
        }
        for selector in &self.selectors {
            names.push("selector");
            ranges.push(selector.clone());
        }
        let rip = registers.rip;
        if let Some(index) = ranges.iter().position(|range| range.contains(&rip)) {
            return Verdict::OnStack(names[index].to_owned());
        }
        match scan(&process.memory, registers.rsp, end, &ranges) {
            Ok(hits) => match hits.first() {
                None => Verdict::Switched,
                Some(hit) => Verdict::Unreliable(format!(
                    "{doubt}; a word on its stack at {:#x} may lead into {}",
                    hit.address, names[hit.range]
                )),
            },
            Err(error) => Verdict::Unreliable(format!("{doubt}; {error}")),
        }
    }

    /// End of the memory that is surely all of the thread's stack above its stack pointer:
    /// the C libraries put a thread's control block (the FS base) at its upper end, and the
    /// kernel marks the first thread's.
    fn stack_end(&self, pid: i32, tid: i32, registers: &Registers) -> Option<u64> {
        let mapping = self
            .maps
            .iter()
            .find(|mapping| mapping.contains(registers.rsp))?;
        let own = (tid == pid && mapping.path == "[stack]") || mapping.contains(registers.fs_base);
        own.then_some(mapping.end)
    }
}

/// See [`Stacks::memory`].
pub(crate) struct OriginalCode<'m> {
    memory: &'m dyn ReadMemory,
    overwritten: &'m [(u64, [u8; 5])],
}

impl ReadMemory for OriginalCode<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        self.memory.read(address, buffer)?;
        for (site, bytes) in self.overwritten {
            for (at, byte) in (*site..).zip(bytes) {
                let place = usize::try_from(at.wrapping_sub(address)).ok();
                if let Some(place) = place.and_then(|place| buffer.get_mut(place)) {
                    *place = *byte;
                }
            }
        }
        Ok(())
    }
}

fn add_object(code: &mut CodeMap, process: &Attached, maps: &[Mapping], object: &LoadedObject) {
    let text: Vec<Span> = object
        .image
        .segments
        .iter()
        .filter(|segment| segment.executable)
        .map(|segment| Span {
            start: segment.address,
            size: segment.size,
        })
        .collect();
    let cfi = object.cfi(&process.memory, maps);
    // clone3 has no exported name.
    let starts_threads = BOTTOMS
        .iter()
        .any(|name| !object.symbols().lookup(name).is_empty());
    let entry = object.image.entry.filter(|_| object.is_main);
    let entries = entry.map(|entry| entry..entry.saturating_add(LONGEST_ENTRY));
    add_code(
        code,
        CodeObject {
            name: (*object.name).into(),
            text: ranges(&text),
            cfi,
            functions: object.undescribed_functions(),
            entries: entries.into_iter().collect(),
            starts_threads: starts_threads || object.is_main,
        },
    );
}

fn add_code(code: &mut CodeMap, object: CodeObject) {
    // Code that is refused stays unknown, which makes stacks through it unreliable.
    let _ = code.add_object(object);
}

fn ranges(spans: &[Span]) -> Vec<Range<u64>> {
    let some = spans.iter().filter(|span| span.size > 0);
    some.map(|span| range(*span)).collect()
}

pub(crate) fn read_cfi(process: &Attached, span: Span) -> Option<Arc<Cfi>> {
    let mut bytes = vec![0; usize::try_from(span.size).ok()?];
    process.memory.read_bytes(span.start, &mut bytes).ok()?;
    Some(Arc::new(Cfi::new(
        Section {
            address: span.start,
            bytes: bytes.into(),
        },
        None,
    )))
}

fn range(span: Span) -> Range<u64> {
    span.start..span.end()
}

/// Registers in the form that unwinding wants.
pub(crate) fn unwind_registers(from: &Registers) -> engraft_unwind::Registers {
    engraft_unwind::Registers {
        rax: from.rax,
        rbx: from.rbx,
        rcx: from.rcx,
        rdx: from.rdx,
        rsi: from.rsi,
        rdi: from.rdi,
        rbp: from.rbp,
        rsp: from.rsp,
        r8: from.r8,
        r9: from.r9,
        r10: from.r10,
        r11: from.r11,
        r12: from.r12,
        r13: from.r13,
        r14: from.r14,
        r15: from.r15,
        rip: from.rip,
    }
}
