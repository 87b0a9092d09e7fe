//! The kernel's log.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use engraft_guest::{Context, Failure};

/// A place in the kernel's log.
pub(crate) struct Log(File);

impl Log {
    /// From now on.
    pub(crate) fn open() -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut log = Self(options.open("/dev/kmsg").context("/dev/kmsg")?);
        log.read()?;
        Ok(log)
    }

    /// Lines about livepatch that have come since the last reading.
    pub(crate) fn read(&mut self) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(lines),
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    // A header, then the text; lines that begin with a blank belong to neither.
                    let text = text.split_once(';').map_or("", |(_, text)| text);
                    lines.extend(
                        text.lines()
                            .next()
                            .filter(|line| counts(line))
                            .map(str::to_owned),
                    );
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // It was overwritten meanwhile.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    return Err(Failure::new("lines of the kernel's log were lost"));
                }
                Err(error) => return Err(error).context("/dev/kmsg"),
            }
        }
    }
}

fn counts(line: &str) -> bool {
    let ours = line.starts_with("livepatch: ") || line.starts_with("conf_");
    ours && !line.contains("taint") && !line.contains("signaling remaining tasks")
}
