//! Source packages from the Debian mirror that this machine already uses.
//!
//! The system's configuration is only read: `apt-get` is given a sources list and a state
//! directory of our own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};

/// A source package at one version, with the checksums of its files.
pub(crate) struct SourcePackage {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// File name and SHA-256.
    pub(crate) files: &'static [(&'static str, &'static str)],
}

/// Downloads (unless done before), verifies and unpacks into `directory/source`, anew.
pub(crate) fn unpack(
    package: &SourcePackage,
    directory: &Path,
    log: &Log,
) -> Result<PathBuf, Failure> {
    if verify(package, directory).is_err() {
        download(package, directory, log)?;
        verify(package, directory)?;
    }
    let source = directory.join("source");
    if source.exists() {
        fs::remove_dir_all(&source).context(format!("removing {}", source.display()))?;
    }
    let description = package
        .files
        .iter()
        .find(|(file, _)| file.ends_with(".dsc"))
        .ok_or_else(|| Failure::new(format!("{}: no .dsc file is pinned", package.name)))?;
    shell::run(
        Command::new("dpkg-source")
            .args(["--no-check", "--extract", description.0, "source"])
            .current_dir(directory),
        log,
    )?;
    Ok(source)
}

/// Takes a patch in `debian/patches` out of an unpacked source.
pub(crate) fn take_out(source: &Path, patch: &str, log: &Log) -> Result<(), Failure> {
    shell::run(&mut reverse(source, patch), log)
}

/// Whether a patch can only be taken out where lines around its changes are others by now.
pub(crate) fn is_out_of_place(source: &Path, patch: &str, log: &Log) -> Result<bool, Failure> {
    let told = shell::read(reverse(source, patch).arg("--dry-run"), log)?;
    Ok(told.contains("with fuzz"))
}

fn reverse(source: &Path, patch: &str) -> Command {
    let mut reverse = Command::new("patch");
    reverse
        .args(["--reverse", "--strip=1", "--batch"])
        .arg("--no-backup-if-mismatch")
        .arg(format!("--input=debian/patches/{patch}"))
        .current_dir(source);
    reverse
}

/// Copies a source to a directory beside it, in place of what is there.
pub(crate) fn copy(source: &Path, name: &str, log: &Log) -> Result<PathBuf, Failure> {
    let copy = source.with_file_name(name);
    if copy.exists() {
        fs::remove_dir_all(&copy).context(format!("removing {}", copy.display()))?;
    }
    let mut command = Command::new("cp");
    command.arg("--archive").arg(source).arg(&copy);
    shell::run(&mut command, log)?;
    Ok(copy)
}

/// Writes the patch that makes one of two directories beside each other into the other one.
pub(crate) fn write_difference(
    directory: &Path,
    from: &str,
    to: &str,
    patch: &Path,
) -> Result<(), Failure> {
    const DIFFERENT: i32 = 1;
    let doing = format!("writing {}", patch.display());
    let status = Command::new("diff")
        .args(["--unified", "--recursive", "--new-file", from, to])
        .current_dir(directory)
        .stdout(File::create(patch).context(&doing)?)
        .status()
        .context(&doing)?;
    if status.code() == Some(DIFFERENT) {
        Ok(())
    } else {
        Err(Failure::new(format!("{doing}: diff: {status}")))
    }
}

/// Downloads binary packages of a source package's version and unpacks them, without
/// installing them, into `directory/shipped`.
pub(crate) fn unpack_binaries(
    package: &SourcePackage,
    binaries: &[&str],
    directory: &Path,
    log: &Log,
) -> Result<PathBuf, Failure> {
    let shipped = directory.join("shipped");
    let stamp = directory.join("shipped-version");
    if fs::read_to_string(&stamp).ok().as_deref() == Some(package.version) {
        return Ok(shipped);
    }
    let downloads = directory.join("downloads");
    for place in [&shipped, &downloads] {
        if place.exists() {
            fs::remove_dir_all(place).context(format!("removing {}", place.display()))?;
        }
    }
    fs::create_dir_all(&downloads).context(format!("creating {}", downloads.display()))?;
    let mut fetch = Command::new("apt-get");
    fetch.arg("download").current_dir(&downloads);
    fetch.args(
        binaries
            .iter()
            .map(|name| format!("{name}={}", package.version)),
    );
    shell::run(&mut fetch, log).map_err(|failure| {
        Failure::new(format!(
            "{failure}; `apt-get update` lets apt know what the mirror offers"
        ))
    })?;
    let files = fs::read_dir(&downloads).context(format!("reading {}", downloads.display()))?;
    for file in files.flatten() {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(file.path()).arg(&shipped);
        shell::run(&mut unpack, log)?;
    }
    fs::write(&stamp, package.version).context(format!("writing {}", stamp.display()))?;
    Ok(shipped)
}

fn verify(package: &SourcePackage, directory: &Path) -> Result<(), Failure> {
    for (file, expected) in package.files {
        let path = directory.join(file);
        let output = shell::read(
            Command::new("sha256sum").arg("--binary").arg(&path),
            &Log::discard(),
        )
        .map_err(|_| Failure::new(format!("{} cannot be read", path.display())))?;
        let found = output.split_whitespace().next().unwrap_or_default();
        if found != *expected {
            return Err(Failure::new(format!(
                "{}: SHA-256 is {found}, pinned is {expected}; delete the file and try again, \
                 and do not use it if that does not help",
                path.display()
            )));
        }
    }
    Ok(())
}

fn download(package: &SourcePackage, directory: &Path, log: &Log) -> Result<(), Failure> {
    let apt = Apt::prepare(directory)?;
    shell::run(apt.command("apt-get").arg("update"), log)?;
    let wanted = format!("{}={}", package.name, package.version);
    let mut fetch = apt.command("apt-get");
    fetch.args(["source", "--download-only", &wanted]);
    shell::run(&mut fetch, log).map_err(|failure| {
        let versions = apt.available_versions(package.name, log);
        Failure::new(format!(
            "{failure}; the configured mirror offers {} in {versions}: pin one of these, with \
             its checksums, if {} is gone",
            package.name, package.version
        ))
    })
}

/// apt with a sources list and state directory below `directory`.
struct Apt {
    directory: PathBuf,
    sources: PathBuf,
    lists: PathBuf,
}

impl Apt {
    fn prepare(directory: &Path) -> Result<Self, Failure> {
        let (text, extension) = read_sources(Path::new("/etc/apt"))?;
        let sources = directory.join(format!("source-packages.{extension}"));
        let lists = directory.join("lists");
        fs::create_dir_all(lists.join("partial"))
            .context(format!("creating {}", lists.display()))?;
        fs::write(&sources, text).context(format!("writing {}", sources.display()))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            sources,
            lists,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--option", "Dir::Etc::SourceParts=-"])
            .args(["--option", "APT::Sandbox::User=root"])
            .arg("--option")
            .arg(format!("Dir::Etc::SourceList={}", self.sources.display()))
            .arg("--option")
            .arg(format!("Dir::State::Lists={}", self.lists.display()))
            .arg("--option")
            .arg(format!(
                "Dir::Cache={}",
                self.directory.join("cache").display()
            ))
            .current_dir(&self.directory);
        command
    }

    fn available_versions(&self, package: &str, log: &Log) -> String {
        let mut show = self.command("apt-cache");
        show.args(["showsrc", package]);
        let listing = shell::read(&mut show, log).unwrap_or_default();
        let versions: Vec<&str> = listing
            .lines()
            .filter_map(|line| line.strip_prefix("Version: "))
            .collect();
        if versions.is_empty() {
            "no version".to_owned()
        } else {
            versions.join(", ")
        }
    }
}

/// The machine's Debian sources turned into source-package ones, and the format they are in.
///
/// Deb822 files win over one-line ones because a file has one format only.
fn read_sources(configuration: &Path) -> Result<(String, &'static str), Failure> {
    let mut files = vec![configuration.join("sources.list")];
    if let Ok(entries) = fs::read_dir(configuration.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut stanzas = String::new();
    let mut lines = String::new();
    for file in &files {
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanzas.push_str(&stanzas_for_sources(&text)),
            Some("list") => lines.push_str(&lines_for_sources(&text)),
            _ => {}
        }
    }
    if !stanzas.is_empty() {
        Ok((stanzas, "sources"))
    } else if !lines.is_empty() {
        Ok((lines, "list"))
    } else {
        Err(Failure::new(format!(
            "{} names no Debian mirror with a `main` component: configure one, source packages \
             are fetched from there",
            configuration.display()
        )))
    }
}

fn stanzas_for_sources(text: &str) -> String {
    let mut result = String::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then_some(value.trim())
            })
        };
        let has = |name, word| field(name).is_some_and(|value| contains_word(value, word));
        let disabled = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if disabled || !has("Types", "deb") || !has("Components", "main") {
            continue;
        }
        for line in stanza.lines().filter(|line| !line.starts_with('#')) {
            let types = line.to_ascii_lowercase().starts_with("types:");
            result.push_str(if types { "Types: deb-src" } else { line });
            result.push('\n');
        }
        result.push('\n');
    }
    result
}

fn lines_for_sources(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| contains_word(line, "main"))
        .filter_map(|line| line.strip_prefix("deb "))
        .map(|rest| format!("deb-src {rest}\n"))
        .collect()
}

fn contains_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|candidate| candidate == word)
}

#[cfg(test)]
mod tests {
    use super::{lines_for_sources, stanzas_for_sources};

    #[test]
    fn stanzas_become_source_stanzas_and_keep_their_key() {
        let text = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\n\
                    Suites: bookworm\nComponents: main\nSigned-By: /key\n";
        assert_eq!(
            stanzas_for_sources(text),
            "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm\n\
             Components: main\nSigned-By: /key\n\n"
        );
    }

    #[test]
    fn stanzas_of_other_vendors_and_disabled_ones_are_left_out() {
        let vendor = "Types: deb\nURIs: http://vendor.example\nSuites: x\nComponents: tool\n";
        let disabled = "Enabled: no\nTypes: deb\nURIs: http://m\nSuites: x\nComponents: main\n";
        let sources = "Types: deb-src\nURIs: http://m\nSuites: x\nComponents: main\n";
        let text = format!("{vendor}\n{disabled}\n{sources}");
        assert_eq!(stanzas_for_sources(&text), "");
    }

    #[test]
    fn lines_become_source_lines() {
        let text = "# deb http://commented main\n\
                    deb [signed-by=/key] http://mirror.example/debian bookworm main contrib\n\
                    deb http://vendor.example stable tool\n\
                    deb-src http://mirror.example/debian bookworm main\n";
        assert_eq!(
            lines_for_sources(text),
            "deb-src [signed-by=/key] http://mirror.example/debian bookworm main contrib\n"
        );
    }
}
