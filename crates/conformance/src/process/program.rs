//! The running program, and the conversation with it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use engraft_guest::{Context, Failure};

/// A program that obeys commands. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Program {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    pub(super) fn start(path: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context(path.display())?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Failure::new("the program has no pipes"));
        };
        let mut program = Self {
            process,
            input,
            output: BufReader::new(output),
        };
        while program.line()? != "ready" {}
        Ok(program)
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Gives a command; returns the number of an error, 0 for none, and the answer.
    pub(super) fn ask(&mut self, command: &str) -> Result<(i32, String), Failure> {
        let written = writeln!(self.input, "{command}").and_then(|()| self.input.flush());
        written.context("writing to the program")?;
        let line = self.line()?;
        let (errno, answer) = line.split_once(' ').unwrap_or((&line, ""));
        Ok((errno.parse().context(&line)?, answer.to_owned()))
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        let length = self
            .output
            .read_line(&mut line)
            .context("reading from the program")?;
        if length == 0 {
            return Err(Failure::new("the program has ended"));
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
