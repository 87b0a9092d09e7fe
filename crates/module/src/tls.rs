//! Thread-local accesses turned into the local-exec form (x86-64 psABI, "Thread-Local
//! Storage", link editor relaxations). Where the offset from the thread pointer is known,
//! neither `__tls_get_addr` nor a descriptor is needed; where it is not, an access that asks
//! `__tls_get_addr` stays one.

use crate::{Relocation, RelocationKind};

/// `data16 lea x@tlsgd(%rip),%rdi`, up to its relocated field.
const GENERAL_DYNAMIC: [u8; 4] = [0x66, 0x48, 0x8d, 0x3d];
/// `data16 data16 rex.W call`, and the form that calls through a slot.
const GET_ADDR_CALLS: [[u8; 4]; 2] = [[0x66, 0x66, 0x48, 0xe8], [0x66, 0x48, 0xff, 0x15]];
/// `mov %fs:0,%rax; lea offset(%rax),%rax`, up to the offset.
const LOCAL_EXEC: [u8; 12] = [0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x8d, 0x80];
/// `lea x@tlsdesc(%rip),%rax`, up to its relocated field.
const DESCRIPTOR: [u8; 3] = [0x48, 0x8d, 0x05];
/// `mov $offset,%rax`, up to the offset.
const MOVE_OFFSET: [u8; 3] = [0x48, 0xc7, 0xc0];
/// `call *(%rax)`.
const DESCRIPTOR_CALL: [u8; 2] = [0xff, 0x10];
/// Two-byte no-operation.
const NO_OPERATION: [u8; 2] = [0x66, 0x90];

const GET_ADDR: &str = "__tls_get_addr";

/// Marks the call that belongs to a general-dynamic access, the next relocation, so that
/// nobody looks for `__tls_get_addr`. `None` if the two are not what the ABI prescribes.
pub(crate) fn pair_general_dynamic(
    first: &Relocation,
    next: &mut Relocation,
    code: &[u8],
    next_symbol: &str,
) -> Option<()> {
    let offset = usize::try_from(first.offset).ok()?;
    let head = code.get(offset.checked_sub(4)?..offset)?;
    let call = code.get(offset + 4..offset + 8)?;
    let expected = head == GENERAL_DYNAMIC
        && GET_ADDR_CALLS.iter().any(|known| call == known)
        && code.len() >= offset + 12
        && next.section == first.section
        && next.offset == first.offset + 8
        && next_symbol == GET_ADDR;
    if !expected {
        return None;
    }
    next.kind = RelocationKind::TlsGetAddr;
    next.symbol = first.symbol;
    next.call = false;
    Some(())
}

/// Whether the code at a descriptor relocation is what the ABI prescribes.
pub(crate) fn is_known_descriptor(relocation: &Relocation, code: &[u8]) -> bool {
    let Ok(offset) = usize::try_from(relocation.offset) else {
        return false;
    };
    match relocation.kind {
        RelocationKind::TlsDescriptor => offset
            .checked_sub(3)
            .and_then(|start| code.get(start..offset))
            .is_some_and(|head| head == DESCRIPTOR),
        RelocationKind::TlsDescriptorCall => code
            .get(offset..offset + 2)
            .is_some_and(|call| call == DESCRIPTOR_CALL),
        _ => true,
    }
}

/// Rewrites a general-dynamic access whose relocated field is at `field`.
pub(crate) fn relax_general_dynamic(region: &mut [u8], field: usize, offset: i32) {
    region[field - 4..field + 8].copy_from_slice(&LOCAL_EXEC);
    region[field + 8..field + 12].copy_from_slice(&offset.to_le_bytes());
}

/// Distance from the relocated field to the end of a general-dynamic access.
pub(crate) const GENERAL_DYNAMIC_END: u64 = 12;

/// Completes a general-dynamic access whose relocated field is at `field`: distances of the
/// argument and of `__tls_get_addr`.
pub(crate) fn keep_general_dynamic(region: &mut [u8], field: usize, argument: i32, call: i32) {
    region[field..field + 4].copy_from_slice(&argument.to_le_bytes());
    region[field + 4..field + 8].copy_from_slice(&GET_ADDR_CALLS[0]);
    region[field + 8..field + 12].copy_from_slice(&call.to_le_bytes());
}

/// Rewrites the load of a descriptor's address whose relocated field is at `field`.
pub(crate) fn relax_descriptor(region: &mut [u8], field: usize, offset: i32) {
    region[field - 3..field].copy_from_slice(&MOVE_OFFSET);
    region[field..field + 4].copy_from_slice(&offset.to_le_bytes());
}

/// Rewrites the call of a descriptor at `field`.
pub(crate) fn relax_descriptor_call(region: &mut [u8], field: usize) {
    region[field..field + 2].copy_from_slice(&NO_OPERATION);
}

/// The distance that an access encodes: addends of RIP-relative fields are off by the four
/// bytes of the field.
pub(crate) fn field_offset(relocation: &Relocation, offset: i64) -> Option<i32> {
    let adjustment = match relocation.kind {
        RelocationKind::TlsOffset32 => 0,
        _ => 4,
    };
    let addend = relocation.addend.checked_add(adjustment)?;
    i32::try_from(offset.checked_add(addend)?).ok()
}
