//! Whether a thread is in a piece of code, or in a signal handler that will return there.

use std::ops::Range;
use std::time::Duration;

use crate::error::Error;
use crate::identity::{read_asleep, read_thread_stat};
use crate::maps::read_maps;
use crate::memory::Memory;
use crate::tracer::{StopOutcome, Tracer};

/// How long a thread may take to stop.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of stack above the stack pointer that are looked through for the return address of a
/// signal handler.
const LOOKED_THROUGH: u64 = 64 << 10;

/// Whether a thread surely is elsewhere and will not come back by itself. One that has ended
/// is.
pub(crate) fn has_left(
    tracer: &Tracer,
    memory: &Memory,
    tid: i32,
    code: &Range<u64>,
) -> Result<bool, Error> {
    let pid = memory.pid();
    if read_thread_stat(pid, tid).is_none() {
        return Ok(true);
    }
    if let Some(asleep) = read_asleep(pid, tid) {
        return is_elsewhere(memory, code, asleep.rip, asleep.rsp);
    }
    match tracer.stop(tid, PATIENCE)? {
        StopOutcome::Stopped(thread) => {
            let registers = thread.registers();
            is_elsewhere(memory, code, registers.rip, registers.rsp)
        }
        StopOutcome::Gone => Ok(true),
        StopOutcome::Unresponsive => Ok(false),
    }
}

/// The same for a thread whose registers are known.
pub(crate) fn is_elsewhere(
    memory: &Memory,
    code: &Range<u64>,
    rip: u64,
    rsp: u64,
) -> Result<bool, Error> {
    if code.contains(&rip) {
        return Ok(false);
    }
    let maps = read_maps(memory.pid())?;
    let end = maps
        .iter()
        .find(|mapping| mapping.contains(rsp))
        .map_or(rsp, |mapping| mapping.end.min(rsp + LOOKED_THROUGH));
    let mut stack = vec![0; (end - rsp) as usize];
    memory.read_bytes(rsp, &mut stack)?;
    let (words, _) = stack.as_chunks::<8>();
    Ok(!words
        .iter()
        .any(|word| code.contains(&u64::from_le_bytes(*word))))
}
