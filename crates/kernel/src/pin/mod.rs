//! Pins: what is to be loaded again whenever a kernel is booted. For each kernel release there is
//! at most one, because the newest cumulative patch holds all that came before it.
//!
//! Below the directory of the pins lie the manifest, which alone says what is pinned, the lock, and
//! for each release a directory with its module. A module's file is called after what is in it, so
//! that a newer one never overwrites the one that the manifest still names.

mod apply;
mod files;
mod manifest;
mod unit;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use sha2::{Digest, Sha256};

use crate::{Error, KernelModule, directories, read_release};
use files::Lock;
use manifest::Manifest;

pub use apply::{Applied, PinnedModule};
pub use manifest::Pin;

/// The pins of a host, below a root directory.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// What [`Pins::add`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The kernel that it is for.
    pub release: String,
    /// What is pinned for it now.
    pub pin: Pin,
    /// What was pinned for it before.
    pub former: Option<Pin>,
}

impl Pins {
    /// The pins of this host.
    #[must_use]
    pub fn of_host() -> Self {
        Self::below("/")
    }

    /// The pins of what looks like a host below another directory.
    #[must_use]
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn directory(&self) -> PathBuf {
        self.root.join("var/lib/engraft/pins")
    }

    /// The running kernel's release, as of uname(2).
    ///
    /// # Errors
    ///
    /// Those of reading it from /proc.
    pub fn running_release(&self) -> Result<String, Error> {
        read_release(&self.root)
            .map_err(|error| Error::of_io("read the running kernel's release", &error))
    }

    /// What is pinned, by kernel release.
    ///
    /// # Errors
    ///
    /// EBADMSG when the manifest is damaged, EOPNOTSUPP when a newer engraft has written it.
    pub fn list(&self) -> Result<BTreeMap<String, Pin>, Error> {
        Ok(Manifest::read(&self.directory())?.pins)
    }

    /// Pins a livepatch module for the kernel that it was built for, which need not be the running
    /// one, instead of what was pinned for that kernel before. When this fails, or is killed at any
    /// moment, the former pin is still whole.
    ///
    /// # Errors
    ///
    /// EINVAL for a module that is no livepatch or has an impossible name or kernel release,
    /// EWOULDBLOCK while another command changes pins, those of [`Pins::list`], and those of
    /// writing files.
    pub fn add(
        &self,
        bytes: &[u8],
        module: &KernelModule,
        parameters: &[(String, String)],
    ) -> Result<Pinned, Error> {
        let context = format!("pin '{}'", module.name);
        let refuse = |reason: String| Error::new(&context, Errno::EINVAL, reason);
        if !module.livepatch {
            let reason = "it is not marked as a livepatch module";
            return Err(refuse(reason.to_owned())
                .with_help("other modules are loaded at boot by modules-load.d(5)"));
        }
        let release = module.release().to_owned();
        if !manifest::is_release(&release) {
            let reason = format!("it was built for '{release}', which is no kernel release");
            return Err(refuse(reason));
        }
        if !manifest::is_plain(&module.name) {
            return Err(refuse("that is no module's name".to_owned()));
        }
        let pin = Pin {
            module: module.name.clone(),
            sha256: digest(bytes),
            parameters: parameters.to_vec(),
        };
        self.change(&context, |manifest| {
            let directory = self.directory().join(&release);
            files::create_directory(&directory)
                .and_then(|()| files::write(&directory, &pin.file_name(), bytes))
                .map_err(|error| Error::of_io(&context, &error))?;
            let former = manifest.pins.insert(release.clone(), pin.clone());
            Ok(Pinned {
                release,
                pin,
                former,
            })
        })
    }

    /// Forgets what is pinned for a kernel release, and returns it. What is loaded stays loaded.
    ///
    /// # Errors
    ///
    /// ENOENT when nothing is pinned for it, otherwise as [`Pins::add`].
    pub fn remove(&self, release: &str) -> Result<Pin, Error> {
        let context = format!("unpin for Linux {release}");
        let missing = || Error::new(&context, Errno::ENOENT, "nothing is pinned for it");
        // Where nothing was ever pinned, nothing is written either.
        if !self.list()?.contains_key(release) {
            return Err(missing().with_help("'engraft pin --list' shows what is pinned"));
        }
        self.change(&context, |manifest| {
            manifest.pins.remove(release).ok_or_else(missing)
        })
    }

    /// Changes the manifest with the lock held. Whatever comes of it, no file stays that the
    /// manifest on disk does not name.
    fn change<T>(
        &self,
        context: &str,
        change: impl FnOnce(&mut Manifest) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let directory = self.directory();
        files::create_directory(&directory).map_err(|error| Error::of_io(context, &error))?;
        let _lock = Lock::take(&directory, true)?;
        let mut manifest = Manifest::read(&directory)?;
        self.sweep(&manifest);
        let changed = change(&mut manifest).and_then(|value| {
            manifest.write(&directory)?;
            Ok(value)
        });
        if let Ok(manifest) = Manifest::read(&directory) {
            self.sweep(&manifest);
        }
        changed
    }

    /// Removes modules that are not pinned any more, and what a command that was killed has left.
    /// What cannot be removed does no harm, and the next command tries again.
    fn sweep(&self, manifest: &Manifest) {
        let _ = fs::remove_file(files::temporary(&self.directory(), manifest::FILE));
        let found = directories(&self.directory()).into_iter();
        for (release, path) in found.filter(|(name, _)| manifest::is_release(name)) {
            let kept = manifest.pins.get(&release).map(Pin::file_name);
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if files::is_ours(&name) && kept.as_ref() != Some(&name) {
                    let _ = fs::remove_file(entry.path());
                }
            }
            // Only an empty directory goes.
            let _ = fs::remove_dir(path);
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
