//! The kernel's log.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use crate::{Error, Kernel};

/// A line about livepatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// The kernel's level: 3 err, 4 warn, 5 notice, 6 info, 7 debug.
    pub level: u8,
    /// Rises from line to line.
    pub order: u64,
    /// The line.
    pub text: String,
}

/// Longer records than this are cut off by the kernel.
const LONGEST_RECORD: usize = 8192;

impl Kernel {
    /// The lines of livepatch itself and of the patches on the stack that the kernel still has.
    ///
    /// # Errors
    ///
    /// Those of reading `/dev/kmsg`.
    pub fn read_log(&self) -> Result<Vec<LogLine>, Error> {
        let path = self.root.join("dev/kmsg");
        let fail = |error: &std::io::Error| Error::of_io("read the kernel's log", error);
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut file = options.open(path).map_err(|error| fail(&error))?;
        let mut prefixes = vec!["livepatch: ".to_owned()];
        prefixes.extend(
            self.patches()
                .iter()
                .map(|patch| format!("{}: ", patch.name)),
        );
        let mut lines = Vec::new();
        let mut record = [0; LONGEST_RECORD];
        loop {
            match file.read(&mut record) {
                Ok(0) => return Ok(lines),
                Ok(length) => {
                    let line = parse_record(&String::from_utf8_lossy(&record[..length]));
                    let counts = |line: &LogLine| {
                        prefixes
                            .iter()
                            .any(|prefix| line.text.starts_with(&**prefix))
                    };
                    lines.extend(line.filter(counts));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // Lines were overwritten while they were read; the rest is still there.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(fail(&error)),
            }
        }
    }
}

/// `6,339,5140900,-;text`, possibly followed by lines that begin with a blank
/// (Documentation/ABI/testing/dev-kmsg).
fn parse_record(record: &str) -> Option<LogLine> {
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let facility_and_level: u32 = fields.next()?.parse().ok()?;
    let order = fields.next()?.parse().ok()?;
    let microseconds: u64 = fields.next()?.parse().ok()?;
    Some(LogLine {
        time_ns: microseconds.saturating_mul(1000),
        level: (facility_and_level & 7) as u8,
        order,
        text: text.lines().next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_apart() {
        let line = parse_record("30,7,5140900,-;livepatch: a; b\n SUBSYSTEM=x\n").expect("a line");
        let LogLine {
            time_ns,
            level,
            order,
            text,
        } = line;
        assert_eq!((time_ns, level, order), (5_140_900_000, 6, 7));
        assert_eq!(text, "livepatch: a; b");
        for bad in ["", "6,1", "6,1,2,-", "x,1,2,-;t"] {
            assert_eq!(parse_record(bad), None, "{bad}");
        }
    }
}
