//! A child's thread is lent to the runtime and comes back as it was.

mod support;

use std::arch::{asm, naked_asm};
use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engraft_abi::{
    CallFrame, CommandKind, KlpObject, KlpPatch, Mailbox, RecordHeader, RingHeader, UpcallKind,
};
use support::Runtime;
use support::random::{Random, seed};
use support::session::Session;
use support::tracee::Tracee;

const STACK: usize = 64 * 1024;

/// Memory that parent and child share, zeroed.
fn map_shared(length: usize) -> u64 {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping where the kernel likes.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    assert_ne!(place, libc::MAP_FAILED);
    place as u64
}

fn stack_top() -> u64 {
    map_shared(STACK) + STACK as u64
}

/// The registers of [`load_spin_store`], in its order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Registers {
    /// rax, rbx, rdx, rsi, rdi, rbp, r8 to r14.
    general: [u64; 13],
    flags: u64,
    ymm: [[u64; 4]; 16],
    mxcsr: u32,
    x87_control: u32,
    st0: f64,
}

#[repr(C)]
struct Shared {
    before: Registers,
    after: Registers,
    /// The child spins with everything loaded.
    loaded: AtomicU64,
    /// The parent lets it go on; ends up in rcx.
    release: AtomicU64,
}

const BEFORE: usize = offset_of!(Shared, before);
const AFTER: usize = offset_of!(Shared, after);

/// Loads `before`, waits for `release` without touching any register but rcx or any flag,
/// and stores what is there into `after`.
#[unsafe(naked)]
extern "C" fn load_spin_store(shared: *mut Shared) {
    naked_asm!(
        "push rbx; push rbp; push r12; push r13; push r14; push r15",
        "mov r15, rdi",
        "sub rsp, 16",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 8]",
        "ldmxcsr [r15 + {before} + {mxcsr}]",
        "fldcw [r15 + {before} + {x87}]",
        "fld qword ptr [r15 + {before} + {st0}]",
        ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
        "vmovdqu ymm\\i, [r15 + {before} + {ymm} + 32 * \\i]",
        ".endr",
        "mov rax, [r15 + {before}]",
        "mov rbx, [r15 + {before} + 8]",
        "mov rdx, [r15 + {before} + 16]",
        "mov rsi, [r15 + {before} + 24]",
        "mov rdi, [r15 + {before} + 32]",
        "mov rbp, [r15 + {before} + 40]",
        "mov r8, [r15 + {before} + 48]",
        "mov r9, [r15 + {before} + 56]",
        "mov r10, [r15 + {before} + 64]",
        "mov r11, [r15 + {before} + 72]",
        "mov r12, [r15 + {before} + 80]",
        "mov r13, [r15 + {before} + 88]",
        "mov r14, [r15 + {before} + 96]",
        "push qword ptr [r15 + {before} + {flags}]",
        "popfq",
        "mov qword ptr [r15 + {loaded}], 1",
        "2: mov rcx, [r15 + {release}]",
        "jrcxz 2b",
        "pushfq",
        "pop [r15 + {after} + {flags}]",
        "cld",
        "mov [r15 + {after}], rax",
        "mov [r15 + {after} + 8], rbx",
        "mov [r15 + {after} + 16], rdx",
        "mov [r15 + {after} + 24], rsi",
        "mov [r15 + {after} + 32], rdi",
        "mov [r15 + {after} + 40], rbp",
        "mov [r15 + {after} + 48], r8",
        "mov [r15 + {after} + 56], r9",
        "mov [r15 + {after} + 64], r10",
        "mov [r15 + {after} + 72], r11",
        "mov [r15 + {after} + 80], r12",
        "mov [r15 + {after} + 88], r13",
        "mov [r15 + {after} + 96], r14",
        ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
        "vmovdqu [r15 + {after} + {ymm} + 32 * \\i], ymm\\i",
        ".endr",
        "vzeroupper",
        "stmxcsr [r15 + {after} + {mxcsr}]",
        "fnstcw [r15 + {after} + {x87}]",
        "fstp qword ptr [r15 + {after} + {st0}]",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 8]",
        "add rsp, 16",
        "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
        "ret",
        before = const BEFORE,
        after = const AFTER,
        flags = const offset_of!(Registers, flags),
        ymm = const offset_of!(Registers, ymm),
        mxcsr = const offset_of!(Registers, mxcsr),
        x87 = const offset_of!(Registers, x87_control),
        st0 = const offset_of!(Registers, st0),
        loaded = const offset_of!(Shared, loaded),
        release = const offset_of!(Shared, release),
    )
}

/// Ruins everything that a called function may ruin, after checking what it may rely on.
extern "C" fn ruin_registers(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> u64 {
    let (flags, mxcsr): (u64, u32);
    let mut slot = 0_u32;
    // SAFETY: changes registers that are declared as changed.
    unsafe {
        asm!("pushfq", "pop {}", "stmxcsr [{}]", out(reg) flags, in(reg) &raw mut slot);
        mxcsr = slot;
        asm!(
            "vpcmpeqd ymm0, ymm0, ymm0",
            "vmovdqa ymm7, ymm0",
            "vmovdqa ymm15, ymm0",
            "vzeroall",
            "fninit",
            "fldpi",
            "stc",
            out("ymm0") _, out("ymm7") _, out("ymm15") _,
            out("rax") _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _,
        );
    }
    const DIRECTION: u64 = 1 << 10;
    if flags & DIRECTION != 0 || mxcsr != 0x1f80 {
        return 0;
    }
    a + 10 * b + 100 * c + 1000 * d + 10_000 * e + 100_000 * f
}

#[test]
fn every_register_comes_back() {
    assert!(is_x86_feature_detected!("avx"), "this test needs AVX");
    let runtime = Runtime::load();
    let seed = seed();
    let mut random = Random::new(seed);
    const CARRY_PARITY_ZERO_SIGN_DIRECTION_OVERFLOW: u64 = 0x1 | 0x4 | 0x40 | 0x80 | 0x400 | 0x800;
    const ALWAYS: u64 = 0x2 | 0x200;
    for round in 0..40 {
        let flags = match round {
            0 => CARRY_PARITY_ZERO_SIGN_DIRECTION_OVERFLOW,
            1 => 0,
            _ => random.next() & CARRY_PARITY_ZERO_SIGN_DIRECTION_OVERFLOW,
        };
        let before = Registers {
            general: std::array::from_fn(|_| random.next()),
            flags: flags | ALWAYS,
            ymm: std::array::from_fn(|_| std::array::from_fn(|_| random.next())),
            // Rounding towards zero, flush to zero; single precision on the x87.
            mxcsr: 0xff80,
            x87_control: 0x0c7f,
            st0: round as f64,
        };
        let shared = map_shared(size_of::<Shared>()) as *mut Shared;
        // SAFETY: new shared memory of that size.
        let state = unsafe {
            (&raw mut (*shared).before).write(before);
            &*shared
        };
        let stack = stack_top();
        let child = Tracee::fork(|| {
            load_spin_store(shared);
            7
        });
        while state.loaded.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        child.seize_and_stop();
        let registers = child.registers();
        let mut session = Session::enter(&runtime, &child, &registers, stack);
        assert_eq!(session.wait_for_question(), (UpcallKind::Ready, 1, 0));
        assert_eq!(
            session.frame_marks(),
            (child.pid() as u64, child.pid() as u64, 1)
        );
        let pid = session.execute(CommandKind::Syscall, libc::SYS_getpid as u64, &[]);
        assert_eq!(pid, child.pid() as u64);
        let function = ruin_registers as *const () as u64;
        let sum = session.execute(CommandKind::Call, function, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(sum, 654_321);
        session.answer(CommandKind::Return, 0, &[0]);
        child.detach();
        state.release.store(1, Ordering::Release);
        assert_eq!(child.exit_code(), 7);
        assert_eq!(state.after, before, "seed {seed}, round {round}");
    }
}

extern "C" fn monotonic_milliseconds() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the place is live.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// What the child checks of the runtime's own marks once its thread is its own again.
fn is_given_back(runtime: &Runtime) -> bool {
    let frame = runtime.symbol(engraft_runtime::SYM_FRAME) as *const CallFrame;
    let mailbox = runtime.symbol(engraft_runtime::SYM_MAILBOX) as *const Mailbox;
    // SAFETY: both are the runtime's, and nothing serves now.
    unsafe {
        (&raw const (*frame).owner).read_volatile() == 0
            && (&raw const (*frame).entered).read_volatile() == 0
            && (&raw const (*frame).last_owner).read_volatile() == u64::from(std::process::id())
            && (&raw const (*mailbox).depth).read_volatile() == 0
            && (&raw const (*mailbox).upcall).read_volatile() == 0
    }
}

/// Runs `block` in a child, stops it there, sends it into the runtime and lets `tool` talk;
/// whatever the tool does, the call must end as if nothing had happened.
fn interrupt_blocked_call(block: fn() -> i32, tool: impl FnOnce(&Runtime, &Tracee, Session<'_>)) {
    let runtime = Runtime::load();
    let started = map_shared(8);
    let stack = stack_top();
    let child = Tracee::fork(|| {
        // SAFETY: the shared word.
        unsafe { (started as *const AtomicU64).as_ref() }
            .unwrap()
            .store(1, Ordering::Release);
        let begin = monotonic_milliseconds();
        if block() != 0 {
            return 1;
        }
        let elapsed = monotonic_milliseconds() - begin;
        if !(790..1300).contains(&elapsed) {
            return 2;
        }
        if is_given_back(&runtime) { 7 } else { 3 }
    });
    // SAFETY: the shared word.
    let started = unsafe { (started as *const AtomicU64).as_ref() }.unwrap();
    while started.load(Ordering::Acquire) == 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(300));
    child.seize_and_stop();
    let mut registers = child.registers();
    const RESTART_BLOCK: i64 = -516;
    assert_eq!(
        registers.rax as i64, RESTART_BLOCK,
        "the child is not blocked"
    );
    registers.rax = libc::SYS_restart_syscall as u64;
    registers.rip -= 2;
    let session = Session::enter(&runtime, &child, &registers, stack);
    tool(&runtime, &child, session);
    assert_eq!(child.exit_code(), 7);
}

fn block_in_nanosleep() -> i32 {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 800_000_000,
    };
    // SAFETY: the place is live.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) }
}

fn block_in_poll() -> i32 {
    // SAFETY: no descriptors.
    unsafe { libc::poll(std::ptr::null_mut(), 0, 800) }
}

#[test]
fn a_tool_that_detaches_at_once_leaves_a_sleeper_asleep() {
    interrupt_blocked_call(block_in_nanosleep, |_, child, _| child.detach());
}

#[test]
fn a_tool_that_detaches_at_once_leaves_a_poller_polling() {
    interrupt_blocked_call(block_in_poll, |_, child, _| child.detach());
}

#[test]
fn a_sleeper_sleeps_on_after_commands() {
    interrupt_blocked_call(block_in_nanosleep, |_, child, mut session| {
        session.wait_for_question();
        session.execute(CommandKind::Syscall, libc::SYS_gettid as u64, &[]);
        session.answer(CommandKind::Return, 0, &[0]);
        child.detach();
    });
}

static ENABLE_PATCH: AtomicU64 = AtomicU64::new(0);

/// What a module's init function does.
extern "C" fn enable(patch: u64) -> i64 {
    let function: extern "C" fn(u64) -> i32 =
        // SAFETY: the parent has put klp_enable_patch() there before the fork.
        unsafe { std::mem::transmute(ENABLE_PATCH.load(Ordering::Relaxed)) };
    i64::from(function(patch))
}

fn sample_patch() -> u64 {
    let objects: &'static [KlpObject; 2] = Box::leak(Box::new([
        KlpObject {
            funcs: 8,
            ..KlpObject::default()
        },
        KlpObject::default(),
    ]));
    let patch = KlpPatch {
        module: 8,
        objects: objects.as_ptr() as u64,
        ..KlpPatch::default()
    };
    std::ptr::from_ref(Box::leak(Box::new(patch))) as u64
}

#[test]
fn enabling_asks_the_tool_and_returns_its_answer() {
    let patch = sample_patch();
    interrupt_blocked_call(block_in_nanosleep, |runtime, child, mut session| {
        let enable_patch = runtime.symbol("klp_enable_patch");
        child.write(ENABLE_PATCH.as_ptr() as u64, enable_patch);
        session.wait_for_question();
        let outer = session.answer(CommandKind::Call, enable as *const () as u64, &[patch]);
        assert_eq!(
            session.wait_for_question(),
            (UpcallKind::EnablePatch, 2, patch)
        );
        let inner = session.answer(CommandKind::Syscall, libc::SYS_getpid as u64, &[]);
        assert_eq!(session.wait_for_question(), (UpcallKind::Ready, 2, patch));
        assert_eq!(session.result(inner), child.pid() as u64);
        // A callback that enables another patch: one level deeper.
        let third = session.answer(CommandKind::Call, enable as *const () as u64, &[patch]);
        assert_eq!(
            session.wait_for_question(),
            (UpcallKind::EnablePatch, 3, patch)
        );
        session.answer(CommandKind::Return, 0, &[0]);
        assert_eq!(session.wait_for_question(), (UpcallKind::Ready, 2, patch));
        assert_eq!(session.result(third), 0);
        let busy = -i64::from(libc::EBUSY);
        let answer = session.answer(CommandKind::Return, 0, &[busy as u64]);
        assert_eq!(session.wait_for_question(), (UpcallKind::Ready, 1, 0));
        assert_eq!(session.result(answer) as i64, busy);
        assert_eq!(session.result(outer) as i64, busy);
        // The tool is asked whatever the pointer is: it can look at it without a crash.
        let outer = session.answer(CommandKind::Call, enable as *const () as u64, &[0]);
        assert_eq!(session.wait_for_question(), (UpcallKind::EnablePatch, 2, 0));
        let invalid = -i64::from(libc::EINVAL);
        session.answer(CommandKind::Return, 0, &[invalid as u64]);
        assert_eq!(session.wait_for_question(), (UpcallKind::Ready, 1, 0));
        assert_eq!(session.result(outer) as i64, invalid);
        session.answer(CommandKind::Return, 0, &[0]);
        child.detach();
    });
}

#[test]
fn enabling_is_interrupted_when_the_tool_is_gone() {
    let patch = sample_patch();
    interrupt_blocked_call(block_in_nanosleep, |runtime, child, mut session| {
        child.write(
            ENABLE_PATCH.as_ptr() as u64,
            runtime.symbol("klp_enable_patch"),
        );
        session.wait_for_question();
        let call = session.answer(CommandKind::Call, enable as *const () as u64, &[patch]);
        assert_eq!(
            session.wait_for_question(),
            (UpcallKind::EnablePatch, 2, patch)
        );
        child.detach();
        // The results stay, for the tool that comes next.
        let deadline = Instant::now() + Duration::from_secs(5);
        while session.frame_marks().0 != 0 {
            assert!(Instant::now() < deadline, "the thread was not given back");
            std::thread::yield_now();
        }
        assert_eq!(session.result(call) as i64, -i64::from(libc::EINTR));
    });
}

#[test]
fn the_tool_writes_lines_into_the_log() {
    interrupt_blocked_call(block_in_nanosleep, |runtime, child, mut session| {
        session.wait_for_question();
        const TEXT: &[u8; 29] = b"livepatch: enabling patch 'x'";
        // Below the child's stack and its red zone.
        let buffer = child.registers().rsp - 4096;
        child.write(buffer, *TEXT);
        let arguments = [buffer, TEXT.len() as u64];
        assert_eq!(session.execute(CommandKind::Log, 5, &arguments), 0);
        let record = runtime.ring() + size_of::<RingHeader>() as u64;
        let header: RecordHeader = child.read(record);
        assert_eq!(
            (header.position, header.length, header.level),
            (0, TEXT.len() as u32, 5)
        );
        let text: [u8; TEXT.len()] = child.read(record + size_of::<RecordHeader>() as u64);
        assert_eq!(text, *TEXT);
        session.answer(CommandKind::Return, 0, &[0]);
        child.detach();
    });
}

#[test]
fn a_thread_that_is_not_lent_may_not_enable() {
    let runtime = Runtime::load();
    // SAFETY: the type is the one in linux/livepatch.h.
    let enable: extern "C" fn(u64) -> i32 = unsafe { runtime.function("klp_enable_patch") };
    assert_eq!(enable(sample_patch()), -libc::EPERM);
    assert_eq!(enable(0), -libc::EPERM);
}
