//! The sources of both targets and of the livepatches, which are the same for both.

/// A module: its name and its source.
pub(crate) type Module = (&'static str, &'static str);

/// Headers that the sources include.
pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("conf_core.h", include_str!("../kernel/conf_core.h")),
    (
        "conf_functions.h",
        include_str!("../kernel/conf_functions.h"),
    ),
];

const OBJECT: &str = include_str!("../kernel/conf_object.c");

/// Parts of the kernel's target.
pub(crate) const KERNEL_TARGET: &[Module] = &[
    ("conf_core", include_str!("../kernel/conf_core.c")),
    ("conf_a", OBJECT),
    ("conf_b", OBJECT),
    ("conf_c", OBJECT),
];

/// The process' target: its program, and a library of it.
pub(crate) const PROGRAM: &str = include_str!("../process/program.c");
pub(crate) const LIBRARY: &str = include_str!("../process/library.c");

const PATCH: &str = include_str!("../patches/conf_patch.c");
const STATE: &str = include_str!("../patches/conf_state.c");

/// Livepatches, and modules that only use their interface.
pub(crate) const PATCHES: &[Module] = &[
    ("conf_p0", PATCH),
    ("conf_p1", PATCH),
    ("conf_p2", PATCH),
    ("conf_p3", PATCH),
    ("conf_shadow", include_str!("../patches/conf_shadow.c")),
    ("conf_state1", STATE),
    ("conf_state2", STATE),
    ("conf_state3", STATE),
];
