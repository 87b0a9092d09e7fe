//! Walks after every single instruction of real programs, against a shadow call stack.
//!
//! The shadow stack knows nothing of call frame information: a call instruction pushes the
//! slot of its return address, a delivered signal pushes the slots in its frame, and a slot
//! is gone when the stack pointer has risen above it (return, longjmp, exception alike).

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use engraft_unwind::{End, Frame, ReadMemory, Reason, ReasonKind, Registers, Trace, Unwinder};
use iced_x86::{Decoder, DecoderOptions, FlowControl};
use nix::sys::signal::Signal;
use support::address_space::AddressSpace;
use support::tracee::{Stop, Tracee};

/// Offset of the saved rip in what the kernel pushes for a signal: the restorer's address,
/// 40 bytes of `struct ucontext`, sixteen general registers.
const INTERRUPTED_PC: u64 = 8 + 40 + 16 * 8;
/// A prime, so that the signals land on all kinds of instructions.
const STEPS_BETWEEN_SIGNALS: usize = 211;
const MAX_STEPS: usize = 400_000;

/// Slots of all return addresses, the outermost first.
struct ShadowStack {
    slots: Vec<u64>,
    alternate: Range<u64>,
}

impl ShadowStack {
    /// Drops the slots that the stack pointer has left behind.
    fn settle(&mut self, rsp: u64) {
        while let Some(&top) = self.slots.last() {
            let gone = match (self.alternate.contains(&rsp), self.alternate.contains(&top)) {
                (true, false) => false,
                (false, true) => true,
                _ => top < rsp,
            };
            if !gone {
                break;
            }
            self.slots.pop();
        }
    }
}

#[derive(Debug, Default)]
struct Score {
    compared: usize,
    in_vdso: usize,
    signals: usize,
    jumping: usize,
    unreliable: BTreeMap<&'static str, usize>,
}

struct Oracle<'a> {
    space: &'a AddressSpace,
    unwinder: Unwinder<'a>,
    shadow: ShadowStack,
    /// Slots above `main`'s, the innermost first.
    tail: Vec<u64>,
    instructions: HashMap<u64, FlowControl>,
    /// Slots that a walk left out although the stack pointer is still below them.
    abandoned: HashSet<u64>,
    score: Score,
}

fn slots_of(trace: &Trace) -> Vec<u64> {
    trace
        .frames
        .iter()
        .skip(1)
        .filter_map(|frame| frame.slot)
        .collect()
}

impl Oracle<'_> {
    fn flow_control(&mut self, pc: u64) -> FlowControl {
        let memory = &self.space.memory;
        *self.instructions.entry(pc).or_insert_with(|| {
            let mut bytes = [0; 15];
            let readable = |length: &usize| memory.read(pc, &mut bytes[..*length]).is_ok();
            let length = (1..=15)
                .rev()
                .find(readable)
                .expect("executing code is readable");
            let mut decoder = Decoder::with_ip(64, &bytes[..length], pc, DecoderOptions::NONE);
            decoder.decode().flow_control()
        })
    }

    /// Updates the shadow stack after a step from `before` to `after`.
    fn follow(&mut self, before: &Registers, after: &Registers, delivered: bool) {
        if delivered {
            self.score.signals += 1;
            self.shadow.slots.push(after.rsp + INTERRUPTED_PC);
            self.shadow.slots.push(after.rsp);
            return;
        }
        let flow = self.flow_control(before.rip);
        let returned = flow == FlowControl::Return && self.abandoned.contains(&before.rsp);
        assert!(
            !returned,
            "{:#x}: a frame that was left out is returned to",
            after.rip
        );
        self.shadow.settle(after.rsp);
        let shadow = &self.shadow.slots;
        self.abandoned.retain(|slot| shadow.contains(slot));
        let pushed_return = after.rsp == before.rsp.wrapping_sub(8);
        // The kernel executes `syscall`, which is no call here; nor is one that faulted.
        if after.rip != before.rip
            && pushed_return
            && matches!(flow, FlowControl::Call | FlowControl::IndirectCall)
        {
            self.shadow.slots.push(after.rsp);
        }
    }

    /// Slots that a walk should find, the innermost first.
    fn expected(&self) -> Vec<u64> {
        let live = self.shadow.slots.iter().rev();
        live.chain(&self.tail).copied().collect()
    }

    /// The few places where doubt is right, all of them short.
    fn explain(&self, trace: &Trace, reason: &Reason) -> Option<&'static str> {
        let object = reason.object.as_deref().unwrap_or_default();
        let unwinding = |frame: &Frame| {
            let object = self.space.code.name_at(frame.lookup_pc);
            object.is_some_and(|name| name.starts_with("libgcc_s"))
                || self.space.name(frame.lookup_pc).starts_with("_Unwind")
        };
        match reason.kind {
            ReasonKind::StackNotGrowing { .. } if object.starts_with("libc.") => {
                Some("longjmp by a buffer that is not on the stack")
            }
            ReasonKind::StackNotGrowing { .. } if self.space.name(reason.pc) == "__longjmp" => {
                Some("longjmp by a buffer that is not on the stack")
            }
            ReasonKind::NoFrameDescription if self.space.name(reason.pc) == "?" => {
                Some("the undescribed PLT of a static executable's indirect functions")
            }
            ReasonKind::NoFrameDescription if self.space.name(reason.pc).contains(".cold") => {
                Some("a part of a function without call frame information, which is jumped to")
            }
            ReasonKind::UnknownCode
            | ReasonKind::NotAfterCall
            | ReasonKind::StackNotGrowing { .. }
                if trace.frames.iter().any(unwinding) =>
            {
                Some("libgcc is putting a landing pad in place of a return address")
            }
            _ => None,
        }
    }

    fn compare(&mut self, registers: &Registers) {
        let trace = self.unwinder.walk(&self.space.memory, registers);
        let place = self
            .space
            .code
            .name_at(registers.rip)
            .map_or("?", |name| name);
        self.score.in_vdso += usize::from(place == "[vdso]");
        if let End::Unreliable(reason) = &trace.end {
            let Some(why) = self.explain(&trace, reason) else {
                panic!("unexplained: {reason} (top in {place})");
            };
            *self.score.unreliable.entry(why).or_default() += 1;
            return;
        }
        let slots = slots_of(&trace);
        let expected = self.expected();
        if slots == expected {
            self.score.compared += 1;
        } else if let Some(omitted) = omitted_from(&expected, &slots) {
            // While longjmp or an exception is about to leave frames behind, the rules already
            // describe where it goes. Right, if nothing ever returns to what they omit.
            self.abandoned.extend(omitted);
            self.score.jumping += 1;
        } else {
            let name = |frame: &Frame| (self.space.name(frame.lookup_pc), frame.slot);
            let names: Vec<_> = trace.frames.iter().map(name).collect();
            let pc = registers.rip;
            panic!("at {pc:#x} in {place}: walked {names:#x?}, expected {expected:#x?}");
        }
    }
}

/// What must be left out of `expected` to make it `found`; `None` when that is not possible.
fn omitted_from(expected: &[u64], found: &[u64]) -> Option<Vec<u64>> {
    let mut found = found.iter().peekable();
    let keep = |slot: &&u64| found.next_if(|next| next == slot).is_none();
    let omitted = expected.iter().filter(keep).copied().collect();
    found.next().is_none().then_some(omitted)
}

/// Steps through one program from the entry of `main` to its return.
fn step_through(fixture: &str, compiler: &str) -> Score {
    let program = support::compile(fixture, compiler);
    let tracee = Tracee::start(&program);
    let main = AddressSpace::of(tracee.pid.as_raw())
        .symbols
        .address("main");
    tracee.run_to(main);
    let space = AddressSpace::of(tracee.pid.as_raw());
    let alternate = space.symbols.object("alternate_stack");
    let entry = tracee.registers();
    let mut unwinder = Unwinder::new(&space.code);
    let start = unwinder.walk(&space.memory, &entry);
    let names: Vec<_> = start
        .frames
        .iter()
        .map(|frame| space.name(frame.lookup_pc))
        .collect();
    assert!(start.is_complete(), "{compiler}: {names:?} {:?}", start.end);
    assert_eq!(names.first().map(String::as_str), Some("main"));
    assert_eq!(
        names.last().map(String::as_str),
        Some("_start"),
        "{names:?}"
    );
    let slots = slots_of(&start);
    assert_eq!(
        slots[0], entry.rsp,
        "main's return address is on top at its entry"
    );
    let mut oracle = Oracle {
        space: &space,
        unwinder,
        shadow: ShadowStack {
            slots: vec![entry.rsp],
            alternate,
        },
        tail: slots[1..].to_vec(),
        instructions: HashMap::new(),
        abandoned: HashSet::new(),
        score: Score::default(),
    };
    drive(&tracee, &mut oracle, entry);
    oracle.score
}

fn drive(tracee: &Tracee, oracle: &mut Oracle<'_>, entry: Registers) {
    let handler = oracle.space.symbols.find("handler");
    let mut before = entry;
    let mut pending = None;
    for step in 1..MAX_STEPS {
        oracle.compare(&before);
        if handler.is_some() && step % STEPS_BETWEEN_SIGNALS == 0 && step > 2_000 {
            pending = pending.or(Some(Signal::SIGURG));
        }
        let delivering = pending.take();
        match tracee.step(delivering) {
            Stop::Trap => {}
            Stop::Signal(signal) => pending = Some(signal),
            Stop::Gone => panic!("the program ended within main"),
        }
        let after = tracee.registers();
        let delivered = delivering.is_some() && Some(after.rip) == handler;
        oracle.follow(&before, &after, delivered);
        if oracle.shadow.slots.is_empty() {
            return;
        }
        before = after;
    }
    panic!("main did not return within {MAX_STEPS} steps");
}

fn check(fixture: &str, compiler: &str) {
    let score = step_through(fixture, compiler);
    assert!(
        score.jumping * 50 <= score.compared,
        "{} walks left frames out",
        score.jumping
    );
    let unreliable: usize = score.unreliable.values().sum();
    println!("{fixture} {compiler}: {score:#?}");
    assert!(
        score.compared >= 5_000,
        "only {} steps compared",
        score.compared
    );
    // Measured: 0.1 % in C, 0.5 % in static executables and where exceptions fly all the time.
    assert!(
        unreliable * 100 <= score.compared,
        "{unreliable} unreliable walks"
    );
}

/// Few enough that each compiler's program is stepped once, in parallel tests.
macro_rules! programs {
    ($($name:ident: $fixture:literal, $compiler:literal;)*) => {
        $(#[test]
        fn $name() {
            check($fixture, concat!($compiler, " -include begin_traced.h"));
        })*
    };
}

programs! {
    c_optimized: "calls.c", "gcc -O2";
    c_unoptimized: "calls.c", "gcc -O0";
    c_with_frame_pointers: "calls.c", "gcc -O2 -fno-omit-frame-pointer";
    c_without_frame_pointers: "calls.c", "gcc -O2 -fomit-frame-pointer";
    c_small: "calls.c", "gcc -Os -fcf-protection=full";
    c_bound_at_start: "calls.c", "gcc -O2 -Wl,-z,now -fno-plt";
    c_static: "calls.c", "gcc -O2 -static";
    c_static_pie: "calls.c", "gcc -O1 -static-pie";
    c_clang: "calls.c", "clang -O2";
    c_undescribed: "calls.c", "gcc -O2 -fno-asynchronous-unwind-tables";
    c_undescribed_unoptimized: "calls.c", "gcc -O0 -fno-asynchronous-unwind-tables";
    c_undescribed_with_frame_pointers: "calls.c",
        "gcc -O3 -fno-omit-frame-pointer -fno-asynchronous-unwind-tables";
    c_undescribed_small: "calls.c", "gcc -Os -fno-asynchronous-unwind-tables";
    c_undescribed_clang: "calls.c", "clang -O2 -fno-asynchronous-unwind-tables";
    cxx_exceptions: "exceptions.cc", "g++ -O2";
    cxx_exceptions_unoptimized: "exceptions.cc", "g++ -O0";
    cxx_exceptions_static: "exceptions.cc", "g++ -O2 -static-pie";
}
