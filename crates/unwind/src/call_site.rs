//! Whether an address can be one that a call instruction returns to.
//!
//! Encodings: Intel SDM volume 2, `CALL` (E8 and FF /2), section 2.1 (ModR/M and SIB).

/// The longest near call without its prefixes: FF, ModR/M, SIB, 32 bits of displacement.
pub(crate) const LONGEST_CALL: usize = 7;

/// Whether `before`, the bytes up to an address, end with a call instruction.
///
/// Prefixes need not be looked at: what follows them is a call by itself.
pub(crate) fn ends_with_call(before: &[u8]) -> bool {
    ends_with_direct_call(before)
        || (2..=LONGEST_CALL).any(|length| ends_with_indirect(before, length))
}

fn ends_with_direct_call(before: &[u8]) -> bool {
    before.len() >= 5 && before[before.len() - 5] == 0xe8
}

fn ends_with_indirect(before: &[u8], length: usize) -> bool {
    let Some(start) = before.len().checked_sub(length) else {
        return false;
    };
    let instruction = &before[start..];
    instruction[0] == 0xff && indirect_call_length(instruction) == Some(length)
}

/// Length of `FF /2` by its ModR/M and SIB bytes, `None` for another instruction.
fn indirect_call_length(instruction: &[u8]) -> Option<usize> {
    let modrm = *instruction.get(1)?;
    if (modrm >> 3) & 7 != 2 {
        return None;
    }
    let (mode, base) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return Some(2);
    }
    let has_sib = base == 4;
    let displacement = match mode {
        0 if base == 5 => 4,
        0 if has_sib && *instruction.get(2)? & 7 == 5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    Some(2 + usize::from(has_sib) + displacement)
}

#[cfg(test)]
mod tests {
    use super::ends_with_call;

    #[test]
    fn accepts_every_encoding_of_a_near_call() {
        let calls: [&[u8]; 12] = [
            &[0xe8, 1, 2, 3, 4],                   // call rel32
            &[0x67, 0xe8, 1, 2, 3, 4],             // addr32 call, as ld relaxes it
            &[0xff, 0xd0],                         // call *%rax
            &[0x41, 0xff, 0xd1],                   // call *%r9
            &[0xff, 0x10],                         // call *(%rax)
            &[0xff, 0x50, 0x18],                   // call *0x18(%rax)
            &[0xff, 0x15, 1, 2, 3, 4],             // call *x(%rip)
            &[0xff, 0x90, 1, 2, 3, 4],             // call *x(%rax)
            &[0xff, 0x14, 0xd8],                   // call *(%rax,%rbx,8)
            &[0xff, 0x54, 0x24, 8],                // call *8(%rsp)
            &[0x41, 0xff, 0x94, 0xc4, 1, 2, 3, 4], // call *x(%r12,%rax,8)
            &[0xff, 0x14, 0xc5, 1, 2, 3, 4],       // call *x(,%rax,8)
        ];
        for call in calls {
            assert!(ends_with_call(call), "{call:x?}");
            let padded = [&[0x90; 8], call].concat();
            assert!(ends_with_call(&padded[padded.len() - 7..]), "{call:x?}");
        }
    }

    #[test]
    fn refuses_what_is_no_call() {
        let others: [&[u8]; 9] = [
            &[],
            &[0xff],
            &[0x90; 7],
            &[0xe9, 1, 2, 3, 4],                // jmp rel32
            &[0xff, 0xe0],                      // jmp *%rax
            &[0xff, 0x25, 1, 2, 3, 4],          // jmp *x(%rip)
            &[0xff, 0x15, 1, 2, 3],             // truncated
            &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0], // mov $15, %rax
            &[0x0f, 0x05],                      // syscall
        ];
        for other in others {
            assert!(!ends_with_call(other), "{other:x?}");
        }
    }
}
