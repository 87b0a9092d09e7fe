//! The livepatch log: the kernel's wording, bounded.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of lines that are kept.
pub const LOG_LINES: usize = 1000;

/// Start of the lines about threads that could not be switched.
pub(crate) const SWITCH_PREFIX: &str = "klp_try_switch_task: ";

/// Importance of a line, numbered as by syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// pr_err
    Err = 3,
    /// pr_warn
    Warn = 4,
    /// pr_notice
    Notice = 5,
    /// pr_debug
    Debug = 7,
}

/// When a line was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// [`crate::Target::now`].
    pub time: u64,
    /// [`crate::Target::log_position`].
    pub position: u64,
}

/// One line; its `Display` has the kernel's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Importance.
    pub level: Level,
    /// When.
    pub stamp: Stamp,
    /// Text without prefix.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "livepatch: {}", self.text)
    }
}

/// The last lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    lines: VecDeque<Line>,
    written: u64,
}

impl Log {
    /// The lines that are kept, oldest first.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &Line> + ExactSizeIterator {
        self.lines.iter()
    }

    /// Number of lines ever written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends a line. When the log is full the oldest line about a thread that could not
    /// be switched gives way, or else the oldest line: a stalled transition repeats the
    /// former at every attempt and must not push out the record of what happened.
    pub fn append(&mut self, level: Level, stamp: Stamp, text: String) {
        if self.lines.len() >= LOG_LINES {
            let is_repeated = |line: &Line| line.text.starts_with(SWITCH_PREFIX);
            let victim = self.lines.iter().position(is_repeated).unwrap_or(0);
            self.lines.remove(victim);
        }
        self.lines.push_back(Line { level, stamp, text });
        self.written += 1;
    }
}
