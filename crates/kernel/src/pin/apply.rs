//! Loading what is pinned.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};

use nix::errno::Errno;

use super::files::Lock;
use super::{Pins, digest};
use crate::{Error, Kernel, KernelModule};

/// Longer files are no modules.
const MAX_MODULE_BYTES: u64 = 64 << 20;

/// A pinned module, found to be what was pinned.
#[derive(Debug)]
pub struct PinnedModule {
    /// What its file says.
    pub module: KernelModule,
    file: File,
    parameters: Vec<(String, String)>,
}

/// What came of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was loaded now. Its transition may still run.
    Loaded,
    /// It was loaded before, and its patch is enabled. Its transition may still run.
    Already,
}

impl Pins {
    /// The module that is pinned for a kernel release, compared with what was pinned.
    ///
    /// # Errors
    ///
    /// ENOENT when its file has vanished, EBADMSG when it has changed, and those of [`Pins::list`]
    /// and of reading files.
    pub fn open(&self, release: &str) -> Result<Option<PinnedModule>, Error> {
        let _lock = Lock::take(&self.directory(), false)?;
        let Some(pin) = self.list()?.remove(release) else {
            return Ok(None);
        };
        let path = self.directory().join(release).join(pin.file_name());
        let context = format!("'{}', pinned for Linux {release}", pin.module);
        let fail = |error: &std::io::Error| match error.kind() {
            ErrorKind::NotFound => {
                let reason = format!("its file {} has vanished", path.display());
                Error::new(&context, Errno::ENOENT, reason)
                    .with_help("pin it again, or remove the pin with 'engraft unpin --kernel'")
            }
            _ => Error::of_io(&context, error),
        };
        let file = File::open(&path).map_err(|error| fail(&error))?;
        let mut bytes = Vec::new();
        let limited = (&file).take(MAX_MODULE_BYTES).read_to_end(&mut bytes);
        limited.map_err(|error| fail(&error))?;
        if digest(&bytes) != pin.sha256 {
            let reason = format!("{} is not what was pinned", path.display());
            return Err(Error::new(context, Errno::EBADMSG, reason)
                .with_help("find out what has changed it, and pin the module again"));
        }
        Ok(Some(PinnedModule {
            module: KernelModule::parse(&bytes, &format!("{}.ko", pin.module))?,
            file,
            parameters: pin.parameters,
        }))
    }
}

impl Kernel {
    /// Loads a pinned module, unless it is loaded.
    ///
    /// # Errors
    ///
    /// EEXIST when another build of it is loaded, or its patch is off; EBUSY while its patch is
    /// being disabled; and those of [`Kernel::load`].
    pub fn apply(&self, pinned: &PinnedModule) -> Result<Applied, Error> {
        let name = &pinned.module.name;
        let refuse = |errno, reason: &str| Error::new(format!("apply '{name}'"), errno, reason);
        let on_stack = self.patches().into_iter().find(|patch| patch.name == *name);
        let Some(patch) = on_stack else {
            if self.module_directory(name).is_dir() {
                let reason = "a module of that name is loaded, but no such patch is enabled";
                return Err(refuse(Errno::EEXIST, reason)
                    .with_help("unload the module, then apply the pin again"));
            }
            self.load_file(&pinned.file, &pinned.module, &pinned.parameters)?;
            return Ok(Applied::Loaded);
        };
        if self.is_another_build(pinned) {
            let reason = "another build of it is loaded than the one that is pinned";
            return Err(refuse(Errno::EEXIST, reason)
                .with_help("disable and unload that one, or pin its file"));
        }
        if !patch.enabled {
            return Err(refuse(Errno::EBUSY, "its patch is being disabled")
                .with_help("wait for that, and unload it; or go back with 'enable'"));
        }
        Ok(Applied::Already)
    }

    /// Whether the loaded module of that name has another build-id, where both have one.
    fn is_another_build(&self, pinned: &PinnedModule) -> bool {
        let notes = self.module_directory(&pinned.module.name).join("notes");
        let loaded = fs::read(notes.join(".note.gnu.build-id")).ok();
        let pinned = pinned.module.build_id.as_ref();
        loaded.is_some_and(|loaded| pinned.is_some_and(|pinned| *pinned != loaded))
    }
}
