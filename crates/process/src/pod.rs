//! Plain values that may be copied to and from a target byte by byte.

/// Types without padding that matter, without pointers and without invalid bit patterns.
///
/// # Safety
///
/// Every bit pattern must be a valid value, and the type must be `repr(C)` with no padding
/// bytes, so that viewing it as bytes reads only initialised memory.
pub unsafe trait Pod: Copy {
    /// The value of all zero bytes.
    #[must_use]
    fn zeroed() -> Self {
        // SAFETY: implementors promise that every bit pattern, hence all zeros, is valid.
        unsafe { std::mem::zeroed() }
    }
}

/// The bytes of a value.
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: `T: Pod` has no padding, so all bytes of the referenced value are initialised;
    // the slice borrows it and has its exact size.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The bytes of a value, to be overwritten.
pub(crate) fn bytes_of_mut<T: Pod>(value: &mut T) -> &mut [u8] {
    // SAFETY: as above; any bytes written form a valid value because every bit pattern is.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

macro_rules! pod {
    ($($type:ty: $size:literal),* $(,)?) => {$(
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: integers and `repr(C)` structs of integers, whose size (asserted above) is
        // the sum of their fields: no padding, and every bit pattern is valid.
        unsafe impl Pod for $type {}
    )*};
}

pod! {
    u8: 1, u16: 2, u32: 4, u64: 8,
    engraft_abi::Descriptor: 40,
    engraft_abi::ControlHeader: 96,
    engraft_abi::PatchTable: 2056,
    engraft_abi::RuntimeConfig: 64,
    engraft_abi::Plan: 32,
    engraft_abi::PlanObject: 160,
    engraft_abi::PlanFunction: 48,
    engraft_abi::PlanBinding: 40,
    engraft_abi::LibraryStatus: 80,
    engraft_abi::ObjectStatus: 40,
    engraft_abi::FunctionStatus: 24,
    engraft_abi::Redirect: 72,
    engraft_abi::Command: 72,
    engraft_abi::ResultSlot: 16,
    engraft_abi::Mailbox: 1120,
    engraft_abi::SavedRegisters: 144,
    engraft_abi::RingHeader: 64,
    engraft_abi::RecordHeader: 24,
    engraft_abi::KlpFunc: 24,
    engraft_abi::KlpCallbacks: 40,
    engraft_abi::KlpObject: 64,
    engraft_abi::KlpState: 72,
    engraft_abi::KlpPatch: 32,
    engraft_abi::Module: 64,
    engraft_abi::ParamRecord: 32,
}
