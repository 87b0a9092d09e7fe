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
        let release = read_release(&self.root).unwrap_or_default();
        let made_for = module.release();
        if !release.is_empty() && made_for != release {
            problems.push(format!(
                "it was built for Linux {made_for}, and this is {release}"
            ));
        }
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
}
