//! Taking a patch module out again, and tidying up after one that failed.

use std::mem::offset_of;
use std::time::{Duration, Instant};

use engraft_abi::ModuleState;
use engraft_core::{Driver, Progress, State};
use nix::errno::Errno;

use crate::database::Stage;
use crate::error::Error;
use crate::live::Live;

/// How long an enable that is being taken back is waited for.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(10);

impl Live<'_> {
    /// Unloads a module whose patch, if it has one, is neither enabled nor in transition.
    pub(crate) fn unload_module(&mut self, state: &mut State, name: &str) -> Result<(), Error> {
        let Some(index) = self.find_module(name) else {
            return Err(Error::other(
                format!("unload '{name}'"),
                Errno::ENOENT,
                "no such module is loaded",
            )
            .with_help("`engraft list` shows what is loaded"));
        };
        if state.find(name).is_some() {
            state.check_unload(name)?;
        }
        let exit = self.records.modules[index].exit.ok_or_else(|| {
            let message = "it has no exit function, so it stays loaded, as in the kernel";
            Error::other(format!("unload '{name}'"), Errno::EBUSY, message)
                .with_help("declare one with module_exit() in the next version")
        })?;
        let sequence = self.next_command();
        self.set_stage(index, Stage::Exiting(sequence))?;
        self.save_records(state)?;
        self.call(sequence, exit, &[])?;
        self.forget_module(state, index)
    }

    /// Notes how far a module is, also for itself (`THIS_MODULE->state`).
    pub(crate) fn set_stage(&mut self, index: usize, stage: Stage) -> Result<(), Error> {
        let module = &mut self.records.modules[index];
        module.stage = stage;
        let state = match stage {
            Stage::Placed | Stage::Initialising(_) => ModuleState::Coming,
            Stage::Live => ModuleState::Live,
            Stage::Failed | Stage::Exiting(_) => ModuleState::Going,
            Stage::Retired => return Ok(()),
        };
        if let Some(own) = module.this_module {
            let at = own + offset_of!(engraft_abi::Module, state) as u64;
            self.process.memory.write(at, &(state as u32))?;
        }
        Ok(())
    }

    /// Index of a loaded module.
    pub(crate) fn find_module(&self, name: &str) -> Option<usize> {
        self.records
            .modules
            .iter()
            .position(|module| module.name == name && module.stage != Stage::Retired)
    }

    fn forget_module(&mut self, state: &mut State, index: usize) -> Result<(), Error> {
        let name = self.records.modules[index].name.clone();
        if state.find(&name).is_some() {
            Driver::new(state, self).unload(&name)?;
        }
        if let Some(eh_frame) = self.records.modules[index].eh_frame {
            self.withdraw_frames(state, eh_frame)?;
        }
        self.set_stage(index, Stage::Retired)?;
        self.save_records(state)
    }

    /// Takes back what a module whose init function did not succeed has begun.
    pub(crate) fn abandon_module(&mut self, state: &mut State, index: usize) -> Result<(), Error> {
        let name = self.records.modules[index].name.clone();
        self.set_stage(index, Stage::Failed)?;
        self.save_records(state)?;
        if state.find(&name).is_some() {
            let deadline = Instant::now() + CANCEL_PATIENCE;
            let mut progress = Driver::new(state, self).cancel(&name)?;
            while matches!(progress, Progress::InTransition | Progress::Waiting(_)) {
                if Instant::now() > deadline {
                    // The next invocation goes on with it.
                    return Ok(());
                }
                std::thread::sleep(PAUSE);
                progress = Driver::new(state, self).retry()?;
            }
        }
        self.forget_module(state, index)
    }

    /// Finishes or takes back what a killed tool has left half done, modules first.
    pub(crate) fn recover_modules(&mut self, state: &mut State) -> Result<(), Error> {
        for index in 0..self.records.modules.len() {
            let stage = self.records.modules[index].stage;
            match stage {
                Stage::Live | Stage::Retired => {}
                Stage::Placed | Stage::Failed => self.abandon_module(state, index)?,
                Stage::Initialising(sequence) => {
                    self.wait_for_runtime()?;
                    match self
                        .places
                        .result(&self.process.memory, sequence)?
                        .map(|value| value as i32)
                    {
                        Some(0) => {
                            self.set_stage(index, Stage::Live)?;
                            self.save_records(state)?;
                        }
                        _ => self.abandon_module(state, index)?,
                    }
                }
                Stage::Exiting(sequence) => {
                    self.wait_for_runtime()?;
                    match self.places.result(&self.process.memory, sequence)? {
                        Some(_) => self.forget_module(state, index)?,
                        None => {
                            self.set_stage(index, Stage::Live)?;
                            self.save_records(state)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
