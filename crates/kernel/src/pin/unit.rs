//! The systemd unit that has pins applied at boot.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::errno::Errno;

use super::{Pins, files};
use crate::Error;

const NAME: &str = "engraft-pin.service";

/// Where administrators' units lie, and those of packages (systemd.unit(5)).
const DIRECTORIES: [&str; 3] = [
    "etc/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// What starts it, as in its section Install.
const WANTED_BY: &str = "sysinit.target.wants";

impl Pins {
    /// Whether pins are applied at boot: whether the unit is enabled.
    #[must_use]
    pub fn are_applied_at_boot(&self) -> bool {
        DIRECTORIES.iter().any(|directory| {
            let link = self.root.join(directory).join(WANTED_BY).join(NAME);
            fs::symlink_metadata(link).is_ok()
        })
    }

    /// Writes the unit and enables it, as systemctl(1) does; returns its path. An older one is
    /// replaced, if its first line shows that it was written by this.
    ///
    /// # Errors
    ///
    /// ENOENT on a host without systemd, EEXIST when somebody else's unit has that name, and those
    /// of writing files.
    pub fn install_unit(&self, text: &str) -> Result<PathBuf, Error> {
        let context = format!("install {NAME}");
        let fail = |error: std::io::Error| Error::of_io(&context, &error);
        let directory = self.root.join(DIRECTORIES[0]);
        if !directory.is_dir() {
            let reason = format!("there is no {}", directory.display());
            return Err(Error::new(context, Errno::ENOENT, reason)
                .with_help("without systemd, let 'engraft pin --apply' run early at boot"));
        }
        let path = directory.join(NAME);
        match fs::read_to_string(&path) {
            Ok(old) if old.lines().next() != text.lines().next() => {
                let reason = format!("{} was not written by engraft", path.display());
                return Err(Error::new(context, Errno::EEXIST, reason)
                    .with_help("move that file away first"));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let wanted_by = directory.join(WANTED_BY);
        files::create_directory(&wanted_by).map_err(fail)?;
        files::write(&directory, NAME, text.as_bytes()).map_err(fail)?;
        match symlink(format!("../{NAME}"), wanted_by.join(NAME)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(fail(error)),
            _ => Ok(path),
        }
    }
}
