//! The runtime: code that lives inside a target.
//!
//! It runs on any thread of any program, possibly in a signal handler, possibly on a small
//! stack. So it must not know libc, thread-local storage or what language the target is
//! written in; it makes raw system calls only, never panics and never waits for a thread
//! except under [`lock::SpinLock`]. It knows nothing of the livepatch rules: patches,
//! transitions and objects are the tool's business, outside.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

mod arrival;
mod config;
mod double_word;
mod enter;
mod format;
mod heap;
mod lock;
mod log;
mod memory;
mod printk;
mod serve;
mod shadow;
mod shadow_table;
mod slab;
mod state;
mod syscall;
mod thread;
mod va_list;

// The build fails if a reference to this symbol is left, that is, unless the optimizer
// proves that nothing in the runtime panics.
unsafe extern "C" {
    fn engraft_panic_is_possible() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: never executed: the build refuses an object that still refers to it.
    unsafe { engraft_panic_is_possible() }
}
