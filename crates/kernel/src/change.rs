//! Changes of the stack.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

use crate::{Error, Kernel, KernelModule};

/// How long the module of a patch that is off may still be in use: the kernel lets go of it in the
/// background.
const PATIENCE: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(5);

impl Kernel {
    /// Loads a livepatch module, which enables its patch. Its transition may still run then.
    ///
    /// # Errors
    ///
    /// EINVAL for a module that is no livepatch, ENOEXEC for one that was built for another
    /// kernel, and those of finit_module(2), with what the kernel has logged.
    pub fn load(
        &self,
        path: &Path,
        module: &KernelModule,
        parameters: &[(String, String)],
    ) -> Result<(), Error> {
        let fail = |error| Error::of_io(format!("load '{}'", module.name), &error);
        self.load_file(&File::open(path).map_err(fail)?, module, parameters)
    }

    /// The same for a file that is open.
    pub(crate) fn load_file(
        &self,
        file: &File,
        module: &KernelModule,
        parameters: &[(String, String)],
    ) -> Result<(), Error> {
        let context = format!("load '{}'", module.name);
        if !module.livepatch {
            let reason = "it is not marked as a livepatch module";
            return Err(Error::new(context, Errno::EINVAL, reason)
                .with_help("load other modules with insmod"));
        }
        if let Some(reason) = self.find_mismatch(module) {
            return Err(Error::new(context, Errno::ENOEXEC, reason)
                .with_help("build it for the kernel that runs, or boot the one that it is for"));
        }
        let mut text = String::new();
        for (name, value) in parameters {
            text += &format!("{name}={value} ");
        }
        let Ok(text) = CString::new(text.trim_end()) else {
            return Err(Error::new(
                context,
                Errno::EINVAL,
                "a parameter holds a null byte",
            ));
        };
        let before = self.last_line();
        finit_module(file, &text, ModuleInitFlags::empty()).map_err(|errno| {
            let error = match errno {
                Errno::EEXIST => Error::of_call(&context, errno)
                    .with_help("a module of that name is loaded: unload it first"),
                Errno::ENOEXEC => Error::of_call(&context, errno)
                    .with_help(format!("it was built for '{}'", module.vermagic)),
                errno => Error::of_call(&context, errno),
            };
            error.with_log(self.lines_since(before))
        })
    }

    /// Writes `enabled` of a patch: enables or disables it, or reverses its transition.
    ///
    /// # Errors
    ///
    /// ENOENT when it is not on the stack, EBUSY while another one is in transition.
    pub fn set_enabled(&self, patch: &str, enabled: bool) -> Result<(), Error> {
        let verb = if enabled { "enable" } else { "disable" };
        let value = if enabled { "1" } else { "0" };
        self.write(patch, "enabled", value, &format!("{verb} '{patch}'"))
    }

    /// Switches the remaining tasks of a patch's transition regardless of their stacks.
    ///
    /// # Errors
    ///
    /// ENOENT when it is not on the stack, EINVAL when it is not in transition.
    pub fn force(&self, patch: &str) -> Result<(), Error> {
        self.write(patch, "force", "1", &format!("force '{patch}'"))
    }

    fn write(&self, patch: &str, attribute: &str, value: &str, doing: &str) -> Result<(), Error> {
        let directory = self.patch_directory(patch);
        if !directory.is_dir() {
            let loaded = self.module_directory(patch).is_dir();
            let help = if loaded {
                "its module is loaded, but the patch is off: unload it, then load it again"
            } else {
                "load it first"
            };
            let reason = "no such patch is on the kernel's stack";
            return Err(Error::new(doing, Errno::ENOENT, reason).with_help(help));
        }
        let before = self.last_line();
        fs::write(directory.join(attribute), value)
            .map_err(|error| Error::of_io(doing, &error).with_log(self.lines_since(before)))
    }

    /// Unloads the module of a patch that is off.
    ///
    /// # Errors
    ///
    /// ENOENT when it is not loaded, EWOULDBLOCK while it is in use.
    pub fn unload(&self, module: &str) -> Result<(), Error> {
        let context = format!("unload '{module}'");
        let directory = self.module_directory(module);
        if !directory.is_dir() {
            return Err(Error::new(
                context,
                Errno::ENOENT,
                "no such module is loaded",
            ));
        }
        let count = || fs::read_to_string(directory.join("refcnt")).unwrap_or_default();
        let end = Instant::now() + PATIENCE;
        while !self.patch_directory(module).is_dir()
            && !["", "0"].contains(&count().trim())
            && Instant::now() < end
        {
            sleep(PAUSE);
        }
        let Ok(name) = CString::new(module) else {
            return Err(Error::new(
                context,
                Errno::EINVAL,
                "a name holds no null byte",
            ));
        };
        delete_module(&name, DeleteModuleFlags::O_NONBLOCK).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => Error::new(context, errno, "it is in use")
                .with_help("disable its patch first; what was forced, or forced others off, stays"),
            errno => Error::of_call(context, errno),
        })
    }

    fn last_line(&self) -> Option<u64> {
        self.read_log().ok()?.last().map(|line| line.order)
    }

    fn lines_since(&self, order: Option<u64>) -> Vec<String> {
        let lines = self.read_log().unwrap_or_default().into_iter();
        let new = lines.filter(|line| Some(line.order) > order);
        new.map(|line| line.text).collect()
    }
}
