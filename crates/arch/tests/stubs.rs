//! The stubs, executed on this processor.

use std::arch::asm;

use engraft_arch::entry::{JUMP_LENGTH, plan_entry};
use engraft_arch::relocate::relocate_entry;
use engraft_arch::stub::{
    CfaBase, Stub, StubError, encode_jump, encode_preserve_thunk, encode_router, encode_selector,
    preservable,
};
use engraft_arch::{Register, RegisterSet};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};

const PAGE: usize = 4096;

/// One executable page and one writable page behind it.
struct Arena {
    start: *mut u8,
}

impl Arena {
    fn new() -> Self {
        // SAFETY: a fresh private mapping of two pages at an address of the kernel's choice
        // touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        Self {
            start: start.cast(),
        }
    }

    fn address(&self, offset: usize) -> u64 {
        assert!(offset < 2 * PAGE);
        self.start as u64 + offset as u64
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= 2 * PAGE);
        // SAFETY: the range was just checked to lie in the mapping, which is writable until
        // `seal` and of which no reference exists.
        unsafe {
            self.start
                .add(offset)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
    }

    fn word(&self, offset: usize) -> u64 {
        assert!(offset + 8 <= 2 * PAGE && offset.is_multiple_of(8));
        // SAFETY: in the mapping, aligned, and readable throughout; volatile because
        // generated code writes it.
        unsafe { self.start.add(offset).cast::<u64>().read_volatile() }
    }

    fn seal(&self) {
        // SAFETY: changes the protection of the first page of our own mapping.
        let done =
            unsafe { libc::mprotect(self.start.cast(), PAGE, libc::PROT_READ | libc::PROT_EXEC) };
        assert_eq!(done, 0);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: our own mapping, no longer used.
        unsafe { libc::munmap(self.start.cast(), 2 * PAGE) };
    }
}

fn set_gs_base(value: u64) {
    const ARCH_SET_GS: libc::c_int = 0x1001;
    // SAFETY: user space on x86-64 Linux does not use %gs; the base is per thread.
    let done = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, value) };
    assert_eq!(done, 0);
}

/// `movq $1, marker(%rip); ret`: changes no register and no flag.
fn leave_mark(at: u64, marker: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xc7, 0x05];
    code.extend((marker.wrapping_sub(at + 11) as u32).to_le_bytes());
    code.extend([1, 0, 0, 0, 0xc3]);
    code
}

/// General registers in the order rax rcx rdx rsi rdi r8 r9 r10 r11 and the flags, before
/// and after a call of `code`.
fn call_with_patterns(code: u64) -> ([u64; 9], [u64; 9], u64, u64) {
    let before: [u64; 9] = std::array::from_fn(|i| 0x1111_2222_3333_0000 + i as u64);
    let mut after = before;
    let (flags_before, flags_after): (u64, u64);
    let [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11] = &mut after;
    // SAFETY: `code` is a stub that ends in `leave_mark`: it returns, and keeps the stack.
    // r12 to r14 are callee-saved and hold the pointer and the flags.
    unsafe {
        asm!(
            "cmp r12d, 0x12345678",
            "stc",
            "pushfq",
            "pop r13",
            "call r12",
            "pushfq",
            "pop r14",
            in("r12") code,
            out("r13") flags_before,
            out("r14") flags_after,
            inout("rax") *rax, inout("rcx") *rcx, inout("rdx") *rdx,
            inout("rsi") *rsi, inout("rdi") *rdi, inout("r8") *r8,
            inout("r9") *r9, inout("r10") *r10, inout("r11") *r11,
        );
    }
    (before, after, flags_before, flags_after)
}

#[test]
fn selector_chooses_by_gs_base_and_changes_nothing() {
    const TOKEN: u32 = 0x4567_89ab;
    const OLD_MARK: usize = PAGE + 8;
    const NEW_MARK: usize = PAGE + 16;
    for (gs_base, expect_new) in [
        (0, false),
        (u64::from(TOKEN), true),
        (u64::from(TOKEN) - 1, false),
        (u64::from(TOKEN) + 1, false),
        (u64::from(TOKEN) | 1 << 32, false),
    ] {
        let arena = Arena::new();
        let (jump, router, selector, old, new) = (0, 0x40, 0x80, 0x100, 0x140);
        let stub = encode_selector(TOKEN, arena.address(old), arena.address(new)).unwrap();
        arena.write(selector, &stub.code);
        arena.write(
            old,
            &leave_mark(arena.address(old), arena.address(OLD_MARK)),
        );
        arena.write(
            new,
            &leave_mark(arena.address(new), arena.address(NEW_MARK)),
        );
        arena.write(
            jump,
            &encode_jump(arena.address(jump), arena.address(router)).unwrap(),
        );
        let slot = arena.address(PAGE);
        arena.write(
            router,
            &encode_router(arena.address(router), slot).unwrap().code,
        );
        arena.write(PAGE, &arena.address(selector).to_le_bytes());
        arena.seal();
        set_gs_base(gs_base);
        let (before, after, flags_before, flags_after) = call_with_patterns(arena.address(jump));
        set_gs_base(0);
        assert_eq!(before, after);
        assert_eq!(flags_before, flags_after);
        assert_eq!(
            arena.word(NEW_MARK) == 1,
            expect_new,
            "gs base {gs_base:#x}"
        );
        assert_eq!(
            arena.word(OLD_MARK) == 1,
            !expect_new,
            "gs base {gs_base:#x}"
        );
    }
}

/// A replacement that changes every caller-saved general register and xmm0 to xmm15, and
/// stores rsp at `stack`.
fn clobber_everything(at: u64, stack: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0x89, 0x25];
    code.extend((stack.wrapping_sub(at + 7) as u32).to_le_bytes());
    code.extend([0x0f, 0x29, 0x44, 0x24, 0xe8]); // movaps %xmm0, -24(%rsp): aligned, or fault
    for (rex, register) in (0..8).map(|r| (0x48, r)).chain((0..4).map(|r| (0x4d, r))) {
        if rex == 0x4d || !matches!(register, 3..=5) {
            code.extend([rex, 0x31, 0xc0 | register << 3 | register]);
        }
    }
    for register in 0..8 {
        code.extend([0x0f, 0x57, 0xc0 | register << 3 | register]);
        code.extend([0x45, 0x0f, 0x57, 0xc0 | register << 3 | register]);
    }
    code.push(0xc3);
    code
}

fn all_but(left_out: Register) -> RegisterSet {
    preservable() - left_out.into()
}

#[test]
fn preserve_thunk_preserves_what_it_is_told_and_aligns_the_stack() {
    const STACK: usize = PAGE;
    for (set, keeps_r9) in [
        (preservable(), true),
        (all_but(Register::general(9).unwrap()), false),
        (RegisterSet::EMPTY, false),
    ] {
        for misaligned in [0_u64, 8] {
            let arena = Arena::new();
            let thunk = encode_preserve_thunk(set, arena.address(0x800)).unwrap();
            assert!(thunk.code.len() <= 0x800);
            arena.write(0, &thunk.code);
            arena.write(
                0x800,
                &clobber_everything(arena.address(0x800), arena.address(STACK)),
            );
            arena.seal();
            let (r8, r9, rax): (u64, u64, u64);
            let (low, high): (u64, u64);
            // SAFETY: the thunk returns with callee-saved registers and stack as they were;
            // all others are declared. rsp is lowered by `misaligned` around the call.
            unsafe {
                asm!(
                    "sub rsp, 128",
                    "sub rsp, r13",
                    "movq xmm2, r14",
                    "movq xmm15, r14",
                    "call r12",
                    "add rsp, r13",
                    "add rsp, 128",
                    "movq r10, xmm2",
                    "movq r11, xmm15",
                    lateout("r10") low,
                    lateout("r11") high,
                    in("r12") arena.address(0),
                    in("r13") misaligned,
                    in("r14") 0x77_u64,
                    inlateout("r8") 0x88_u64 => r8,
                    inlateout("r9") 0x99_u64 => r9,
                    inlateout("rax") 0xaa_u64 => rax,
                    clobber_abi("sysv64"),
                );
            }
            assert_eq!(
                arena.word(STACK) % 16,
                8,
                "stack at the replacement's entry"
            );
            let all = !set.is_empty();
            assert_eq!(r8, if all { 0x88 } else { 0 });
            assert_eq!(r9, if keeps_r9 { 0x99 } else { 0 });
            assert_eq!(rax, if all { 0xaa } else { 0 });
            assert_eq!((low, high), if all { (0x77, 0x77) } else { (0, 0) });
        }
    }
}

#[test]
fn displaced_prologue_runs_like_the_original() {
    // f: lea 5(%rip), %rax; test %rdi, %rdi; je 1f; add %rdi, %rax; 1: ret
    let code = [
        0x48, 0x8d, 0x05, 5, 0, 0, 0, 0x48, 0x85, 0xff, 0x74, 3, 0x48, 0x01, 0xf8, 0xc3,
    ];
    // g: jrcxz 1f; xor %eax, %eax; add %rdi, %rax; ret; 1: mov $7, %eax; ret
    let counting = [
        0xe3, 6, 0x31, 0xc0, 0x48, 0x01, 0xf8, 0xc3, 0xb8, 7, 0, 0, 0, 0xc3,
    ];
    let no_memory = |_: u64, _: &mut [u8]| false;
    let call = |address: u64, rdi: u64, rcx: u64| {
        let rax: u64;
        // SAFETY: generated leaf code, which changes rax only.
        unsafe {
            asm!("call r12", in("r12") address, in("rdi") rdi, in("rcx") rcx,
                lateout("rax") rax, clobber_abi("sysv64"));
        }
        rax
    };
    for code in [&code[..], &counting[..]] {
        let arena = Arena::new();
        let entry = plan_entry(arena.address(0), code, code.len(), &no_memory).unwrap();
        let copy = relocate_entry(&entry, arena.address(0x400)).unwrap();
        let untouched = Arena::new();
        untouched.write(0, code);
        untouched.seal();
        arena.write(0, code);
        let copied = entry.site - arena.address(0) + JUMP_LENGTH as u64;
        // What is overwritten must not matter to the copy.
        arena.write(0, &vec![0xcc; copied as usize]);
        arena.write(0x400, &copy.code);
        arena.seal();
        for (rdi, rcx) in [(0, 0), (3, 0), (3, 1), (0, 1)] {
            let expected = call(untouched.address(0), rdi, rcx);
            let moved = expected.wrapping_sub(untouched.address(0)) < 4096;
            let base = if moved {
                arena.address(0).wrapping_sub(untouched.address(0))
            } else {
                0
            };
            assert_eq!(
                call(arena.address(0x400), rdi, rcx),
                expected.wrapping_add(base)
            );
        }
    }
}

/// Follows rsp and rbp through the straight-line code and checks every row against them.
fn check_rows(stub: &Stub) {
    let decoder = Decoder::with_ip(64, &stub.code[..stub.instructions], 0, DecoderOptions::NONE);
    let mut depth = 8_i64;
    let mut frame = None;
    for instruction in decoder {
        let row = stub
            .row_at(instruction.ip() as usize)
            .expect("a row for every instruction");
        match row.base {
            CfaBase::Rsp => assert_eq!(row.distance as i64, depth, "{:#x}", instruction.ip()),
            CfaBase::Rbp => assert_eq!(Some(row.distance as i64), frame),
        }
        depth -= i64::from(instruction.stack_pointer_increment());
        match instruction.mnemonic() {
            Mnemonic::Mov if frame.is_none() => frame = Some(depth),
            Mnemonic::Leave => depth = 8,
            // Behind a jump the selector's other half begins, with its push done.
            Mnemonic::Jmp => depth = 16,
            _ => {}
        }
    }
    assert_eq!(stub.row_at(stub.instructions), None);
}

#[test]
fn unwinding_rows_follow_the_stack() {
    check_rows(&encode_selector(1, 2, 3).unwrap());
    check_rows(&encode_preserve_thunk(preservable(), 1).unwrap());
    check_rows(&encode_preserve_thunk(RegisterSet::EMPTY, 1).unwrap());
    check_rows(&encode_router(0, 64).unwrap());
}

#[test]
fn wrong_arguments_are_refused() {
    assert_eq!(encode_selector(0, 1, 2), Err(StubError::Token { token: 0 }));
    assert_eq!(
        encode_selector(1 << 31, 1, 2),
        Err(StubError::Token { token: 1 << 31 })
    );
    assert!(encode_selector(0x7fff_ffff, 1, 2).is_ok());
    assert!(encode_jump(0, 0x8000_0004).is_ok());
    assert!(encode_jump(0, 0x8000_0005).is_err());
    assert!(encode_jump(0x8000_0000, 5).is_ok());
    assert!(encode_jump(0x8000_0000, 4).is_err());
    assert!(encode_router(0, 0x1_0000_0000).is_err());
    let rsp = RegisterSet::from(Register::RSP);
    assert_eq!(
        encode_preserve_thunk(rsp, 0),
        Err(StubError::Unpreservable { registers: rsp })
    );
}
