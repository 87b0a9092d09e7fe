//! Files that are there whole or not at all, whatever happens meanwhile.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::Error;

/// How long another command that changes pins is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(20);

/// Creates a directory that outlives a crash, and those that it lies in.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().ok_or(ErrorKind::NotFound)?;
    create_directory(parent)?;
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_directory(parent)
}

/// Writes a file in place of another of that name; once this returns, it outlives a crash.
pub(super) fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(directory, name);
    let written = write_through(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, directory.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_directory(directory))
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Where a file lies until it is whole.
pub(super) fn temporary(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}.new"))
}

/// Whether a file in a release's directory is a module, or one that was not yet whole.
pub(super) fn is_ours(name: &str) -> bool {
    name.ends_with(".ko") || (name.starts_with('.') && name.ends_with(".ko.new"))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Keeps other commands from changing pins until it is dropped. It is a lock of flock(2), which
/// ends with its process.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// Takes the lock. A reader creates nothing: where there is no lock, nobody has pinned.
    ///
    /// # Errors
    ///
    /// EWOULDBLOCK when somebody else has it for too long.
    pub(super) fn take(directory: &Path, create: bool) -> Result<Self, Error> {
        let path = directory.join("lock");
        let context = format!("lock {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(create).create(create).mode(0o600);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && !create => {
                return Ok(Self { _file: None });
            }
            Err(error) => return Err(Error::of_io(context, &error)),
        };
        let end = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: Some(file) }),
                Err(TryLockError::WouldBlock) if Instant::now() < end => sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    let reason = "another engraft is changing the pins";
                    return Err(Error::new(context, Errno::EWOULDBLOCK, reason)
                        .with_help("try again when it has ended"));
                }
                Err(TryLockError::Error(error)) => return Err(Error::of_io(context, &error)),
            }
        }
    }
}
