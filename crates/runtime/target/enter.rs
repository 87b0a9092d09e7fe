//! The way in and out of the runtime for a borrowed thread.
//!
//! The thread may have been stopped anywhere, so all of its state belongs to somebody else:
//! the tool has put the general registers into the frame, the extended state is saved here,
//! and nothing is ever written to the thread's own stack.

use core::arch::global_asm;
use core::mem::offset_of;

use engraft_abi::{CallFrame, RuntimeConfig, SavedRegisters, TRAP_MAGIC, XSAVE_CAPACITY};

use crate::config::engraft_config;
use crate::serve::engraft_serve;

/// State of the borrowed thread. Written by the tool and by the assembly below only.
#[unsafe(no_mangle)]
pub(crate) static mut engraft_frame: CallFrame = CallFrame {
    xsave: [0; XSAVE_CAPACITY],
    registers: SavedRegisters {
        rax: 0,
        rbx: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        rbp: 0,
        rsp: 0,
        r8: 0,
        r9: 0,
        r10: 0,
        r11: 0,
        r12: 0,
        r13: 0,
        r14: 0,
        r15: 0,
        rip: 0,
        rflags: 0,
    },
    owner: 0,
    last_owner: 0,
    entered: 0,
};

macro_rules! register {
    ($name:ident) => {
        offset_of!(CallFrame, registers) + offset_of!(SavedRegisters, $name)
    };
}

// On the way in, `popfq` clears the direction, alignment-check and trap flags, and the x87
// and SSE control words are set to what the System V ABI promises at process start: the
// thread may have been stopped with other ones.
//
// On the way out, the trap (read(-1, TRAP_MAGIC, 0), see engraft_abi) is where a tool that is
// still there takes over and sets all general registers at once. After it, stores of immediates
// leave the flags alone, and the last jump goes through memory because no register is free any
// more. From the trap to the jump the frame is still needed: engraft_leave and
// engraft_leave_end tell the tool where that is.
global_asm!(
    ".pushsection .text.engraft_enter, \"ax\", @progbits",
    ".globl engraft_enter",
    ".globl engraft_leave",
    ".globl engraft_leave_end",
    ".type engraft_enter, @function",
    ".p2align 4",
    "engraft_enter:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "mov qword ptr [rip + {frame} + {entered}], 1",
    "cld",
    "mov rax, qword ptr [rip + {frame} + {owner}]",
    "mov qword ptr [rip + {frame} + {last_owner}], rax",
    "push 0",
    ".cfi_adjust_cfa_offset 8",
    "popfq",
    ".cfi_adjust_cfa_offset -8",
    "lea rdi, [rip + {frame} + {xsave} + 512]",
    "xor eax, eax",
    "mov ecx, 8",
    "rep stosq",
    "mov rcx, qword ptr [rip + {config}@GOTPCREL]",
    "mov eax, dword ptr [rcx + {mask}]",
    "mov edx, dword ptr [rcx + {mask} + 4]",
    "lea rdi, [rip + {frame} + {xsave}]",
    "xsave64 [rdi]",
    "fninit",
    "push 0x1f80",
    ".cfi_adjust_cfa_offset 8",
    "ldmxcsr dword ptr [rsp]",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "xor ebp, ebp",
    "call {serve}",
    "mov rcx, qword ptr [rip + {config}@GOTPCREL]",
    "mov eax, dword ptr [rcx + {mask}]",
    "mov edx, dword ptr [rcx + {mask} + 4]",
    "lea rdi, [rip + {frame} + {xsave}]",
    "xrstor64 [rdi]",
    "engraft_leave:",
    "xor eax, eax",
    "mov rdi, -1",
    "movabs rsi, {trap}",
    "xor edx, edx",
    "syscall",
    "mov rax, qword ptr [rip + {frame} + {rax}]",
    "mov rbx, qword ptr [rip + {frame} + {rbx}]",
    "mov rcx, qword ptr [rip + {frame} + {rcx}]",
    "mov rdx, qword ptr [rip + {frame} + {rdx}]",
    "mov rsi, qword ptr [rip + {frame} + {rsi}]",
    "mov rdi, qword ptr [rip + {frame} + {rdi}]",
    "mov rbp, qword ptr [rip + {frame} + {rbp}]",
    "mov r8, qword ptr [rip + {frame} + {r8}]",
    "mov r9, qword ptr [rip + {frame} + {r9}]",
    "mov r10, qword ptr [rip + {frame} + {r10}]",
    "mov r11, qword ptr [rip + {frame} + {r11}]",
    "mov r12, qword ptr [rip + {frame} + {r12}]",
    "mov r13, qword ptr [rip + {frame} + {r13}]",
    "mov r14, qword ptr [rip + {frame} + {r14}]",
    "mov r15, qword ptr [rip + {frame} + {r15}]",
    "push qword ptr [rip + {frame} + {rflags}]",
    ".cfi_adjust_cfa_offset 8",
    "popfq",
    ".cfi_adjust_cfa_offset -8",
    "mov rsp, qword ptr [rip + {frame} + {rsp}]",
    "mov qword ptr [rip + {frame} + {entered}], 0",
    "mov qword ptr [rip + {frame} + {owner}], 0",
    "jmp qword ptr [rip + {frame} + {rip}]",
    "engraft_leave_end:",
    ".cfi_endproc",
    ".size engraft_enter, . - engraft_enter",
    ".popsection",
    frame = sym engraft_frame,
    config = sym engraft_config,
    serve = sym engraft_serve,
    xsave = const offset_of!(CallFrame, xsave),
    entered = const offset_of!(CallFrame, entered),
    owner = const offset_of!(CallFrame, owner),
    last_owner = const offset_of!(CallFrame, last_owner),
    trap = const TRAP_MAGIC,
    mask = const offset_of!(RuntimeConfig, xsave_mask),
    rax = const register!(rax),
    rbx = const register!(rbx),
    rcx = const register!(rcx),
    rdx = const register!(rdx),
    rsi = const register!(rsi),
    rdi = const register!(rdi),
    rbp = const register!(rbp),
    rsp = const register!(rsp),
    r8 = const register!(r8),
    r9 = const register!(r9),
    r10 = const register!(r10),
    r11 = const register!(r11),
    r12 = const register!(r12),
    r13 = const register!(r13),
    r14 = const register!(r14),
    r15 = const register!(r15),
    rip = const register!(rip),
    rflags = const register!(rflags),
);
