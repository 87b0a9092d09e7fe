//! The systemd unit.

use std::env;
use std::path::Path;

use engraft_kernel::Pins;
use serde::Serialize;

use crate::failure::{Failure, Verdict};
use crate::output::Output;

const UNIT: &str = include_str!("../../../systemd/engraft-pin.service");

/// Where the unit names this program.
const PLACE: &str = "@ENGRAFT@";

pub(super) fn install(pins: &Pins, output: &Output) -> Result<Verdict, Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        result: &'static str,
        unit: &'a Path,
    }
    let program = env::current_exe()
        .map_err(|error| Failure::new(format!("cannot tell where this program is: {error}")))?;
    let unit = pins.install_unit(&write_unit(&program)?)?;
    if output.json {
        let result = "installed";
        output.object(&Report {
            result,
            unit: &unit,
        });
    } else {
        output.line(&format!(
            "{} is written and enabled: it applies pins at boot",
            unit.display()
        ));
    }
    Ok(Verdict::Done)
}

/// The unit that runs the program with this path.
fn write_unit(program: &Path) -> Result<String, Failure> {
    // What systemd takes as it is (systemd.service(5), command lines).
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte);
    match program.to_str() {
        Some(path) if path.bytes().all(plain) => Ok(UNIT.replace(PLACE, path)),
        _ => {
            let message = format!("a unit cannot name {} as it is", program.display());
            Err(Failure {
                errno: Some("EINVAL".to_owned()),
                ..Failure::new(message)
            }
            .with_help("install engraft where the path has letters, digits and ._+- only"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_the_program_if_it_can() {
        let unit = write_unit(Path::new("/usr/local/bin/engraft")).unwrap();
        assert!(unit.contains("\nExecStart=/usr/local/bin/engraft pin --apply\n"));
        assert!(!unit.contains(PLACE));
        for bad in ["/a b/engraft", "/a%b/engraft", "/engraft (deleted)"] {
            assert!(write_unit(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
