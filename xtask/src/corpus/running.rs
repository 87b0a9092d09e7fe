//! A program of the corpus while it runs.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::files::{self, Places};
use super::upstream;
use crate::failure::{Context, Failure};

const PATIENCE: Duration = Duration::from_secs(20);

/// How a program is started and asked something.
pub(super) struct Program {
    /// With the placeholders of [`Places`].
    pub(super) arguments: &'static [&'static str],
    /// What is sent over a connection; nothing for a program that only waits for its input.
    pub(super) request: &'static [u8],
    /// How the answer begins.
    pub(super) reply: &'static str,
}

impl Program {
    /// A program that reads its standard input.
    pub(super) const fn filter(arguments: &'static [&'static str]) -> Self {
        Self {
            arguments,
            request: b"",
            reply: "",
        }
    }
}

/// A started program; it ends with this value.
pub(super) struct Running {
    child: Child,
    places: Places,
    program: &'static Program,
    output: PathBuf,
    count: usize,
}

impl Running {
    pub(super) fn start(
        binary: &Path,
        scratch: &Path,
        program: &'static Program,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(scratch).context(format!("creating {}", scratch.display()))?;
        let places = Places {
            port: find_free_port()?,
            second: find_free_port()?,
            upstream: upstream::start()?,
            scratch: scratch.to_string_lossy().into_owned(),
        };
        files::write_all(scratch, &places)?;
        let path = scratch.join("output");
        let output = File::create(&path).context("creating a log")?;
        let errors = output.try_clone().context("creating a log")?;
        let child = Command::new(binary)
            .args(program.arguments.iter().map(|text| places.fill(text)))
            .current_dir(scratch)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context(format!("starting {}", binary.display()))?;
        let mut running = Self {
            child,
            places,
            program,
            output: path,
            count: 0,
        };
        running.await_answer()?;
        Ok(running)
    }

    fn await_answer(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(failure) = ask(self.program, self.places.port) {
            self.check_alive()?;
            if Instant::now() > deadline {
                return Err(failure);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child that was started before all others.
    pub(super) fn first_child(&self) -> Result<u32, Failure> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(&path).context(format!("reading {path}"))?;
        let first = children.split_whitespace().next();
        first
            .and_then(|pid| pid.parse().ok())
            .ok_or_else(|| Failure::new("the program has no child"))
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// What asks the program something, for another thread; nothing if it cannot be asked.
    pub(super) fn asker(&self) -> Option<impl Fn() -> Result<(), Failure> + Send + 'static> {
        let (program, port) = (self.program, self.places.port);
        (!program.request.is_empty()).then_some(move || ask(program, port))
    }

    /// A number that has not been given before.
    pub(super) fn next_count(&mut self) -> usize {
        self.count += 1;
        self.count
    }

    pub(super) fn write_input(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let doing = "writing to the program's input";
        let input = self.child.stdin.as_mut();
        let input = input.ok_or_else(|| Failure::new("the program has no input"))?;
        input.write_all(bytes).context(doing)?;
        input.flush().context(doing)
    }

    /// Where the output is now, to be continued from.
    pub(super) fn mark_output(&self) -> Result<u64, Failure> {
        let file = fs::metadata(&self.output).context("looking at the program's output")?;
        Ok(file.len())
    }

    /// What the program has printed since a mark, which is moved on.
    pub(super) fn output_since(&self, mark: &mut u64) -> Result<Vec<u8>, Failure> {
        let doing = "reading the program's output";
        let mut file = File::open(&self.output).context(doing)?;
        file.seek(SeekFrom::Start(*mark)).context(doing)?;
        let mut text = Vec::new();
        *mark += file.read_to_end(&mut text).context(doing)? as u64;
        Ok(text)
    }

    /// Waits until the program has printed something.
    pub(super) fn await_output(&mut self, text: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.output_since(&mut 0)?;
            if String::from_utf8_lossy(&output).contains(text) {
                return Ok(());
            }
            self.check_alive()?;
            if Instant::now() > deadline {
                return Err(Failure::new(format!("the program does not print {text:?}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn check_alive(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let output = self.output_since(&mut 0)?;
                Err(Failure::new(format!(
                    "the program has ended: {status}: {}",
                    String::from_utf8_lossy(&output).trim()
                )))
            }
            Err(error) => Err(Failure::new(format!("waiting for the program: {error}"))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Asks a program something and checks its answer.
fn ask(program: &Program, port: u16) -> Result<(), Failure> {
    if program.request.is_empty() {
        return Ok(());
    }
    let doing = "asking the program";
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context(doing)?;
    stream.set_read_timeout(Some(PATIENCE)).context(doing)?;
    stream.write_all(program.request).context(doing)?;
    let mut reply = vec![0; program.reply.len()];
    stream.read_exact(&mut reply).context(doing)?;
    if reply == program.reply.as_bytes() {
        Ok(())
    } else {
        let reply = String::from_utf8_lossy(&reply).into_owned();
        Err(Failure::new(format!("the program answers {reply:?}")))
    }
}

fn find_free_port() -> Result<u16, Failure> {
    let doing = "finding a free port";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(doing)?;
    Ok(listener.local_addr().context(doing)?.port())
}
