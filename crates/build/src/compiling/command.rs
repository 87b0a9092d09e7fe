//! The build command, run to its end.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;
use std::{env, io};

use super::session::{Record, Session, VARIABLE, is_probe, parse_records};
use super::tools::RUSTC_WRAPPER;
use super::{BuildError, Progress, Side, Step};

/// How often records are looked at while the command runs.
const INTERVAL: Duration = Duration::from_millis(40);
/// The date that programs which ask for one see: 2001-09-09, after the beginning of every format.
const DATE: &str = "1000000000";
/// How much of a failed command's log is shown.
const LAST_LINES: usize = 12;

/// Runs the build command and returns what its compilers recorded.
pub(super) fn run(
    command: &[OsString],
    session: &Session,
    session_file: &Path,
    log: &Path,
    side: Side,
    progress: &dyn Progress,
) -> Result<Vec<Record>, BuildError> {
    let (program, arguments) = command.split_first().ok_or(BuildError::NoCommand)?;
    let output = File::create(log).map_err(BuildError::io("create", log))?;
    let errors = output
        .try_clone()
        .map_err(BuildError::io("open again", log))?;
    let mut build = Command::new(program);
    build
        .args(arguments)
        .current_dir(&session.tree)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    set_environment(&mut build, session, session_file);
    let child = build.spawn().map_err(|error| BuildError::Start {
        command: program.clone(),
        error,
    })?;
    let mut following = Following {
        session,
        side,
        progress,
        read: 0,
        records: Vec::new(),
        compiled: 0,
    };
    let status = following.wait(child)?;
    if !status.success() {
        return Err(BuildError::CommandFailed {
            side,
            status: status.to_string(),
            last_lines: last_lines(log),
            log: log.to_path_buf(),
        });
    }
    Ok(following.records)
}

fn set_environment(build: &mut Command, session: &Session, session_file: &Path) {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut wrapped = OsString::from(&session.tools);
    wrapped.push(":");
    wrapped.push(path);
    build
        .env("PATH", wrapped)
        .env("PWD", &session.tree)
        .env(VARIABLE, session_file)
        .env("RUSTC_WRAPPER", session.tools.join(RUSTC_WRAPPER))
        // Both would have compilations done by, or results taken from, elsewhere.
        .env("CCACHE_DISABLE", "1")
        .env("DISTCC_HOSTS", "localhost")
        // Objects would be written to a place that both builds share.
        .env_remove("CARGO_TARGET_DIR");
    if env::var_os("SOURCE_DATE_EPOCH").is_none() {
        build.env("SOURCE_DATE_EPOCH", DATE);
    }
    for variable in ["CC", "CXX", "LD"] {
        if let Some(value) = env::var_os(variable)
            && let Some(name) = name_of_wrapped(&value, &session.tools)
        {
            build.env(variable, name);
        }
    }
}

/// The name of the compiler that an absolute path leads to, if it is wrapped.
fn name_of_wrapped(value: &OsStr, tools: &Path) -> Option<OsString> {
    let path = Path::new(value);
    let name = path.file_name()?;
    (path.is_absolute() && tools.join(name).exists()).then(|| name.to_owned())
}

/// A build that is being followed by its records.
struct Following<'a> {
    session: &'a Session,
    side: Side,
    progress: &'a dyn Progress,
    /// How much of the records file has been read.
    read: u64,
    records: Vec<Record>,
    compiled: usize,
}

impl Following<'_> {
    fn wait(&mut self, mut child: Child) -> Result<ExitStatus, BuildError> {
        let status = loop {
            let ended = child
                .try_wait()
                .map_err(BuildError::io("wait for the build in", &self.session.tree))?;
            self.read_records()
                .map_err(BuildError::io("read", &self.session.records))?;
            match ended {
                Some(status) => break status,
                None => thread::sleep(INTERVAL),
            }
        };
        Ok(status)
    }

    fn read_records(&mut self) -> io::Result<()> {
        let mut file = match File::open(&self.session.records) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let (records, length) = parse_records(&text)?;
        self.read += length as u64;
        for record in records {
            self.report(&record);
            self.records.push(record);
        }
        Ok(())
    }

    fn report(&mut self, record: &Record) {
        if let Record::Compilation { source, .. } = record
            && !is_probe(source)
        {
            self.compiled += 1;
            self.progress.step(&Step::Compiling {
                side: self.side,
                objects: self.compiled,
                source: source.strip_prefix(&self.session.tree).unwrap_or(source),
            });
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let first = lines.len().saturating_sub(LAST_LINES);
    lines[first..].join("\n")
}
