//! Patched functions in programs of several languages and forms: what they throw, refer to
//! and keep in registers.

#[path = "../support/mod.rs"]
mod support;

mod cancel;
mod cplusplus;
mod llvm;
mod musl;
mod references;
mod registers;
mod rust;
mod stripped;
mod thread_local;
