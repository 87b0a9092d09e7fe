//! Everything that has to survive a killed tool.

use serde::{Deserialize, Serialize};

use crate::error::{Refusal, RefusalKind};
use crate::log::{Level, Log, Stamp};
use crate::patch::{Object, Patch, PatchId};
use crate::token::Token;
use crate::transition::Transition;

/// Upper bound of registered patches, replaced ones included.
pub const MAX_PATCHES: usize = 256;

/// The livepatch state of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How the main executable is called in the log (the kernel says `vmlinux`).
    pub main_name: String,
    /// Patches in stack order, oldest first, whether enabled or not.
    pub stack: Vec<Patch>,
    /// Patches that were replaced; their modules stay until they are unloaded.
    pub replaced: Vec<Patch>,
    /// The transition that runs.
    pub transition: Option<Transition>,
    /// The log.
    pub log: Log,
    pub(crate) last_token: Token,
    pub(crate) next_patch: u32,
    pub(crate) next_call: u64,
}

impl State {
    /// The state of a target that was never patched.
    #[must_use]
    pub fn new(main_name: impl Into<String>) -> Self {
        Self {
            main_name: main_name.into(),
            stack: Vec::new(),
            replaced: Vec::new(),
            transition: None,
            log: Log::default(),
            last_token: Token::FIRST,
            next_patch: 1,
            next_call: 1,
        }
    }

    /// The patch of that name, replaced or not.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Patch> {
        self.patches().find(|patch| patch.name == name)
    }

    /// The patch with that number, replaced or not.
    #[must_use]
    pub fn patch(&self, id: PatchId) -> Option<&Patch> {
        self.patches().find(|patch| patch.id == id)
    }

    /// All registered patches: the stack from the oldest on, then the replaced ones.
    pub fn patches(&self) -> impl Iterator<Item = &Patch> {
        self.stack.iter().chain(&self.replaced)
    }

    /// The patch in transition.
    #[must_use]
    pub fn patch_in_transition(&self) -> Option<&Patch> {
        self.patch(self.transition.as_ref()?.patch)
    }

    /// Whether this patch is the one in transition.
    #[must_use]
    pub fn is_in_transition(&self, id: PatchId) -> bool {
        self.transition.as_ref().is_some_and(|t| t.patch == id)
    }

    /// Patches below this one on the stack, oldest first.
    #[must_use]
    pub fn older_than(&self, id: PatchId) -> &[Patch] {
        &self.stack[..self.position(id).unwrap_or(0)]
    }

    /// What the kernel's list of patches would hold, oldest first: those enabled or in
    /// transition, and during the last callbacks of a replace those just replaced, so that
    /// `klp_get_prev_state()` finds them. With it the index of the patch in transition.
    #[must_use]
    pub fn listed(&self) -> Listed {
        let patches: Vec<PatchId> = self
            .stack
            .iter()
            .filter(|p| p.enabled || p.leaving || self.is_in_transition(p.id))
            .map(|p| p.id)
            .collect();
        let transition = patches.iter().position(|id| self.is_in_transition(*id));
        Listed {
            patches,
            transition,
        }
    }

    /// The object's name as it appears in the log.
    #[must_use]
    pub fn display_name<'a>(&'a self, object: Option<&'a str>) -> &'a str {
        object.unwrap_or(&self.main_name)
    }

    /// Appends a line to the log: for what the caller finds out itself, such as a symbol
    /// that cannot be resolved.
    pub fn write_log(&mut self, level: Level, stamp: Stamp, text: impl Into<String>) {
        self.log.append(level, stamp, text.into());
    }

    pub(crate) fn position(&self, id: PatchId) -> Option<usize> {
        self.stack.iter().position(|patch| patch.id == id)
    }

    pub(crate) fn stacked_mut(&mut self, id: PatchId) -> Option<&mut Patch> {
        self.stack.iter_mut().find(|patch| patch.id == id)
    }

    pub(crate) fn object_mut(&mut self, id: PatchId, object: usize) -> Option<&mut Object> {
        self.stacked_mut(id)?.objects.get_mut(object)
    }

    pub(crate) fn require(&self, name: &str) -> Result<&Patch, Refusal> {
        self.find(name)
            .ok_or_else(|| Refusal::new(name, RefusalKind::Unknown))
    }

    /// A patch that may still be enabled or disabled.
    pub(crate) fn require_stacked(&self, name: &str) -> Result<&Patch, Refusal> {
        let patch = self.require(name)?;
        if self.position(patch.id).is_some() {
            return Ok(patch);
        }
        let way_out = reload_advice(patch).to_owned();
        Err(Refusal::new(name, RefusalKind::Replaced { way_out }))
    }
}

/// How the name of a replaced patch can be used again.
pub(crate) fn reload_advice(patch: &Patch) -> &'static str {
    if patch.forced {
        "that was forced, so it stays loaded for ever and its name cannot be used again: load it under another name"
    } else {
        "unload it, then load it again"
    }
}

/// Result of [`State::listed`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Oldest first.
    pub patches: Vec<PatchId>,
    /// Index of the patch in transition.
    pub transition: Option<usize>,
}
