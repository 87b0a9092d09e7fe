//! Words that must not be in the repository: leftovers, machine paths, registry hosts.
//!
//! Each word is put together from parts, so that this file passes its own check.

use super::{Finding, SourceFile};

const LEFTOVERS: &[&str] = &[
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("#[ign", "ore"),
];

const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp/bash", "_jobs"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

const HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("static.rust-lang", ".org"),
    concat!("debian", ".org"),
    concat!("ubuntu", ".com"),
    concat!("pypi", ".org"),
    concat!("npmjs", ".org"),
    concat!("proxy.golang", ".org"),
];

/// Cargo's lock file names its registry by itself.
const GENERATED: &[&str] = &["Cargo.lock"];

pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    if GENERATED.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let mut find = |words: &[&str], meaning: &str| {
            if let Some(word) = words.iter().find(|word| contains_word(line, word)) {
                findings.push(Finding::new(
                    file,
                    index + 1,
                    format!("`{word}`: {meaning}"),
                ));
            }
        };
        find(LEFTOVERS, "finish it, or say what is missing in an issue");
        find(MACHINE_PATHS, "a path that exists on one machine only");
        find(
            HOSTS,
            "no registry or mirror is named here, the machine's own is used",
        );
    }
    findings
}

/// Whether `word` stands in the line, not continued by a letter or digit on either side
/// where it begins or ends with one.
fn contains_word(line: &str, word: &str) -> bool {
    let joins = |inside: Option<char>, outside: Option<char>| {
        inside.is_some_and(char::is_alphanumeric) && outside.is_some_and(char::is_alphanumeric)
    };
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !joins(word.chars().next(), before) && !joins(word.chars().next_back(), after)
    })
}

#[cfg(test)]
mod tests {
    use super::{HOSTS, LEFTOVERS, MACHINE_PATHS, check};
    use crate::tidy::SourceFile;

    #[test]
    fn every_word_is_found_with_its_line() {
        for word in [LEFTOVERS, MACHINE_PATHS, HOSTS].concat() {
            let file = SourceFile::sample("docs/a.md", &format!("fine\nsee {word} there\n"));
            let findings = check(&file);
            assert_eq!(findings.len(), 1, "{word}");
            assert_eq!(findings[0].line, 2);
            assert!(findings[0].message.contains(word));
        }
    }

    #[test]
    fn parts_of_longer_words_are_fine() {
        let text = format!(
            "MAS{} and fn to{}st()",
            concat!("TO", "DOS"),
            concat!("do", "_li")
        );
        assert_eq!(check(&SourceFile::sample("a.rs", &text)), []);
    }

    #[test]
    fn a_host_is_found_behind_its_subdomain() {
        let text = format!("http://mirror.{}/x", HOSTS[2]);
        assert_eq!(check(&SourceFile::sample("a.sh", &text)).len(), 1);
    }

    #[test]
    fn the_lock_file_is_cargos() {
        assert_eq!(check(&SourceFile::sample("Cargo.lock", HOSTS[0])), []);
    }
}
