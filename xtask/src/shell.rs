//! Running other programs, with their output kept for when it is needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure};

/// Where the output of the programs that a task runs goes.
pub(crate) struct Log {
    kind: Kind,
}

enum Kind {
    Terminal,
    Nowhere,
    File(PathBuf),
}

impl Log {
    /// Straight to the terminal.
    pub(crate) fn terminal() -> Self {
        Self {
            kind: Kind::Terminal,
        }
    }

    /// Nowhere: for programs whose failure is an answer.
    pub(crate) fn discard() -> Self {
        Self {
            kind: Kind::Nowhere,
        }
    }

    /// Into a file, which is emptied first.
    pub(crate) fn file(path: PathBuf) -> Result<Self, Failure> {
        File::create(&path).context(format!("creating {}", path.display()))?;
        Ok(Self {
            kind: Kind::File(path),
        })
    }

    /// The file that is written to, when it is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::File(path) => Some(path),
            Kind::Terminal | Kind::Nowhere => None,
        }
    }

    /// What has been written to the file.
    pub(crate) fn contents(&self) -> String {
        self.path()
            .and_then(|path| fs::read(path).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// A destination for one child's output, appending.
    pub(crate) fn output(&self) -> Result<Stdio, Failure> {
        match &self.kind {
            Kind::Terminal => Ok(Stdio::inherit()),
            Kind::Nowhere => Ok(Stdio::null()),
            Kind::File(path) => open_to_append(path).map(Stdio::from),
        }
    }
}

fn open_to_append(path: &Path) -> Result<File, Failure> {
    File::options()
        .append(true)
        .open(path)
        .context(format!("opening {}", path.display()))
}

/// Runs to the end; anything but success is a failure that names the command.
pub(crate) fn run(command: &mut Command, log: &Log) -> Result<(), Failure> {
    command
        .stdin(Stdio::null())
        .stdout(log.output()?)
        .stderr(log.output()?);
    let status = command.status().context(describe(command))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("{}: {status}", describe(command))))
    }
}

/// Runs to the end and returns standard output, which a failure quotes; standard error goes
/// to the log.
pub(crate) fn read(command: &mut Command, log: &Log) -> Result<String, Failure> {
    command.stdin(Stdio::null()).stderr(log.output()?);
    let output = command.output().context(describe(command))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stdout);
        let message = format!(
            "{}: {}: {}",
            describe(command),
            output.status,
            printed.trim()
        );
        return Err(Failure::new(message));
    }
    String::from_utf8(output.stdout).context(describe(command))
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![
        program
            .file_name()
            .unwrap_or(command.get_program())
            .to_string_lossy()
            .into_owned(),
    ];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    format!("`{}`", words.join(" "))
}
