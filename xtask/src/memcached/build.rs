//! memcached as Debian builds it: same source, same configuration, same flags.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, SourcePackage};
use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

pub(crate) const PACKAGE: SourcePackage = SourcePackage {
    name: "memcached",
    version: "1.6.18-1+deb12u1",
    files: &[
        (
            "memcached_1.6.18-1+deb12u1.dsc",
            "47fe5c96717c0282676155dc144f9524d471097b656f67637f2629c66b8a633a",
        ),
        (
            "memcached_1.6.18.orig.tar.xz",
            "35872bd25f8d29d7cc2072d23e74344530891bfd0aa4f4f64184a8ae7291164b",
        ),
        (
            "memcached_1.6.18-1+deb12u1.debian.tar.xz",
            "7a4aa3c89fa1e3476a7503696f38a8103b6b4d6c66b5bb9958ea4fa0596f5c04",
        ),
    ],
};

/// `override_dh_auto_configure` in the package's debian/rules.
const CONFIGURATION: &[&str] = &["--prefix=/usr", "--enable-sasl", "--enable-tls"];

/// `DEB_BUILD_MAINT_OPTIONS` in the package's debian/rules.
const HARDENING: &str = "hardening=+all";

/// Functions of the series: each must be a function of its own in what was built.
const PATCHED: &[&str] = &[
    "process_arithmetic_command",
    "realtime",
    "add_delta",
    "item_touch",
];

/// What was built, and from what.
pub(super) struct Built {
    pub(super) binary: PathBuf,
    pub(super) source: PathBuf,
}

/// Fetches and builds, unless that has been done for this version.
pub(super) fn prepare(workspace: &Workspace, log: &Log) -> Result<Built, Failure> {
    let directory = workspace.scratch("memcached")?;
    let built = Built {
        binary: directory.join("source").join("memcached"),
        source: directory.join("source"),
    };
    let stamp = directory.join("built");
    let complete = format!(
        "{} {HARDENING} {}",
        PACKAGE.version,
        CONFIGURATION.join(" ")
    );
    if fs::read_to_string(&stamp).ok().as_deref() != Some(complete.as_str()) {
        let source = debian::unpack(&PACKAGE, &directory, log)?;
        build(&source, log)?;
        fs::write(&stamp, &complete).context(format!("writing {}", stamp.display()))?;
    }
    check_functions(&built.binary, log)?;
    Ok(built)
}

fn build(source: &Path, log: &Log) -> Result<(), Failure> {
    let flags = read_build_flags(source, log)?;
    let mut configure = Command::new("./configure");
    configure.args(CONFIGURATION).current_dir(source);
    let mut make = Command::new("make");
    make.args(["-j2", "memcached"]).current_dir(source);
    for command in [&mut configure, &mut make] {
        shell::run(command.envs(flags.iter().cloned()), log)?;
    }
    Ok(())
}

fn read_build_flags(source: &Path, log: &Log) -> Result<Vec<(String, String)>, Failure> {
    let mut query = Command::new("dpkg-buildflags");
    query
        .arg("--export=cmdline")
        .env("DEB_BUILD_MAINT_OPTIONS", HARDENING)
        .current_dir(source);
    let text = shell::read(&mut query, log)?;
    Ok(parse_assignments(&text))
}

/// `NAME="some value" OTHER=value`.
fn parse_assignments(text: &str) -> Vec<(String, String)> {
    let mut assignments = Vec::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        assignments.push((name.to_owned(), value.to_owned()));
        rest = next.trim_start();
    }
    assignments
}

/// A compiler that inlined one of the functions would make the series pointless.
fn check_functions(binary: &Path, log: &Log) -> Result<(), Failure> {
    let listing = shell::read(Command::new("nm").arg(binary), log)?;
    let missing: Vec<&&str> = PATCHED
        .iter()
        .filter(|name| {
            !listing.lines().any(|line| {
                let mut words = line.split(' ').skip(1);
                matches!(words.next(), Some("t" | "T")) && words.next() == Some(**name)
            })
        })
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!(
            "{} has no function {missing:?}: this compiler inlined it; choose other functions \
             for the series",
            binary.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::parse_assignments;

    #[test]
    fn flags_with_blanks_stay_together() {
        let text = "ASFLAGS=\"\" CFLAGS=\"-g -O2\" LDFLAGS=-Wl,-z,now CXXFLAGS=\"-g\"\n";
        let found = parse_assignments(text);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let expected = [
            ("ASFLAGS", ""),
            ("CFLAGS", "-g -O2"),
            ("LDFLAGS", "-Wl,-z,now"),
            ("CXXFLAGS", "-g"),
        ];
        assert_eq!(found, expected);
    }
}
