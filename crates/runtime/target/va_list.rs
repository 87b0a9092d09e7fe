//! Reading C's variable arguments (System V ABI for x86-64, section 3.5.7).

/// `va_list`: one element of the array type that C passes as a pointer.
#[repr(C)]
pub(crate) struct VaList {
    gp_offset: u32,
    #[allow(dead_code)] // nothing here takes floating point
    fp_offset: u32,
    overflow_arg_area: *const u64,
    reg_save_area: *const u8,
}

/// Bytes of the register save area that hold the six integer registers.
const GP_END: u32 = 48;

impl VaList {
    /// A list of these arguments.
    pub(crate) fn of(arguments: &[u64]) -> Self {
        Self {
            gp_offset: GP_END,
            fp_offset: 0,
            overflow_arg_area: arguments.as_ptr(),
            reg_save_area: core::ptr::null(),
        }
    }

    /// The next argument of INTEGER class, with whatever its upper bits are.
    ///
    /// # Safety
    /// The caller of the variadic function has passed one more such argument.
    pub(crate) unsafe fn next_word(&mut self) -> u64 {
        if self.gp_offset < GP_END {
            // SAFETY: the offset names one of the saved registers.
            let word = unsafe {
                self.reg_save_area
                    .add(self.gp_offset as usize)
                    .cast::<u64>()
                    .read()
            };
            self.gp_offset += 8;
            word
        } else {
            // SAFETY: by contract there is one more argument, and it is on the stack.
            unsafe {
                let word = self.overflow_arg_area.read();
                self.overflow_arg_area = self.overflow_arg_area.add(1);
                word
            }
        }
    }
}

/// Defines a C variadic function `$name` that calls `$callee` with the same fixed arguments
/// followed by a pointer to the va_list; `$fixed` is the number of fixed arguments times 8,
/// `$list` the register of the argument behind them. Vector registers are not saved: nothing
/// here formats floating point.
macro_rules! variadic {
    ($name:literal, $fixed:literal, $list:literal, $callee:path) => {
        core::arch::global_asm!(
            concat!(".pushsection .text.", $name, ", \"ax\", @progbits"),
            concat!(".globl ", $name),
            concat!(".type ", $name, ", @function"),
            ".p2align 4",
            concat!($name, ":"),
            ".cfi_startproc",
            "sub rsp, 88",
            ".cfi_adjust_cfa_offset 88",
            "mov [rsp + 24], rdi",
            "mov [rsp + 32], rsi",
            "mov [rsp + 40], rdx",
            "mov [rsp + 48], rcx",
            "mov [rsp + 56], r8",
            "mov [rsp + 64], r9",
            concat!("mov dword ptr [rsp], ", $fixed),
            "mov dword ptr [rsp + 4], 48",
            "lea rax, [rsp + 96]",
            "mov [rsp + 8], rax",
            "lea rax, [rsp + 24]",
            "mov [rsp + 16], rax",
            concat!("mov ", $list, ", rsp"),
            "call {callee}",
            "add rsp, 88",
            ".cfi_adjust_cfa_offset -88",
            "ret",
            ".cfi_endproc",
            concat!(".size ", $name, ", . - ", $name),
            ".popsection",
            callee = sym $callee,
        );
    };
}
pub(crate) use variadic;
