//! What a match tells.

use super::field::Value;

/// A function found in the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Bytes of the program's code from the function's start to the end of its last
    /// instruction, without padding behind it.
    pub length: usize,
    /// What the relocated fields refer to: position in the list of fields, and value, by
    /// offset of the field. Missing are those that say nothing: the mark of a TLS descriptor
    /// call, and what a linker removed (the call of `__tls_get_addr`, the slot of the own
    /// module).
    pub values: Vec<(usize, Value)>,
    /// Where branches lead that have no field and leave the function. Whether it is the same
    /// place is for the caller to say.
    pub exits: Vec<Exit>,
    /// Where each instruction is: offset in the object file, address in the program. Sorted
    /// by both. Padding is left out; a sequence that the linker rewrote as a whole is listed
    /// once.
    pub places: Vec<(u32, u64)>,
    /// Offsets of the object file's nops that have no counterpart.
    pub(super) before_padding: Vec<u32>,
    /// Addresses of the program's nops that have no counterpart.
    pub(super) running_padding: Vec<u64>,
    /// Length of the object file's code, and where the program's ends.
    pub(super) end: (u32, u64),
}

/// A branch out of a function to elsewhere in its section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The branch: offset in the object file, address in the program.
    pub from: (u32, u64),
    /// Distance of its target from the function's start in the object file.
    pub to: i64,
    /// Address of its target in the program.
    pub target: u64,
}

impl Matched {
    /// Whether control that arrives at `offset` in the object file's code and control that
    /// arrives at `address` in the program do the same: the question to ask about labels,
    /// such as the targets of a jump table. A label may stand before padding or behind it.
    #[must_use]
    pub fn corresponds(&self, offset: u32, address: u64) -> bool {
        let before = self.position_before(offset);
        before.is_some() && before == self.position_running(address)
    }

    /// Position in `places` of the first instruction at or behind an offset with nothing but
    /// nops in between.
    fn position_before(&self, offset: u32) -> Option<usize> {
        let position = self.places.partition_point(|place| place.0 < offset);
        let here = self.places.get(position).map(|place| place.0);
        let known = here == Some(offset)
            || offset == self.end.0
            || self.before_padding.binary_search(&offset).is_ok();
        known.then_some(position)
    }

    fn position_running(&self, address: u64) -> Option<usize> {
        let position = self.places.partition_point(|place| place.1 < address);
        let here = self.places.get(position).map(|place| place.1);
        let known = here == Some(address)
            || address == self.end.1
            || self.running_padding.binary_search(&address).is_ok();
        known.then_some(position)
    }
}
