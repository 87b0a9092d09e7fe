//! Telling the target's own unwinders about frames of ours, so that C++ exceptions, Rust
//! panics and thread cancellation pass through them.
//!
//! A C program without an unwinder needs nothing: when the C library loads libgcc to cancel a
//! thread, handlers that unwinding does not reach are in a list of the C library's own.

use engraft_core::State;
use serde::{Deserialize, Serialize};

use crate::arena::Part;
use crate::error::Error;
use crate::live::Live;
use crate::objects::{LoadedObject, Objects};
use crate::space::Span;
use crate::stacks::read_cfi;

/// libgcc's interface for code that no loaded object describes. LLVM's libunwind has functions
/// of these names, too, which do nothing.
const LIBGCC: (&str, &str) = ("__register_frame_info", "__deregister_frame_info");

/// LLVM's for a whole section. It need not forget: our memory stays.
const LLVM_SECTION: &str = "__unw_add_dynamic_eh_frame_section";

/// What is left of LLVM's in a program linked with --gc-sections, as Rust's are: adds one
/// description to `DwarfFDECache`.
const LLVM_DESCRIPTION: &str = "_ZN9libunwind13DwarfFDECacheINS_17LocalAddressSpaceEE3addEmmmm";

/// Room for libgcc's `struct object` (48 bytes in every version so far), zeroed.
const RECORD_SIZE: u64 = 128;

/// A section of call frame information, and who knows of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Frames {
    eh_frame: Span,
    registrations: Vec<Registration>,
    /// Every unwinder that was there knows.
    announced: bool,
}

impl Frames {
    /// The call frame information.
    pub(crate) fn section(&self) -> Span {
        self.eh_frame
    }
}

/// What one unwinder has been told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Registration {
    unwinder: Unwinder,
    /// Memory for the unwinder's own use.
    record: u64,
    progress: Progress,
}

/// Commands are recorded before they are given, so that none is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Progress {
    /// The command with this number registers the frames.
    Adding(u64),
    Added,
    /// The command with this number takes them back.
    Removing(u64),
}

/// An unwinder, by the functions of its interface: a shared library's, or one that is linked
/// into an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Unwinder {
    Libgcc { register: u64, deregister: u64 },
    LlvmSection { add: u64 },
    LlvmDescription { add: u64 },
}

impl Unwinder {
    fn of(object: &LoadedObject) -> Option<Self> {
        let find = |name: &str| {
            let symbols = object.symbols().lookup(name);
            let function = symbols.iter().find(|symbol| symbol.is_function());
            function.map(|symbol| symbol.address)
        };
        if let Some(add) = find(LLVM_SECTION) {
            return Some(Self::LlvmSection { add });
        }
        if let Some(add) = find(LLVM_DESCRIPTION) {
            return Some(Self::LlvmDescription { add });
        }
        Some(Self::Libgcc {
            register: find(LIBGCC.0)?,
            deregister: find(LIBGCC.1)?,
        })
    }

    fn find_all(objects: &Objects) -> Vec<Self> {
        objects.iter().filter_map(Self::of).collect()
    }
}

impl Live<'_> {
    /// Adds a section, to be announced.
    pub(crate) fn add_frames(&mut self, eh_frame: Span) {
        for frames in &mut self.records.frames {
            // An unwinder may have been loaded since.
            frames.announced = false;
        }
        self.records.frames.push(Frames {
            eh_frame,
            registrations: Vec::new(),
            announced: false,
        });
    }

    /// Tells every unwinder about every section that it does not know yet.
    pub(crate) fn announce_frames(&mut self, state: &State) -> Result<(), Error> {
        if self.records.frames.iter().all(|frames| frames.announced) {
            return Ok(());
        }
        let unwinders = Unwinder::find_all(&self.objects);
        for index in 0..self.records.frames.len() {
            for unwinder in &unwinders {
                self.register(state, index, *unwinder)?;
            }
            self.records.frames[index].announced = true;
        }
        self.save_records(state)
    }

    fn register(&mut self, state: &State, index: usize, unwinder: Unwinder) -> Result<(), Error> {
        let registrations = &self.records.frames[index].registrations;
        let known = registrations.iter().position(|r| r.unwinder == unwinder);
        let place = match known {
            Some(place) => place,
            None => {
                let registration = self.plan_registration(unwinder)?;
                let registrations = &mut self.records.frames[index].registrations;
                registrations.push(registration);
                let place = registrations.len() - 1;
                self.save_records(state)?;
                place
            }
        };
        let frames = &self.records.frames[index];
        let (eh_frame, record) = (frames.eh_frame, frames.registrations[place].record);
        if let Progress::Adding(command) = frames.registrations[place].progress {
            match unwinder {
                Unwinder::Libgcc { register, .. } => {
                    self.call(command, register, &[eh_frame.start, record])?;
                }
                Unwinder::LlvmSection { add } => {
                    self.call(command, add, &[eh_frame.start])?;
                }
                Unwinder::LlvmDescription { add } => self.add_descriptions(eh_frame, add)?,
            }
            self.records.frames[index].registrations[place].progress = Progress::Added;
        }
        Ok(())
    }

    /// The same description twice does no harm: the first is found.
    fn add_descriptions(&mut self, eh_frame: Span, add: u64) -> Result<(), Error> {
        let descriptions = read_cfi(self.process, eh_frame).map(|cfi| cfi.descriptions());
        for (range, address) in descriptions.unwrap_or_default() {
            let command = self.next_command();
            let arguments = [eh_frame.start, range.start, range.end, address];
            self.call(command, add, &arguments)?;
        }
        Ok(())
    }

    fn plan_registration(&mut self, unwinder: Unwinder) -> Result<Registration, Error> {
        let arena = self.arena_near(self.objects.main().span(), [0, 0, RECORD_SIZE])?;
        let record = self.take(arena, Part::Writable, RECORD_SIZE, 16)?.start;
        self.process
            .memory
            .write_bytes(record, &[0; RECORD_SIZE as usize])?;
        Ok(Registration {
            unwinder,
            record,
            progress: Progress::Adding(self.next_command()),
        })
    }

    /// Makes the unwinders forget a section.
    pub(crate) fn withdraw_frames(&mut self, state: &State, eh_frame: Span) -> Result<(), Error> {
        let found = |frames: &Frames| frames.eh_frame == eh_frame;
        let Some(index) = self.records.frames.iter().position(found) else {
            return Ok(());
        };
        let unwinders = Unwinder::find_all(&self.objects);
        while let Some(registration) = self.records.frames[index].registrations.last().cloned() {
            // One that was unloaded has taken its knowledge with it.
            if unwinders.contains(&registration.unwinder) {
                self.deregister(state, index, &registration)?;
            }
            self.give(Span {
                start: registration.record,
                size: RECORD_SIZE,
            });
            self.records.frames[index].registrations.pop();
        }
        self.records.frames.remove(index);
        Ok(())
    }

    fn deregister(
        &mut self,
        state: &State,
        index: usize,
        registration: &Registration,
    ) -> Result<(), Error> {
        let Unwinder::Libgcc { deregister, .. } = registration.unwinder else {
            return Ok(());
        };
        let command = match registration.progress {
            Progress::Removing(command) => command,
            Progress::Adding(command) if !self.has_run(command)? => return Ok(()),
            Progress::Adding(_) | Progress::Added => {
                let command = self.next_command();
                if let Some(last) = self.records.frames[index].registrations.last_mut() {
                    last.progress = Progress::Removing(command);
                }
                self.save_records(state)?;
                command
            }
        };
        let eh_frame = self.records.frames[index].eh_frame.start;
        self.call(command, deregister, &[eh_frame])?;
        Ok(())
    }
}
