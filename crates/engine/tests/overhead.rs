//! What a patch costs outside a transition: a direct and an indirect jump on the way to the
//! replacement, and nothing anywhere else.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engraft_engine::Engine;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use support::answers::{HEAD, livepatch};
use support::code::{Code, read_code, read_memory};
use support::{Program, Workshop, load, settle};

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((noipa)) int kept(int x) { return x * 3 + 1; }
__attribute__((noipa)) int dropped(int x) { return x * 5 + 2; }
__attribute__((noipa)) int untouched(int x) { return x * 7 + 3; }
void reply(const char *question)
{
	int x = atoi(question);
	printf("%d %d %d", kept(x), dropped(x), untouched(x));
}
"#;

/// Replacements that can be told by their first instruction: `mov $MARK, %eax`.
const PATCH: &str = r#"
#define MARKED(name, mark) \
	int name(int x); \
	__asm__(".text\n.type " #name ", @function\n" #name ":\n.cfi_startproc\n" MARK \
		"movl $" #mark ", %eax\nret\n.cfi_endproc\n.size " #name ", . - " #name)
MARKED(new_kept, 111111);
MARKED(new_dropped, 222222);
"#;

const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
/// `jmp rel32`
const DIRECT_JUMP: &[u8] = &[0xe9];
/// `jmp *slot(%rip)`
const INDIRECT_JUMP: &[u8] = &[0xff, 0x25];

/// The executable mappings of a process that are not engraft's, with their contents.
fn all_code(pid: i32) -> BTreeMap<u64, Vec<u8>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let mut code = BTreeMap::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (
            fields.next().expect("range"),
            fields.next().expect("access"),
        );
        if !access.starts_with("r-x") || line.contains("/memfd:engraft") {
            continue;
        }
        let (start, end) = range.split_once('-').expect("a range");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (number(start), number(end));
        code.insert(start, read_memory(pid, start, (end - start) as usize));
    }
    assert!(code.len() >= 3, "executable, C library, loader: {maps}");
    code
}

/// Asserts that code differs from what it was in the first bytes of these functions only.
fn assert_changed_only(pid: i32, before: &BTreeMap<u64, Vec<u8>>, sites: &[u64]) {
    let now = all_code(pid);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        now.keys().collect::<Vec<_>>()
    );
    for (start, bytes) in before {
        for (offset, (old, new)) in bytes.iter().zip(&now[start]).enumerate() {
            let address = start + offset as u64;
            let inside = sites
                .iter()
                .any(|site| (*site..site + 5).contains(&address));
            assert!(
                old == new || inside,
                "{address:#x}: {old:#x} became {new:#x}"
            );
        }
    }
    for site in sites {
        assert_eq!(read_memory(pid, *site, 1), DIRECT_JUMP);
    }
}

/// An instruction that was executed: where, and its first bytes.
#[derive(Debug)]
struct Instruction {
    address: u64,
    bytes: Vec<u8>,
}

/// Calls a function on the program's only thread, which waits for input, step by step, until
/// it returns.
fn step_through(pid: i32, function: u64) -> Vec<Instruction> {
    let thread = Pid::from_raw(pid);
    let wait_for_stop = |expected: &dyn Fn(&WaitStatus) -> bool| {
        let status = waitpid(thread, None).expect("wait");
        assert!(expected(&status), "{status:?}");
    };
    ptrace::seize(thread, ptrace::Options::empty()).expect("seize");
    ptrace::interrupt(thread).expect("interrupt");
    wait_for_stop(&|status| matches!(status, WaitStatus::PtraceEvent(..)));
    let outside = ptrace::getregs(thread).expect("registers");
    let mut registers = outside;
    // Below the red zone; whatever is in that word is taken for the return address.
    registers.rsp = (outside.rsp - 4096) & !15 | 8;
    let word = read_memory(pid, registers.rsp, 8);
    let return_address = u64::from_le_bytes(word.try_into().expect("a word"));
    registers.rip = function;
    registers.rdi = 5;
    registers.orig_rax = u64::MAX;
    ptrace::setregs(thread, registers).expect("registers");
    let mut executed = Vec::new();
    loop {
        let now = ptrace::getregs(thread).expect("registers");
        if now.rsp > registers.rsp {
            assert_eq!(now.rip, return_address);
            break;
        }
        executed.push(Instruction {
            address: now.rip,
            bytes: read_memory(pid, now.rip, 5),
        });
        assert!(executed.len() < 100, "{executed:x?}");
        ptrace::step(thread, None).expect("step");
        wait_for_stop(&|status| matches!(status, WaitStatus::Stopped(_, Signal::SIGTRAP)));
    }
    ptrace::setregs(thread, outside).expect("registers");
    ptrace::detach(thread, None).expect("detach");
    executed
}

struct Stage {
    workshop: Workshop,
    path: PathBuf,
    program: Program,
    flags: &'static [&'static str],
    /// What a function begins with, besides its own code.
    mark: &'static [u8],
}

impl Stage {
    fn new(flags: &'static [&'static str]) -> Self {
        let workshop = Workshop::new();
        let path = workshop.answering("cc", "program", PROGRAM, flags);
        let program = Program::start(&path);
        let marked = flags.contains(&"-fcf-protection=full");
        Self {
            workshop,
            path,
            program,
            flags,
            mark: if marked { ENDBR64 } else { &[] },
        }
    }

    fn module(&self, name: &str, functions: &[(&str, &str)], replace: bool) -> Vec<u8> {
        let mark = if self.mark.is_empty() {
            ""
        } else {
            "endbr64\\n"
        };
        let source = livepatch(PATCH, functions);
        let source = source.replace(HEAD, &format!("{HEAD}#define MARK \"{mark}\"\n"));
        let source = if replace {
            source.replace(".objs = objs", ".objs = objs, .replace = true")
        } else {
            source
        };
        self.workshop.module_with(name, &source, self.flags)
    }

    fn code(&self, name: &str) -> Code {
        read_code(&self.program, Path::new(&self.path), name)
    }

    /// The function goes through both jumps, and nothing else, to code that begins so.
    fn assert_redirected(&self, function: &Code, first: &[u8]) {
        let executed = step_through(self.program.pid(), function.address);
        let mut expected = vec![DIRECT_JUMP, INDIRECT_JUMP];
        if !self.mark.is_empty() {
            expected.insert(0, self.mark);
            expected.push(self.mark);
        }
        expected.push(first);
        for (found, wanted) in executed.iter().zip(&expected) {
            assert!(
                found.bytes.starts_with(wanted),
                "{executed:x?}, not {expected:x?}"
            );
        }
        assert_eq!(
            executed.len(),
            expected.len() + 1,
            "and a ret: {executed:x?}"
        );
    }

    /// The function runs its own code from the first byte on, as in the file.
    fn assert_original(&self, function: &Code) {
        let executed = step_through(self.program.pid(), function.address);
        for Instruction { address, bytes } in &executed {
            let offset = address.wrapping_sub(function.address) as usize;
            let own = function
                .bytes
                .get(offset..offset.saturating_add(bytes.len()));
            assert_eq!(own, Some(&bytes[..]), "{executed:x?}");
        }
    }
}

fn costs_two_jumps(flags: &'static [&'static str]) {
    let mut stage = Stage::new(flags);
    let pid = stage.program.pid();
    let (kept, dropped, untouched) = (
        stage.code("kept"),
        stage.code("dropped"),
        stage.code("untouched"),
    );
    let site = |code: &Code| code.address + stage.mark.len() as u64;
    let (kept_site, dropped_site) = (site(&kept), site(&dropped));
    let before = all_code(pid);
    let both = [("kept", "new_kept"), ("dropped", "new_dropped")];
    let first = stage.module("first", &both, false);
    let second = stage.module("second", &[("kept", "new_kept")], true);
    assert_eq!(stage.program.ask("5"), "16 27 38");
    stage.assert_original(&kept);

    let mut engine = Engine::open(pid).expect("open");
    load(&mut engine, "first", &first, &[]).expect("load");
    settle(&mut engine);
    drop(engine);
    assert_eq!(stage.program.ask("5"), "111111 222222 38");
    assert_changed_only(pid, &before, &[kept_site, dropped_site]);
    let mov = |mark: u32| [&[0xb8][..], &mark.to_le_bytes()].concat();
    stage.assert_redirected(&kept, &mov(111_111));
    stage.assert_redirected(&dropped, &mov(222_222));
    stage.assert_original(&untouched);

    // A cumulative patch without `dropped`: its original bytes are back.
    let mut engine = Engine::open(pid).expect("open");
    load(&mut engine, "second", &second, &[]).expect("load");
    settle(&mut engine);
    drop(engine);
    assert_eq!(stage.program.ask("5"), "111111 27 38");
    assert_changed_only(pid, &before, &[kept_site]);
    stage.assert_redirected(&kept, &mov(111_111));
    stage.assert_original(&dropped);
    stage.assert_original(&untouched);

    let mut engine = Engine::open(pid).expect("open");
    engine.disable("second", false).expect("disable");
    settle(&mut engine);
    drop(engine);
    assert_eq!(stage.program.ask("5"), "16 27 38");
    assert_changed_only(pid, &before, &[]);
    stage.assert_original(&kept);
    stage.program.finish();
}

#[test]
fn a_patched_function_costs_two_jumps_and_others_nothing() {
    costs_two_jumps(&["-fcf-protection=none"]);
}

#[test]
fn a_patched_function_with_endbr64_costs_two_jumps_and_others_nothing() {
    costs_two_jumps(&["-fcf-protection=full"]);
}
