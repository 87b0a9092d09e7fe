//! The running program, and the conversation with it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use engraft_guest::{Context, Failure};

/// How long the program may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that obeys commands. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Program {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Program {
    pub(super) fn start(path: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context(path.display())?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Failure::new("the program has no pipes"));
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let program = Self {
            process,
            input,
            lines,
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

    fn line(&self) -> Result<String, Failure> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.context("the program does not answer")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
