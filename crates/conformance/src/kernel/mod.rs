//! The kernel's side: modules built for it, a virtual machine that runs it.

mod build;
mod initramfs;
mod machine;

use std::path::{Path, PathBuf};

use crate::side::Side;
use engraft_guest::{Failure, Outcome, Request, Step};
use machine::Machine;

/// A kernel to compare with.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its version, as in `/lib/modules/VERSION`.
    pub version: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The program `engraft-conformance-guest`, linked statically.
    pub guest: PathBuf,
    /// The command `engraft`.
    pub engraft: PathBuf,
}

/// A running kernel. It is booted anew when it cannot be brought back to its beginning.
#[derive(Debug)]
pub struct KernelSide {
    kernel: Kernel,
    initramfs: PathBuf,
    console: PathBuf,
    machine: Option<Machine>,
}

impl KernelSide {
    /// Builds all modules and boots.
    ///
    /// # Errors
    ///
    /// When a module cannot be built, or the kernel does not boot.
    pub fn start(kernel: &Kernel, work: &Path) -> Result<Self, Failure> {
        let modules = build::build_modules(&kernel.version, &work.join(&kernel.version))?;
        let initramfs = work.join(format!("initramfs-{}", kernel.version));
        initramfs::write(&initramfs, &kernel.guest, &modules, &kernel.engraft)?;
        let mut side = Self {
            kernel: kernel.clone(),
            initramfs,
            console: work.join(format!("console-{}.log", kernel.version)),
            machine: None,
        };
        side.machine()?;
        Ok(side)
    }

    /// Runs a program in the guest.
    ///
    /// # Errors
    ///
    /// When the guest fails; what the program does is no error but an outcome.
    pub fn run(&mut self, words: &[&str]) -> Result<Outcome, Failure> {
        let words = words.iter().map(|word| (*word).to_owned());
        self.machine()?.ask(&Request::Run(words.collect()))
    }

    fn machine(&mut self) -> Result<&mut Machine, Failure> {
        let machine = match self.machine.take() {
            Some(machine) => machine,
            None => Machine::boot(&self.kernel.image, &self.initramfs, &self.console)?,
        };
        Ok(self.machine.insert(machine))
    }
}

impl Side for KernelSide {
    fn take(&mut self, step: &Step) -> Result<Outcome, Failure> {
        let machine = self.machine()?;
        machine.ask(&Request::Take(step.clone()))
    }

    fn reset(&mut self) -> Result<(), Failure> {
        // What was forced can never be unloaded.
        if self.machine()?.ask(&Request::Reset).is_err() {
            self.machine = None;
            self.machine()?;
        }
        Ok(())
    }
}
