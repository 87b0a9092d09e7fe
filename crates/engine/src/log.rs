//! The target's livepatch log: the rules' own lines, and what patch modules print, in one
//! order.

use engraft_abi::{RING_BYTES, RecordHeader, RingHeader};
use engraft_process::{Memory, Pod};
use serde::Serialize;

use crate::attached::Attached;
use crate::database::Records;
use crate::error::Error;
use crate::live::now;
use crate::status::load_quietly;

/// No log gets as long as that.
pub(crate) const MAX_POSITION: u64 = 1 << 61;

/// Longest text that is read from the ring.
const MAX_TEXT: u32 = 4096;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Nanoseconds since boot; 0 when unknown.
    pub time_ns: u64,
    /// The kernel's level: 3 err, 4 warn, 5 notice, 6 info, 7 debug.
    pub level: u8,
    /// The line.
    pub text: String,
    /// Rises from line to line, also over several readings.
    pub order: u64,
}

/// Reads the log of a process, oldest line first.
///
/// # Errors
///
/// ESRCH, EPERM, ENOEXEC.
pub fn read_log(pid: i32) -> Result<Vec<LogLine>, Error> {
    let process = Attached::look(pid)?;
    let Some((state, records)) = load_quietly(&process)? else {
        return Ok(Vec::new());
    };
    let mut printed = read_ring(&process.memory, &records)?.into_iter().peekable();
    let mut lines = Vec::new();
    let first = state.log.written() - state.log.lines().len() as u64;
    for (number, line) in (first..).zip(state.log.lines()) {
        // A line of the rules comes behind everything that was in the ring by then.
        while let Some((_, earlier)) =
            printed.next_if(|(position, _)| *position < line.stamp.position)
        {
            lines.push(earlier);
        }
        lines.push(LogLine {
            time_ns: line.stamp.time,
            level: line.level as u8,
            text: line.to_string(),
            order: line.stamp.position + number,
        });
    }
    lines.extend(printed.map(|(_, line)| line));
    number_lines(&mut lines);
    Ok(lines)
}

/// Positions of both sources rise together, but may be equal: make them strictly rising.
fn number_lines(lines: &mut [LogLine]) {
    let mut last = 0;
    for line in lines {
        line.order = line.order.max(last + 1);
        last = line.order;
    }
}

fn read_ring(memory: &Memory, records: &Records) -> Result<Vec<(u64, LogLine)>, Error> {
    let base = records.runtime.ring;
    let header: RingHeader = memory.read(base)?;
    let mut bytes = vec![0; RING_BYTES];
    memory.read_bytes(base + size_of::<RingHeader>() as u64, &mut bytes)?;
    let clock = Clock::measure();
    let mut lines = Vec::new();
    // The target writes it, and may have written anything.
    let head = header.head.min(MAX_POSITION);
    let mut position = head.saturating_sub(RING_BYTES as u64).next_multiple_of(8);
    while position < head {
        match read_record(&bytes, position) {
            Some((record, text)) => {
                let line = LogLine {
                    time_ns: clock.time_of(record.tsc),
                    level: record.level.min(7) as u8,
                    text,
                    order: position,
                };
                lines.push((position, line));
                position += (size_of::<RecordHeader>() as u64 + u64::from(record.length))
                    .next_multiple_of(8);
            }
            // Overwritten, or not written yet: records start at multiples of 8.
            None => position += 8,
        }
    }
    Ok(lines)
}

fn read_record(bytes: &[u8], position: u64) -> Option<(RecordHeader, String)> {
    let field = |offset: u64, length: usize| -> Vec<u8> {
        (0..length as u64)
            .map(|index| bytes[((position + offset + index) % RING_BYTES as u64) as usize])
            .collect()
    };
    let word = |offset: u64| {
        field(offset, 8)
            .iter()
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let sizes = word(16);
    let record = RecordHeader {
        position: word(0),
        tsc: word(8),
        length: sizes as u32,
        level: (sizes >> 32) as u32,
    };
    let valid = record.position == position && record.length <= MAX_TEXT;
    // Position 0 of an untouched ring looks like a record without text.
    let written = record.length > 0 || record != RecordHeader::zeroed();
    (valid && written).then(|| {
        let text = field(size_of::<RecordHeader>() as u64, record.length as usize);
        (record, String::from_utf8_lossy(&text).trim_end().to_owned())
    })
}

/// Relation of the time stamp counter to the time since boot.
struct Clock {
    tsc: u64,
    time: u64,
    ticks_per_second: f64,
}

impl Clock {
    fn measure() -> Self {
        let (first, start) = (engraft_process::read_tsc(), now());
        std::thread::sleep(std::time::Duration::from_millis(5));
        let (tsc, time) = (engraft_process::read_tsc(), now());
        let seconds = (time - start) as f64 / 1e9;
        Self {
            tsc,
            time,
            ticks_per_second: (tsc - first) as f64 / seconds,
        }
    }

    fn time_of(&self, tsc: u64) -> u64 {
        if tsc == 0 || tsc > self.tsc {
            return 0;
        }
        let ago = (self.tsc - tsc) as f64 / self.ticks_per_second * 1e9;
        self.time.saturating_sub(ago as u64)
    }
}
