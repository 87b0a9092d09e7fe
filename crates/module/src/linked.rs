//! A module linked to its place.

use std::collections::BTreeMap;
use std::ops::Range;

use engraft_abi::ParamRecord;

use crate::{Placement, Region};

/// The bytes of a module at its place, and what lies where. All addresses are absolute.
#[derive(Clone, Debug)]
pub struct Linked {
    /// Where it was linked to.
    pub placement: Placement,
    /// Contents of the executable region.
    pub text: Vec<u8>,
    /// Contents of the read-only region. Written by the tool, never by the target.
    pub read_only: Vec<u8>,
    /// Contents of the writable region.
    pub data: Vec<u8>,
    /// `init_module`.
    pub init: Option<u64>,
    /// `cleanup_module`.
    pub exit: Option<u64>,
    /// `__this_module`, a [`engraft_abi::Module`].
    pub this_module: Option<u64>,
    /// Records of section `__param`, in order.
    pub params: Vec<LinkedParam>,
    /// The unwind information including its terminating zero word.
    pub eh_frame: Option<Range<u64>>,
    /// Functions that the module defines, by address.
    pub functions: Vec<LinkedFunction>,
    /// Stubs for calls out of the module: `jmp *slot(%rip)`, the return address is on top of
    /// the stack throughout. They have no unwind information.
    pub stubs: Range<u64>,
    /// Places whose value only an ifunc's resolver knows; zero until filled in, and to be
    /// filled in before any code of the module runs.
    pub ifuncs: Vec<IfuncFixup>,
    /// Places that hold the address of something in a library, which may come and go.
    pub bindings: Vec<LinkedBinding>,
    /// Libraries that the module refers to in other ways, too: those hold only as long as they
    /// stay where they are. Sorted, each once.
    pub fixed: Vec<String>,
    /// Objects that references name and that are not loaded ([`crate::Resolved::Absent`]),
    /// sorted, each once.
    pub absent: Vec<String>,
    /// Number of relocations applied.
    pub relocations: usize,
    pub(crate) symbols: BTreeMap<String, u64>,
}

impl Linked {
    /// Address of the symbol `name` defined by the module: the global one, else the only
    /// local one of that name.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    /// The function that contains `address`.
    #[must_use]
    pub fn function_at(&self, address: u64) -> Option<&LinkedFunction> {
        let after = self
            .functions
            .partition_point(|function| function.address <= address);
        let candidates = self.functions[..after].iter().rev();
        candidates
            .take(8)
            .find(|function| address - function.address < function.size)
    }
}

/// A place that holds the address of something in a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedBinding {
    /// The library.
    pub object: String,
    /// Name of the symbol.
    pub name: String,
    /// Position among equal names, 0 when it must be unique.
    pub sympos: u64,
    /// Address of the eight bytes.
    pub place: u64,
    /// What is added to the symbol's address.
    pub addend: i64,
    /// The region that the place lies in.
    pub region: Region,
}

/// One function of a linked module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedFunction {
    /// Its symbol's position in [`crate::PatchModule::symbols`].
    pub symbol: usize,
    /// Its symbol's name.
    pub name: String,
    /// Its first byte.
    pub address: u64,
    /// Its length in bytes (`st_size`).
    pub size: u64,
}

/// One module parameter of a linked module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedParam {
    /// Its name.
    pub name: String,
    /// The record with addresses filled in.
    pub record: ParamRecord,
}

/// A place to be filled in with the address of an ifunc's implementation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfuncFixup {
    /// The ifunc's name.
    pub name: String,
    /// Where to write 8 bytes.
    pub address: u64,
    /// The resolver to be called, with no meaningful arguments on x86-64.
    pub resolver: u64,
    /// To be added to what the resolver returns.
    pub addend: i64,
}
