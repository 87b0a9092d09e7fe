//! Every unsafe block and impl has an argument close above it, and some crates have none.

use super::{Finding, SourceFile};

/// How far above the argument may begin.
const REACH: usize = 6;

/// Crates that forbid unsafe code altogether, as the design asks.
const SAFE_CRATES: &[&str] = &["cli", "core", "arch", "elf", "module", "unwind"];

pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let mut findings = check_arguments(file);
    findings.extend(check_forbidden(file));
    findings
}

fn check_arguments(file: &SourceFile) -> Vec<Finding> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut findings = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let nearby = &lines[index.saturating_sub(REACH)..=index];
        if is_unsafe(line) && !nearby.iter().any(|line| line.contains("SAFETY")) {
            let message = format!("no SAFETY comment within {REACH} lines above");
            findings.push(Finding::new(file, index + 1, message));
        }
    }
    findings
}

/// A block or an impl; `unsafe fn` states its contract in its documentation instead.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("unsafe").any(|(start, word)| {
        let after = &code[start + word.len()..];
        let quoted = code[..start].replace("\\\"", "").matches('"').count() % 2 == 1;
        !quoted && (after.trim_start().starts_with('{') || after.starts_with(" impl"))
    })
}

fn check_forbidden(file: &SourceFile) -> Option<Finding> {
    let name = SAFE_CRATES.iter().find(|name| {
        ["lib", "main"]
            .iter()
            .any(|root| file.path == format!("crates/{name}/src/{root}.rs"))
    })?;
    let forbids = file
        .text
        .lines()
        .any(|line| line == "#![forbid(unsafe_code)]");
    (!forbids).then(|| {
        let message = format!("crate {name} must say #![forbid(unsafe_code)]");
        Finding::new(file, 0, message)
    })
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::SourceFile;

    fn count(text: &str) -> usize {
        check(&SourceFile::sample("crates/process/src/a.rs", text)).len()
    }

    #[test]
    fn a_block_without_an_argument_is_found() {
        assert_eq!(count("let x = unsafe { read(p) };\n"), 1);
        assert_eq!(count("unsafe impl Send for X {}\n"), 1);
        assert_eq!(
            count("// SAFETY: p is ours.\nlet x = unsafe { read(p) };\n"),
            0
        );
    }

    #[test]
    fn an_argument_too_far_above_does_not_count() {
        let far = format!(
            "// SAFETY: p is ours.\n{}unsafe {{ f() }}\n",
            "line\n".repeat(6)
        );
        assert_eq!(count(&far), 1);
    }

    #[test]
    fn words_in_comments_strings_and_declarations_do_not_count() {
        assert_eq!(count("// not an unsafe { block }\n"), 0);
        assert_eq!(count("let text = \"unsafe { }\";\n"), 0);
        assert_eq!(count("unsafe fn f() {}\n#[unsafe(no_mangle)]\n"), 0);
    }

    #[test]
    fn safe_crates_must_forbid_unsafe_code() {
        let bare = SourceFile::sample("crates/core/src/lib.rs", "//! Rules.\n");
        assert_eq!(check(&bare).len(), 1);
        let good = "//! Rules.\n#![forbid(unsafe_code)]\n";
        assert!(check(&SourceFile::sample("crates/core/src/lib.rs", good)).is_empty());
        assert!(check(&SourceFile::sample("crates/process/src/lib.rs", "//! P.\n")).is_empty());
    }
}
