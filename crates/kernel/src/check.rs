//! What stands against a module, as far as it can be told before the kernel is asked.

use crate::{Kernel, KernelModule, read_release};

impl Kernel {
    /// Why the kernel would refuse a module; the kernel may find more.
    #[must_use]
    pub fn check(&self, module: &KernelModule) -> Vec<String> {
        let mut problems = Vec::new();
        if !module.livepatch {
            problems.push("it is not marked as a livepatch module".to_owned());
        }
        problems.extend(self.find_mismatch(module));
        if self.module_directory(&module.name).is_dir() {
            problems.push(format!(
                "a module '{}' is loaded; unload it first",
                module.name
            ));
        }
        if let Some(patch) = self.patches().into_iter().find(|patch| patch.transition) {
            problems.push(format!(
                "patch '{}' is in transition; wait for it",
                patch.name
            ));
        }
        problems
    }

    /// Why a module does not belong to the running kernel. A kernel that compares versions of
    /// symbols (CONFIG_MODVERSIONS) takes one of another release if those are alike; but what a
    /// livepatch replaces is the source of one release.
    pub(crate) fn find_mismatch(&self, module: &KernelModule) -> Option<String> {
        let running = read_release(&self.root).ok()?;
        let release = module.release();
        (release != running)
            .then(|| format!("it was built for Linux {release}, and this is {running}"))
    }
}
