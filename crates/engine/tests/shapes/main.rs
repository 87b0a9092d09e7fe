//! Hard cases that are about the shape of code, named as libpulp's tests are. Each asserts
//! the new behaviour and the absence of the old one, and the reverse afterwards.

#[path = "../support/mod.rs"]
mod support;

mod dlsym_lock;
mod endbr64;
mod pagecross;
mod recursion;
mod redzone;
mod visibility;
