//! What each crate may depend on, and that each says what it is.

use serde_json::Value;

use super::{Finding, SourceFile};
use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

/// Directions of dependency: each crate and the crates of ours that it may name.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("engraft-abi", &[]),
    ("engraft-arch", &[]),
    ("engraft-core", &[]),
    ("engraft-elf", &[]),
    ("engraft-runtime", &["engraft-abi"]),
    ("engraft-unwind", &["engraft-arch", "engraft-elf"]),
    ("engraft-process", &["engraft-abi", "engraft-elf"]),
    (
        "engraft-module",
        &["engraft-abi", "engraft-arch", "engraft-elf"],
    ),
    (
        "engraft-engine",
        &[
            "engraft-abi",
            "engraft-arch",
            "engraft-core",
            "engraft-elf",
            "engraft-module",
            "engraft-process",
            "engraft-runtime",
            "engraft-unwind",
        ],
    ),
    ("engraft-build", &["engraft-arch", "engraft-module"]),
    (
        "engraft",
        &[
            "engraft-build",
            "engraft-core",
            "engraft-engine",
            "engraft-kernel",
            "engraft-module",
        ],
    ),
    ("engraft-kernel", &[]),
    ("engraft-guest", &[]),
    (
        "engraft-conformance",
        &["engraft-engine", "engraft-guest", "engraft-module"],
    ),
    ("xtask", &[]),
];

/// One member of the workspace.
#[derive(Debug)]
pub(super) struct Package {
    name: String,
    /// Names of normal and build dependencies. Tests may look across, so theirs are not here.
    dependencies: Vec<String>,
}

pub(super) fn read_packages(workspace: &Workspace) -> Result<Vec<Package>, Failure> {
    let mut command = workspace.cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let text = shell::read(&mut command, &Log::discard())?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    Ok(list(&metadata["packages"])
        .map(|package| Package {
            name: string(&package["name"]),
            dependencies: list(&package["dependencies"])
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| string(&dependency["name"]))
                .collect(),
        })
        .collect())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Dependencies among our own crates that the table does not allow.
pub(super) fn check_directions(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let mut report = |message: String| {
            findings.push(Finding {
                path: format!("package {}", package.name),
                line: 0,
                message,
            });
        };
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == package.name) else {
            report("is not in the table of dependency directions: decide its place".to_owned());
            continue;
        };
        for dependency in &package.dependencies {
            let ours = packages.iter().any(|other| other.name == *dependency);
            if ours && !allowed.contains(&dependency.as_str()) {
                report(format!("must not depend on {dependency}"));
            }
        }
    }
    findings
}

/// Crates that ARCHITECTURE.md does not mention.
pub(super) fn check_code_map(packages: &[Package], files: &[SourceFile]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == "ARCHITECTURE.md") else {
        return vec![Finding {
            path: "ARCHITECTURE.md".to_owned(),
            line: 0,
            message: "is missing".to_owned(),
        }];
    };
    packages
        .iter()
        .map(|package| directory_of(&package.name))
        .filter(|directory| !page.text.contains(&format!("`{directory}`")))
        .map(|directory| Finding::new(page, 0, format!("the code map lacks `{directory}`")))
        .collect()
}

fn directory_of(package: &str) -> String {
    match package {
        "xtask" => "xtask".to_owned(),
        "engraft" => "crates/cli".to_owned(),
        _ => package.replacen("engraft-", "crates/", 1),
    }
}

/// A crate root begins with what the crate is, and says what it must not know.
pub(super) fn check_header(file: &SourceFile) -> Option<Finding> {
    let in_crate = file.path.starts_with("crates/") || file.path.starts_with("xtask/");
    let is_root = file.path.ends_with("/src/lib.rs") || file.path.ends_with("/src/main.rs");
    if !in_crate || !is_root {
        return None;
    }
    let header: String = file
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.trim_start_matches("//!"))
        .collect();
    let words: Vec<&str> = header.split_whitespace().collect();
    let header = words.join(" ").to_lowercase();
    if header.is_empty() {
        let message = "the first line must begin the crate's description (`//!`)";
        Some(Finding::new(file, 1, message))
    } else if !["not know", "knows nothing", "know nothing", "knows no "]
        .iter()
        .any(|phrase| header.contains(phrase))
    {
        let message = "the crate's description does not say what it must not know";
        Some(Finding::new(file, 1, message))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Package, check_code_map, check_directions, check_header};
    use crate::tidy::SourceFile;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn dependencies_point_downwards() {
        let mut packages = vec![
            package("engraft-abi", &[]),
            package("engraft-core", &["serde"]),
            package("engraft-process", &["engraft-abi", "nix"]),
        ];
        assert_eq!(check_directions(&packages), []);
        packages[1] = package("engraft-core", &["engraft-process"]);
        let findings = check_directions(&packages);
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].to_string(),
            "package engraft-core: must not depend on engraft-process"
        );
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        let findings = check_directions(&[package("engraft-extra", &[])]);
        assert!(findings[0].message.contains("decide its place"));
    }

    #[test]
    fn the_code_map_has_every_crate() {
        let packages = [package("engraft-core", &[]), package("engraft", &[])];
        let page = |text| [SourceFile::sample("ARCHITECTURE.md", text)];
        let whole = page("| `crates/core` | `crates/cli` |");
        assert_eq!(check_code_map(&packages, &whole), []);
        let findings = check_code_map(&packages, &page("| `crates/core` |"));
        assert!(findings[0].message.contains("crates/cli"));
        assert_eq!(check_code_map(&packages, &[]).len(), 1);
    }

    #[test]
    fn a_crate_says_what_it_must_not_know() {
        let check = |text| check_header(&SourceFile::sample("crates/x/src/lib.rs", text));
        assert_eq!(
            check("//! ELF.\n//! It must not\n//! know patches.\n"),
            None
        );
        assert!(check("//! ELF.\nmod a;\n").is_some());
        assert!(check("mod a;\n//! It must not know b.\n").is_some());
        let inner = SourceFile::sample("crates/x/src/inner.rs", "mod a;\n");
        assert_eq!(check_header(&inner), None);
    }
}
