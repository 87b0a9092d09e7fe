//! Kernel modules: insmod and rmmod.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

use crate::errno_of;
use engraft_guest::{Context, Failure};

/// How long a patch that has left the stack may still be in use.
const PATIENCE: Duration = Duration::from_secs(5);

/// Loads a module of the initial file system.
pub(crate) fn load(module: &str, parameters: &[String]) -> Result<(), Errno> {
    let file = File::open(format!("/modules/{module}.ko")).map_err(|error| errno_of(&error))?;
    let parameters = CString::new(parameters.join(" ")).map_err(|_| Errno::EINVAL)?;
    finit_module(&file, &parameters, ModuleInitFlags::empty())
}

/// Unloads a module, after a moment if the kernel is about to let go of it.
pub(crate) fn unload(module: &str) -> Result<(), Errno> {
    let end = Instant::now() + PATIENCE;
    let on_stack = Path::new("/sys/kernel/livepatch").join(module).exists();
    let count = format!("/sys/module/{module}/refcnt");
    while !on_stack
        && Instant::now() < end
        && fs::read_to_string(&count).is_ok_and(|count| count.trim() != "0")
    {
        sleep(Duration::from_millis(10));
    }
    let name = CString::new(module).map_err(|_| Errno::EINVAL)?;
    delete_module(&name, DeleteModuleFlags::O_NONBLOCK)
}

/// Modules that are loaded and are not part of the target.
pub(crate) fn patches() -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string("/proc/modules").context("/proc/modules")?;
    let names = text.lines().filter_map(|line| line.split(' ').next());
    let target = ["conf_core", "conf_a", "conf_b"];
    Ok(names
        .filter(|name| !target.contains(name))
        .map(str::to_owned)
        .collect())
}
