//! The log ring that the runtime writes (`printk` and its relatives).

/// Bytes of the ring behind its header; a power of two.
pub const RING_BYTES: usize = 256 * 1024;

/// Start of the ring. Positions count bytes and never wrap; the place of position `p` is
/// byte `p % RING_BYTES` behind this header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingHeader {
    /// Position behind the last reserved record. Writers reserve with an atomic addition.
    pub head: u64,
    /// Zero.
    pub reserved: [u64; 7],
}

/// Precedes every record. Records start at multiples of 8; a record that would cross the end
/// of the ring continues at its start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// Position of this record; written last. A reader takes the record only if this equals
    /// the position it looks at.
    pub position: u64,
    /// Time stamp counter, 0 when unknown.
    pub tsc: u64,
    /// Length of the text in bytes; the record takes this plus the header, rounded up to 8.
    pub length: u32,
    /// The kernel's level: 3 err, 4 warn, 5 notice, 6 info, 7 debug.
    pub level: u32,
}
