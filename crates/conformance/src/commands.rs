//! `engraft --kernel` on the real kernel.

use engraft_guest::{Failure, Step};

use crate::kernel::KernelSide;
use crate::side::Side;

/// One command or step, and what must come of it.
enum Act {
    /// A step of the target.
    Target(&'static str),
    /// Arguments after `--kernel`, the exit status, and what must and must not be printed.
    Engraft(
        &'static str,
        i32,
        &'static [&'static str],
        &'static [&'static str],
    ),
}

use Act::{Engraft, Target};

const STORY: &[Act] = &[
    Engraft("list", 0, &["no patches"], &[]),
    Engraft("status", 0, &["kernel", "no patches"], &[]),
    Engraft(
        "check /modules/conf_core.ko",
        1,
        &["not marked as a livepatch", "is loaded"],
        &[],
    ),
    Engraft(
        "check /modules/conf_p0.ko",
        0,
        &["nothing stands against it"],
        &[],
    ),
    Engraft("load /modules/conf_core.ko", 1, &["EINVAL", "insmod"], &[]),
    Engraft(
        "check /modules/foreign.ko",
        1,
        &["it was built for Linux 9", "and this is"],
        &["is loaded"],
    ),
    // With CONFIG_MODVERSIONS, Debian's kernel would take it.
    Engraft(
        "load /modules/foreign.ko",
        1,
        &["ENOEXEC", "it was built for Linux 9"],
        &[],
    ),
    Engraft("load /modules/absent.ko", 1, &["absent.ko"], &[]),
    Engraft("load /modules/conf_p0.ko --no-enable", 1, &["EINVAL"], &[]),
    Engraft("disable conf_p0", 1, &["ENOENT", "load it first"], &[]),
    Engraft("force", 1, &["EINVAL", "no transition"], &[]),
    Engraft("symbols -o /x", 1, &["for processes only"], &[]),
    // There and back.
    Engraft(
        "load /modules/conf_p0.ko functions=1 version=7",
        0,
        &["'conf_p0' is enabled"],
        &[],
    ),
    Target("call a1"),
    Engraft("list", 0, &["conf_p0", "enabled"], &["no patches"]),
    Engraft(
        "status",
        0,
        &["patch 'conf_p0': enabled", "object conf_a: patched", "a1,1"],
        &[],
    ),
    Engraft(
        "load /modules/conf_p0.ko",
        1,
        &["EEXIST", "unload it first"],
        &[],
    ),
    Engraft(
        "unload conf-p0",
        1,
        &["EAGAIN", "disable its patch first"],
        &[],
    ),
    Engraft("disable conf-p0", 0, &["'conf_p0' is disabled"], &[]),
    Engraft(
        "enable conf_p0",
        1,
        &["ENOENT", "unload it, then load it again"],
        &[],
    ),
    Engraft("unload conf_p0", 0, &["'conf_p0' is unloaded"], &[]),
    Engraft("unload conf_p0", 1, &["ENOENT"], &[]),
    Engraft(
        "log",
        0,
        &["livepatch: enabling patch 'conf_p0'"],
        &["initializing"],
    ),
    Engraft(
        "log --debug",
        0,
        &["'conf_p0': initializing patching transition"],
        &[],
    ),
    // What the kernel says of a refusal is shown.
    Engraft(
        "load /modules/conf_p0.ko objects=1 callbacks=1 pre_patch_ret=-19",
        1,
        &["ENODEV", "pre-patch callback failed for object 'vmlinux'"],
        &[],
    ),
    // A thread that stays inside.
    Target("park 0 a1"),
    Engraft(
        "load /modules/conf_p1.ko functions=1 --timeout 3 --on-timeout leave",
        3,
        &["left unfinished", "conf-0", "a1"],
        &["swapper"],
    ),
    Engraft(
        "status",
        0,
        &[
            "'conf_p1': in transition",
            "conf-0",
            "is in function a1",
            "conf_body",
        ],
        &[],
    ),
    Engraft(
        "check /modules/conf_p0.ko",
        1,
        &["'conf_p1' is in transition"],
        &[],
    ),
    Engraft("load /modules/conf_p0.ko functions=1", 1, &["EBUSY"], &[]),
    Engraft("disable conf_p1", 0, &["'conf_p1' is disabled"], &[]),
    Engraft("unload conf_p1", 0, &["unloaded"], &[]),
    Engraft(
        "load /modules/conf_p1.ko functions=1 --timeout 3",
        3,
        &["was reversed", "conf-0"],
        &[],
    ),
    Engraft("list", 0, &["no patches"], &[]),
    Engraft("unload conf_p1", 0, &["unloaded"], &[]),
    Engraft(
        "load /modules/conf_p1.ko functions=1 --no-wait",
        0,
        &["in transition"],
        &[],
    ),
    Engraft("disable conf_p1", 0, &["'conf_p1' is disabled"], &[]),
    Engraft("unload conf_p1", 0, &["unloaded"], &[]),
    // Pins, of which the last is applied while the thread is still inside.
    Engraft("pin --apply", 0, &["nothing is pinned"], &["help"]),
    Engraft("pin --list", 0, &["no pins"], &[]),
    Engraft("unpin", 1, &["ENOENT", "nothing is pinned"], &[]),
    Engraft("pin /modules/conf_core.ko", 1, &["EINVAL"], &[]),
    Engraft(
        "pin /modules/conf_p0.ko objects=1 callbacks=1 pre_patch_ret=-19",
        0,
        &["'conf_p0' is pinned for Linux", "--install-unit"],
        &["instead of", "this is Linux"],
    ),
    Engraft(
        "pin --apply",
        1,
        &["ENODEV", "pre-patch callback failed for object 'vmlinux'"],
        &[],
    ),
    Engraft(
        "pin /modules/conf_p0.ko functions=2 version=7",
        0,
        &["instead of 'conf_p0'"],
        &[],
    ),
    Engraft("pin --apply", 0, &["'conf_p0' is enabled"], &[]),
    Engraft(
        "pin --apply",
        0,
        &["'conf_p0' is already enabled"],
        &["threads"],
    ),
    Engraft(
        "pin /modules/conf_p1.ko functions=1",
        0,
        &["'conf_p1' is pinned", "instead of 'conf_p0'"],
        &[],
    ),
    Engraft(
        "pin --list",
        0,
        &["(running)", "conf_p1", "functions=1"],
        &["conf_p0"],
    ),
    Engraft("pin --install-unit", 1, &["ENOENT", "systemd"], &[]),
    Engraft("disable conf_p0", 0, &["'conf_p0' is disabled"], &[]),
    Engraft("pin --apply", 3, &["left unfinished", "conf-0", "a1"], &[]),
    Engraft("unpin", 0, &["'conf_p1' is no longer pinned"], &[]),
    Engraft("pin --list", 0, &["no pins"], &["conf_p1"]),
    Engraft("force", 0, &["'conf_p1' is forced"], &[]),
    Target("free 0"),
    Target("call a1"),
];

/// Goes through all of it; returns what was not as it must be, and how many commands there were.
///
/// # Errors
///
/// When the guest fails.
pub fn check(kernel: &mut KernelSide) -> Result<(Vec<String>, u32), Failure> {
    let mut wrong = Vec::new();
    let mut count = 0;
    kernel.reset()?;
    for act in STORY {
        let (line, status, wanted, unwanted) = match act {
            Target(command) => {
                let outcome = kernel.take(&Step::Target((*command).to_owned()))?;
                if outcome.errno != 0 {
                    wrong.push(format!("{command}: error {}", outcome.errno));
                }
                continue;
            }
            Engraft(line, status, wanted, unwanted) => (line, status, wanted, unwanted),
        };
        count += 1;
        for json in [false, true] {
            // What changes something is done once.
            let looks = ["list", "status", "check", "log", "pin --list"]
                .iter()
                .any(|verb| line.starts_with(verb));
            if json && !looks {
                continue;
            }
            let mut words = vec!["/bin/engraft"];
            words.extend(line.split(' '));
            words.push("--kernel");
            words.extend(json.then_some("--json"));
            let outcome = kernel.run(&words)?;
            let said = &outcome.answer;
            let fits = if json {
                // One object to a line, of which this crate knows no more.
                said.lines()
                    .all(|line| line.starts_with('{') && line.ends_with('}'))
            } else {
                wanted.iter().all(|text| said.contains(text))
                    && !unwanted.iter().any(|text| said.contains(text))
            };
            if outcome.errno != *status || !fits {
                wrong.push(format!(
                    "{} ended with {} (expected: {status}, {wanted:?}, not {unwanted:?}):\n{said}",
                    words.join(" "),
                    outcome.errno
                ));
            }
        }
    }
    kernel.reset()?;
    Ok((wrong, count))
}
