//! What the one who links must answer.

use crate::Reference;

/// Binds the undefined symbols of a module.
pub trait Resolve {
    /// The value of `reference`.
    ///
    /// # Errors
    ///
    /// Why there is none; the text becomes part of the [`crate::LinkError`], which lists all
    /// failures together. For a [`Reference::weak`] symbol an error means address 0.
    fn resolve(&self, reference: &Reference) -> Result<Resolved, ResolveError>;
}

/// Why a reference has no value, in words that read on after "cannot be bound:".
pub type ResolveError = Box<dyn std::error::Error + Send + Sync>;

/// The value of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Address of a function or variable.
    Address(u64),
    /// Distance of a thread-local variable from the thread pointer, valid for all threads
    /// (static TLS only).
    TlsOffset(i64),
    /// A thread-local variable whose place in a thread only the dynamic linker knows.
    TlsIndex(TlsIndex),
    /// Address of the resolver of an ifunc, which must be called to get the function's
    /// address; see [`crate::Linked::ifuncs`].
    Ifunc(u64),
    /// The object that the reference names is not loaded. Places that use the reference stay
    /// zero, and [`crate::Linked::absent`] lists the object: once it is loaded, linking again
    /// with the same [`crate::Placement`] gives the bytes to write.
    Absent,
}

/// A variable in dynamic thread-local storage (ELF Handling For Thread-Local Storage, 3.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsIndex {
    /// `ti_module`.
    pub module: u64,
    /// `ti_offset`.
    pub offset: u64,
    /// Address of `__tls_get_addr`, the same for all references of a module.
    pub get_addr: u64,
}
