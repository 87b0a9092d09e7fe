//! Hard cases that are about what a process is in the middle of and where it lives, named as
//! libpulp's tests are. Each asserts the new behaviour and the absence of the old one, and the
//! reverse afterwards.

#[path = "../support/mod.rs"]
mod support;

mod blocked;
mod busy_with_calls;
mod chroot;
mod deadlock;
mod memory_protection;
mod seccomp;
mod signal_storm;
mod syscall_restart;
mod terminal;
