//! A simulated target: threads with call stacks that enter functions through routes just as
//! a router and its selector let them, callbacks, and faults at every step.
//!
//! Everything follows from a seed. What threads run is compared with a reference model
//! ([`Model`]) that knows nothing of function stacks, nops or phases: it only knows which
//! patches are in force in either universe.

mod audit;
mod effects;
mod forecast;
mod journal;
mod library;
mod model;
mod process;
mod random;
mod scenario;

pub use effects::Effects;
pub use journal::check_log;
pub use library::Libraries;
pub use model::Model;
pub use process::{Chaos, Frame, Killed, Process, Thread};
pub use random::Random;
pub use scenario::{Operation, Plan, run_seed, shrink};

use crate::{Callbacks, Code, Func, Replacement};

/// Address of a simulated callback: its value tells which one it is.
#[must_use]
pub fn callback_address(load: u64, object: usize, kind: crate::CallbackKind) -> u64 {
    0x7000_0000_0000 + (load << 16) + ((object as u64) << 4) + kind as u64
}

/// All four callbacks.
#[must_use]
pub fn all_callbacks(load: u64, object: usize) -> Callbacks {
    use crate::CallbackKind as K;
    let address = |kind| Some(callback_address(load, object, kind));
    Callbacks {
        pre_patch: address(K::PrePatch),
        post_patch: address(K::PostPatch),
        pre_unpatch: address(K::PreUnpatch),
        post_unpatch: address(K::PostUnpatch),
    }
}

/// The original code of simulated function number `function`, the odd ones with a cold part.
#[must_use]
pub fn original(function: usize) -> Code {
    code(0x10_0000, function)
}

/// The code of a patch, loaded as number `load`, for simulated function `function`.
#[must_use]
pub fn replacement(load: u64, function: usize) -> Code {
    code(0x1000_0000 * (load + 1), function)
}

fn code(base: u64, function: usize) -> Code {
    let mut code = Code::new(base + 0x100 * function as u64, 0x40);
    if function % 2 == 1 {
        let start = base + 0x8_0000 + 0x100 * function as u64;
        code.cold.push(crate::Range { start, len: 0x20 });
    }
    code
}

/// Number of the simulated function of that name: the name is a letter and the number.
fn number_of(name: &str) -> Option<usize> {
    name.get(1..)?.parse().ok()
}

/// A func for simulated function `function` of a patch loaded as number `load`.
#[must_use]
pub fn func(load: u64, function: usize, loaded: bool) -> Func {
    Func {
        old_name: format!("f{function}"),
        old_sympos: 0,
        old: loaded.then(|| original(function)),
        replacement: Replacement::New(replacement(load, function)),
    }
}
