//! The bundled server: compiled, started, asked for its counters.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// The server's source.
const FILES: [(&str, &str); 7] = [
    ("build.sh", include_str!("program/build.sh")),
    ("server.c", include_str!("program/server.c")),
    ("server.h", include_str!("program/server.h")),
    ("idle.c", include_str!("program/idle.c")),
    ("request.c", include_str!("program/request.c")),
    ("shop.c", include_str!("program/shop.c")),
    ("shop.h", include_str!("program/shop.h")),
];

/// The command that builds it in a directory with its source, and the program that it makes.
pub(super) const COMMAND: [&str; 2] = ["sh", "build.sh"];
pub(super) const PROGRAM: &str = "server";
const QUESTION_LIMIT: Duration = Duration::from_secs(5);
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// Writes the source into a new directory.
pub(super) fn write_source(directory: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    FILES
        .iter()
        .try_for_each(|(name, text)| fs::write(directory.join(name), text))
}

/// Builds the server in a directory with its source, and returns the program.
pub(super) fn build(directory: &Path) -> Result<PathBuf, Failure> {
    let output = Command::new(COMMAND[0])
        .args(&COMMAND[1..])
        .current_dir(directory)
        .output()
        .map_err(|error| Failure::new(format!("cannot run '{}': {error}", COMMAND[0])))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(
            Failure::new(format!("the server cannot be compiled:\n{said}"))
                .with_help("install a C compiler (Debian: gcc and libc6-dev), or name one in CC"),
        );
    }
    Ok(directory.join(PROGRAM))
}

/// A running server; ends when dropped.
pub(super) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts the program. It ends when this process does: its standard input is a pipe.
    pub(super) fn start(program: &Path) -> Result<Self, Failure> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .env_remove(OsString::from("LD_PRELOAD"))
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start the server: {error}")))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            let read = BufReader::new(output).read_line(&mut line);
            read.map_err(|error| Failure::new(format!("the server does not speak: {error}")))?;
        }
        let mut server = Self { child, port: 0 };
        server.port = line.trim().parse().map_err(|_| {
            Failure::new("the server could not open a port on the loopback interface")
                .with_help("its own message is above")
        })?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> i32 {
        // Linux process numbers fit: pid_max is at most 2^22 (proc(5)).
        self.child.id() as i32
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// How many system calls of the server's threads returned EINTR so far.
    pub(super) fn interrupted_calls(&self) -> Result<u64, Failure> {
        self.ask("counters")?
            .get(1)
            .copied()
            .ok_or_else(misunderstood)
    }

    /// The longest time for which the spinning thread did not run since the last question.
    pub(super) fn take_longest_gap(&self) -> Result<Duration, Failure> {
        let numbers = self.ask("gap")?;
        numbers
            .first()
            .copied()
            .map(Duration::from_nanos)
            .ok_or_else(misunderstood)
    }

    /// Sends one word, gets it back with numbers behind it.
    fn ask(&self, question: &str) -> Result<Vec<u64>, Failure> {
        let answer = self.converse(question).map_err(|error| {
            Failure::new(format!("the server does not answer '{question}': {error}"))
        })?;
        let numbers = answer.strip_prefix(question).ok_or_else(misunderstood)?;
        numbers
            .split_whitespace()
            .map(|word| word.parse().map_err(|_| misunderstood()))
            .collect()
    }

    fn converse(&self, question: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(QUESTION_LIMIT))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    }

    /// Ends the server and says how it ended.
    pub(super) fn stop(mut self) -> io::Result<ExitStatus> {
        self.end()
    }

    fn end(&mut self) -> io::Result<ExitStatus> {
        drop(self.child.stdin.take());
        let started = Instant::now();
        while started.elapsed() < EXIT_LIMIT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that has been waited for is not waited for again; others are ended.
        let _ = self.end();
    }
}

fn misunderstood() -> Failure {
    Failure::new("the server's answer is not understood")
}
