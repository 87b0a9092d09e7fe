//! A generated program while it runs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::failure::{Context, Failure};

/// Where a program computes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In a child, which starts with the variables as the program was started with them.
    Child,
    /// In the process itself, which sets its variables back afterwards.
    Here,
}

/// The line that a program answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer(pub(super) String);

impl Answer {
    pub(super) fn is_checksum(&self) -> bool {
        self.0.starts_with("checksum = ")
    }
}

/// A started program; it ends with this value.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// `limit` is the processor time of one computation, in milliseconds.
    pub(super) fn start(binary: &Path, limit: u32) -> Result<Self, Failure> {
        let doing = || format!("starting {}", binary.display());
        let mut child = Command::new(binary)
            .arg(limit.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(doing())?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new(doing()));
        };
        let mut process = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        match process.read_line()? {
            Some(Answer(line)) if line == "ready" => Ok(process),
            other => Err(Failure::new(format!("{}: it says {other:?}", doing()))),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The answer, or nothing when the program has ended.
    pub(super) fn ask(&mut self, place: Place) -> Result<Option<Answer>, Failure> {
        let question = match place {
            Place::Child => "f\n",
            Place::Here => "r\n",
        };
        // Whether it still listens is seen by whether it answers.
        self.input.write_all(question.as_bytes()).ok();
        self.read_line()
    }

    fn read_line(&mut self) -> Result<Option<Answer>, Failure> {
        let mut line = String::new();
        let length = self.output.read_line(&mut line).context("an answer")?;
        Ok((length > 0).then(|| Answer(line.trim_end().to_owned())))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
