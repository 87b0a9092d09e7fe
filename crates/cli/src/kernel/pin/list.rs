//! What is pinned.

use engraft_kernel::{Pin, Pins};
use serde::Serialize;

use super::NOT_AT_BOOT;
use crate::failure::{Failure, Verdict};
use crate::output::Output;
use crate::render;

const HEADINGS: [&str; 4] = ["KERNEL", "PATCH", "PARAMETERS", "SHA-256"];

pub(super) fn run(pins: &Pins, output: &Output) -> Result<Verdict, Failure> {
    #[derive(Serialize)]
    struct Entry<'a> {
        release: &'a str,
        #[serde(flatten)]
        pin: &'a Pin,
    }
    #[derive(Serialize)]
    struct Report<'a> {
        pins: Vec<Entry<'a>>,
        running_release: &'a str,
        applied_at_boot: bool,
    }
    let running = pins.running_release()?;
    let at_boot = pins.are_applied_at_boot();
    let found = pins.list()?;
    if output.json {
        let entries = found.iter().map(|(release, pin)| Entry { release, pin });
        output.object(&Report {
            pins: entries.collect(),
            running_release: &running,
            applied_at_boot: at_boot,
        });
    } else if found.is_empty() {
        output.line("no pins");
    } else {
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        rows.extend(
            found
                .iter()
                .map(|(release, pin)| row(release, pin, &running)),
        );
        output.line(&render::table(&rows));
        if !at_boot {
            output.line(NOT_AT_BOOT);
        }
    }
    Ok(Verdict::Done)
}

fn row(release: &str, pin: &Pin, running: &str) -> Vec<String> {
    let mark = if release == running { " (running)" } else { "" };
    let parameters = pin.parameters.iter();
    let parameters: Vec<String> = parameters
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    vec![
        format!("{release}{mark}"),
        pin.module.clone(),
        render::printable(&parameters.join(" ")).into_owned(),
        pin.sha256.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_is_marked() {
        let pin = Pin {
            module: "fix".to_owned(),
            sha256: "ab".to_owned(),
            parameters: vec![("a".to_owned(), "1".to_owned()); 2],
        };
        assert_eq!(
            row("6.1.0", &pin, "6.1.0"),
            ["6.1.0 (running)", "fix", "a=1 a=1", "ab"]
        );
        assert_eq!(row("6.1.0", &pin, "6.12.0")[0], "6.1.0");
    }
}
