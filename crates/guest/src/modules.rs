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

/// The target's modules that are there at the beginning, and those that are not.
pub(crate) const PRESENT: [&str; 3] = ["conf_core", "conf_a", "conf_b"];
pub(crate) const ABSENT: [&str; 1] = ["conf_c"];

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
    unload_now(module)
}

/// Unloads a module, unless it is in use.
pub(crate) fn unload_now(module: &str) -> Result<(), Errno> {
    let name = CString::new(module).map_err(|_| Errno::EINVAL)?;
    delete_module(&name, DeleteModuleFlags::O_NONBLOCK)
}

/// Modules that are loaded and are not part of the target.
pub(crate) fn patches() -> Result<Vec<String>, Failure> {
    let mut names = loaded()?;
    names.retain(|name| !PRESENT.contains(&name.as_str()) && !ABSENT.contains(&name.as_str()));
    Ok(names)
}

/// Loads and unloads objects of the target until it is as it was at the beginning.
pub(crate) fn restore_target() -> Result<(), Failure> {
    let loaded = loaded()?;
    let is_loaded = |module: &&&str| loaded.iter().any(|name| name == **module);
    for module in ABSENT.iter().filter(is_loaded) {
        unload_now(module).context(module)?;
    }
    for module in PRESENT.iter().filter(|module| !is_loaded(module)) {
        load(module, &[]).context(module)?;
    }
    Ok(())
}

fn loaded() -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string("/proc/modules").context("/proc/modules")?;
    let names = text.lines().filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}
