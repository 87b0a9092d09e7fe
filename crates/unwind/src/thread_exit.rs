//! Code that ends the thread: a frame that returns to it returns to nobody, whatever lies
//! further up the stack. It proves the bottom where no symbol names the entry function,
//! such as `clone3` in a stripped C library.

use engraft_elf::ReadMemory;

/// `hlt`, which faults in user mode; C libraries put it behind the call in `_start`.
const HLT: &[u8] = &[0xf4];
const SYSCALL: &[u8] = &[0x0f, 0x05];

/// Ways to pass the function's result on as exit status.
const PASS_STATUS: [&[u8]; 3] = [
    &[0x89, 0xc7],       // mov %eax, %edi
    &[0x48, 0x89, 0xc7], // mov %rax, %rdi
    &[0x31, 0xff],       // xor %edi, %edi
];

/// Ways to select system call 60, `exit` (kernel, arch/x86/entry/syscalls/syscall_64.tbl).
const SELECT_EXIT: [&[u8]; 3] = [
    &[0xb8, 60, 0, 0, 0],             // mov $60, %eax
    &[0x31, 0xc0, 0xb0, 60],          // xor %eax, %eax; mov $60, %al
    &[0x48, 0xc7, 0xc0, 60, 0, 0, 0], // mov $60, %rax
];

/// Bytes in the longest of these pieces.
const LONGEST: usize = 7;

/// Whether the code at `pc` does nothing but end the thread.
pub(crate) fn ends_thread(memory: &dyn ReadMemory, pc: u64) -> bool {
    PASS_STATUS
        .iter()
        .filter_map(|pass| starts_with(pass, memory, pc))
        .any(|pc| exits(memory, pc))
}

/// Whether the code at `pc` faults at once or ends the thread. Assembly also puts `hlt`
/// behind calls that do not return, so this proves a bottom only with an undefined return
/// address.
pub(crate) fn faults_or_ends_thread(memory: &dyn ReadMemory, pc: u64) -> bool {
    starts_with(HLT, memory, pc).is_some() || ends_thread(memory, pc)
}

fn exits(memory: &dyn ReadMemory, pc: u64) -> bool {
    SELECT_EXIT
        .iter()
        .filter_map(|select| starts_with(select, memory, pc))
        .any(|pc| starts_with(SYSCALL, memory, pc).is_some())
}

/// The address behind `code`, when that is what lies at `pc`.
fn starts_with(code: &[u8], memory: &dyn ReadMemory, pc: u64) -> Option<u64> {
    let mut bytes = [0; LONGEST];
    let bytes = &mut bytes[..code.len()];
    memory.read(pc, bytes).ok()?;
    (bytes == code).then(|| pc.checked_add(code.len() as u64))?
}
