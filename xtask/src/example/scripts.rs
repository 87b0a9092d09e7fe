//! What the documentation tells its readers to do.

const ORIGINAL: &str = "253 cents";
const FIX1: &str = "750 cents";
const FIX2: &str = "7.50 euro";

const SMALL: &str = "of 100";
const SMALL_LITERS: &str = "of 100 liters";
const LARGE_LITERS: &str = "of 150 liters";
/// What is left behind by the patch whose callbacks did not run.
const LARGE: &str = "of 150";

/// A worked example.
pub(super) struct Script {
    /// The page that tells of it.
    pub(super) page: &'static str,
    /// Its files.
    pub(super) directory: &'static str,
    /// Those that the page shows in full.
    pub(super) shown: &'static [&'static str],
    /// The program, which is made of one C file.
    pub(super) program: &'static str,
    /// Livepatches to be compiled.
    pub(super) modules: &'static [&'static str],
    /// How the lines end that it prints.
    pub(super) original: &'static str,
    /// Each command, and how they end afterwards.
    pub(super) steps: &'static [(&'static [&'static str], &'static str)],
}

pub(super) const SCRIPTS: [Script; 3] = [
    Script {
        page: "README.md",
        directory: "docs/example",
        shown: &["shop.c", "shop_fix1.c", "total.patch"],
        program: "shop",
        modules: &["shop_fix1", "shop_fix2"],
        original: ORIGINAL,
        steps: &[
            (&["inspect", "shop_fix1.lp"], ORIGINAL),
            (&["check", "shop_fix1.lp", "--pid"], ORIGINAL),
            (&["load", "shop_fix1.lp", "--pid"], FIX1),
            (&["status", "--pid"], FIX1),
            (&["load", "shop_fix2.lp", "--pid"], FIX2),
            (&["list", "--pid"], FIX2),
            (&["unload", "shop_fix1", "--pid"], FIX2),
            (&["load", "shop_fix1.lp", "--pid"], FIX1),
            (&["unload", "shop_fix2", "--pid"], FIX1),
            (&["disable", "shop_fix1", "--pid"], ORIGINAL),
            (&["unload", "shop_fix1", "--pid"], ORIGINAL),
            (&["log", "--pid"], ORIGINAL),
            (
                &[
                    "build",
                    "--source",
                    ".",
                    "--patch",
                    "total.patch",
                    "--target",
                    "shop",
                    "-o",
                    "shop_total.lp",
                    "--",
                    "cc",
                    "-g",
                    "-o",
                    "shop",
                    "shop.c",
                ],
                ORIGINAL,
            ),
            (&["load", "shop_total.lp", "--pid"], FIX1),
            (&["disable", "shop_total", "--pid"], ORIGINAL),
            (&["unload", "shop_total", "--pid"], ORIGINAL),
        ],
    },
    // The downgrade that goes wrong: only the callbacks of the patch that comes are run.
    Script {
        page: "docs/states.md",
        directory: "docs/downgrade",
        shown: &["tank.c"],
        program: "tank",
        modules: &["tank_fix1", "tank_objects"],
        original: SMALL,
        steps: &[
            (&["load", "tank_objects.lp", "--pid"], LARGE_LITERS),
            (&["load", "tank_fix1.lp", "--pid"], LARGE_LITERS),
            (&["disable", "tank_fix1", "--pid"], LARGE),
            (&["unload", "tank_fix1", "--pid"], LARGE),
            (&["unload", "tank_objects", "--pid"], LARGE),
        ],
    },
    Script {
        page: "docs/states.md",
        directory: "docs/downgrade",
        shown: &["tank.c"],
        program: "tank",
        modules: &["tank_fix1", "tank_states"],
        original: SMALL,
        steps: &[
            (&["load", "tank_states.lp", "--pid"], LARGE_LITERS),
            (&["load", "tank_fix1.lp", "--pid"], SMALL_LITERS),
            (&["unload", "tank_states", "--pid"], SMALL_LITERS),
            (&["disable", "tank_fix1", "--pid"], SMALL),
            (&["unload", "tank_fix1", "--pid"], SMALL),
        ],
    },
];
