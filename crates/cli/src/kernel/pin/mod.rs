//! Pins: livepatches that are loaded again at boot.

mod list;
mod unit;

use std::path::Path;
use std::time::{Duration, Instant};

use engraft_kernel::{Applied, Kernel, Pinned, Pins};
use serde::Serialize;

use super::{follow, read_module};
use crate::arguments::PinArguments;
use crate::change;
use crate::failure::{Failure, Verdict};
use crate::module_file::ModuleFile;
use crate::output::Output;
use crate::render;
use crate::wait::{OnTimeout, Waiting};

/// Boot goes on after that time, and the kernel with the transition.
const BOOT_WAITING: Waiting = Waiting {
    wait: true,
    timeout: Duration::from_secs(10),
    on_timeout: OnTimeout::Leave,
};

const NOT_AT_BOOT: &str =
    "nothing applies pins at boot yet: 'engraft pin --install-unit' sees to that";

pub(crate) fn pin(arguments: &PinArguments, output: &Output) -> Result<Verdict, Failure> {
    let pins = Pins::of_host();
    match &arguments.file {
        Some(file) => add(&pins, file, &arguments.parameters, output),
        None if arguments.list => list::run(&pins, output),
        None if arguments.apply => apply(&pins, output),
        None => unit::install(&pins, output),
    }
}

fn add(
    pins: &Pins,
    file: &Path,
    parameters: &[(String, String)],
    output: &Output,
) -> Result<Verdict, Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        patch: &'a str,
        result: &'static str,
        release: &'a str,
        former: Option<&'a str>,
        running_release: &'a str,
        applied_at_boot: bool,
    }
    let running = pins.running_release()?;
    let file = ModuleFile::read(file)?;
    let pinned = pins.add(&file.bytes, &read_module(&file)?, parameters)?;
    let at_boot = pins.are_applied_at_boot();
    if output.json {
        output.object(&Report {
            patch: &pinned.pin.module,
            result: "pinned",
            release: &pinned.release,
            former: pinned.former.as_ref().map(|pin| &*pin.module),
            running_release: &running,
            applied_at_boot: at_boot,
        });
    } else {
        output.line(&describe(&pinned, &running, at_boot));
    }
    Ok(Verdict::Done)
}

fn describe(pinned: &Pinned, running: &str, at_boot: bool) -> String {
    let release = &pinned.release;
    let name = render::printable(&pinned.pin.module);
    let mut lines = vec![format!("kernel: '{name}' is pinned for Linux {release}")];
    match &pinned.former {
        Some(former) if *former == pinned.pin => lines.push("  it was before".to_owned()),
        Some(former) => lines.push(format!(
            "  instead of '{}' (SHA-256 {})",
            former.module, former.sha256
        )),
        None => {}
    }
    if release != running {
        let running = render::printable(running);
        lines.push(format!(
            "  this is Linux {running}: the pin is for when that one is booted"
        ));
    }
    if !at_boot {
        lines.push(format!("  {NOT_AT_BOOT}"));
    }
    lines.join("\n")
}

fn apply(pins: &Pins, output: &Output) -> Result<Verdict, Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        result: &'static str,
        release: &'a str,
    }
    let release = pins.running_release()?;
    let Some(pinned) = pins.open(&release)? else {
        if output.json {
            let result = "nothing pinned";
            let release = &release;
            output.object(&Report { result, release });
        } else {
            let release = render::printable(&release);
            output.line(&format!("kernel: nothing is pinned for Linux {release}"));
        }
        return Ok(Verdict::Done);
    };
    let kernel = Kernel::running()?;
    let name = &pinned.module.name;
    let started = Instant::now();
    let applied = kernel.apply(&pinned)?;
    let in_transition = |kernel: &Kernel| {
        let patches = kernel.patches();
        patches
            .iter()
            .any(|patch| patch.name == *name && patch.transition)
    };
    if applied == Applied::Already && !in_transition(&kernel) {
        return Ok(change::report_plain(output, None, name, "already enabled"));
    }
    follow(kernel, output, name, "enabled", &BOOT_WAITING, started)
}

pub(crate) fn unpin(release: Option<&str>, output: &Output) -> Result<Verdict, Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        patch: &'a str,
        result: &'static str,
        release: &'a str,
    }
    let pins = Pins::of_host();
    let release = match release {
        Some(release) => release.to_owned(),
        None => pins.running_release()?,
    };
    let pin = pins.remove(&release)?;
    if output.json {
        output.object(&Report {
            patch: &pin.module,
            result: "unpinned",
            release: &release,
        });
    } else {
        let name = pin.module;
        output.line(&format!(
            "kernel: '{name}' is no longer pinned for Linux {release}"
        ));
    }
    Ok(Verdict::Done)
}

#[cfg(test)]
mod tests {
    use engraft_kernel::Pin;

    use super::*;

    fn pinned(former: Option<&str>) -> Pinned {
        let pin = |module: &str| Pin {
            module: module.to_owned(),
            sha256: "ab".to_owned(),
            parameters: Vec::new(),
        };
        Pinned {
            release: "6.1.0".to_owned(),
            pin: pin("fix"),
            former: former.map(pin),
        }
    }

    #[test]
    fn a_pin_says_what_it_is_for_and_what_is_still_to_do() {
        assert_eq!(
            describe(&pinned(None), "6.1.0", true),
            "kernel: 'fix' is pinned for Linux 6.1.0"
        );
        let text = describe(&pinned(Some("old")), "6.12.0", false);
        for part in [
            "instead of 'old' (SHA-256 ab)",
            "this is Linux 6.12.0",
            "--install-unit",
        ] {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
        let text = describe(&pinned(Some("fix")), "6.1.0", true);
        assert!(text.ends_with("it was before"), "{text}");
    }
}
