//! The Debian packages that tests need; what is missing is installed.

use std::process::{Command, Stdio};

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};

/// Compilers, build systems and libraries for the fixtures, and what builds memcached as Debian does.
const NEEDED: &[&str] = &[
    "binutils",
    "ccache",
    "clang",
    "cmake",
    "csmith",
    "dpkg-dev",
    "g++",
    "gcc",
    "gdb",
    "libc++-dev",
    "libc++abi-dev",
    "libc6-dev",
    "libclang-rt-dev",
    "libcsmith-dev",
    "libevent-dev",
    "libsasl2-dev",
    "libssl-dev",
    "libunwind-14-dev",
    "libtool-bin",
    "linux-headers-amd64",
    "linux-perf",
    "lld",
    "make",
    "meson",
    "mold",
    "musl-tools",
    "ninja-build",
    "patch",
    "pkg-config",
    "qemu-system-x86",
    "xz-utils",
];

/// What the projects of the corpus are built with besides.
const NEEDED_BY_CORPUS: &[&str] = &[
    "autoconf",
    "automake",
    "bzip2",
    "libjemalloc-dev",
    "liblzf-dev",
    "libpcre2-dev",
    "libsystemd-dev",
    "libtool",
    "zlib1g-dev",
];

/// The newer kernel's headers, which bring a kernel with them and take long to install.
const NEEDED_BY_CONFORMANCE: &[&str] = &["linux-headers-6.12-amd64"];

/// Installs what is missing, and says what that was.
pub(crate) fn install(log: &Log) -> Result<String, Failure> {
    install_all(NEEDED, log)
}

/// The same with what the corpus needs.
pub(crate) fn install_for_corpus(log: &Log) -> Result<String, Failure> {
    install_all(&[NEEDED, NEEDED_BY_CORPUS].concat(), log)
}

/// The same with what the newer kernel needs.
pub(crate) fn install_for_conformance(log: &Log) -> Result<String, Failure> {
    install_all(&[NEEDED, NEEDED_BY_CONFORMANCE].concat(), log)
}

fn install_all(needed: &[&str], log: &Log) -> Result<String, Failure> {
    let missing = find_missing(needed)?;
    if missing.is_empty() {
        return Ok(format!("{} packages present", needed.len()));
    }
    if !is_root(log)? {
        return Err(Failure::new(format!(
            "packages are missing and only root can install them; run as root: \
             apt-get update && apt-get install --no-install-recommends {}",
            missing.join(" ")
        )));
    }
    shell::run(&mut apt_get(&["update"]), log)?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    shell::run(&mut apt_get(&install), log)?;
    let still = find_missing(needed)?;
    if still.is_empty() {
        Ok(format!("installed {}", missing.join(" ")))
    } else {
        let message = format!("apt-get did not install {}", still.join(" "));
        Err(Failure::new(message))
    }
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_root(log: &Log) -> Result<bool, Failure> {
    let user = shell::read(Command::new("id").arg("-u"), log)?;
    Ok(user.trim() == "0")
}

fn find_missing<'a>(needed: &[&'a str]) -> Result<Vec<&'a str>, Failure> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(needed)
        .stderr(Stdio::null())
        .output()
        .context(
            "dpkg-query (the tests build Debian packages; run them on Debian or a derivative)",
        )?;
    let listing = String::from_utf8_lossy(&output.stdout);
    Ok(select_missing(needed, &listing))
}

/// A package that dpkg does not know at all is not in its listing.
fn select_missing<'a>(needed: &[&'a str], listing: &str) -> Vec<&'a str> {
    let installed: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    needed
        .iter()
        .copied()
        .filter(|package| !installed.contains(package))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::select_missing;

    #[test]
    fn a_package_counts_only_when_dpkg_calls_it_installed() {
        let listing = "gcc installed\nmake config-files\ng++ not-installed\n";
        let needed = ["gcc", "make", "g++", "patch"];
        assert_eq!(select_missing(&needed, listing), ["make", "g++", "patch"]);
    }
}
