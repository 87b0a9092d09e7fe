//! Every class of change by a fixture named after it: what is built or refused, and that a
//! running program behaves as the changed source says.

mod support;

use support::{Built, Fixture, build};

fn check(name: &str) {
    let fixture = Fixture::read(name);
    for case in fixture.cases() {
        let built = build(&fixture, case.flags);
        check_report(&fixture, case.flags, case.expect, &built);
    }
}

fn check_report(fixture: &Fixture, flags: &str, expected: &str, built: &Built) {
    let what = format!("{} {flags}", fixture.name);
    let report = match (&built.report, expected.strip_prefix("error(")) {
        (Ok(report), None) => report,
        (Err(error), Some(text)) => {
            let text = text.trim_end_matches(')');
            assert!(error.to_string().contains(text), "{what}: {error}");
            assert!(error.help().is_some(), "{what}: {error}");
            assert!(!built.module().exists(), "{what}");
            return;
        }
        (Err(error), None) => panic!("{what}: {error}; help: {:?}", error.help()),
        (Ok(report), Some(text)) => panic!("{what}: no error '{text}': {report:#?}"),
    };
    let what = format!("{what}: {report:#?}");
    if let Some(refusal) = expected.strip_prefix("refused(") {
        let (name, text) = refusal
            .strip_suffix(')')
            .and_then(|refusal| refusal.split_once(": "))
            .expect("name");
        let found = report
            .refusals
            .iter()
            .any(|refusal| refusal.name == name && refusal.to_string().contains(text));
        assert!(found, "{what}");
        let named = report.refusals.iter().all(|refusal| refusal.name == name);
        assert!(named, "nothing else is refused: {what}");
        assert!(!built.module().exists(), "{what}");
        return;
    }
    assert!(report.refusals.is_empty(), "{what}");
    let replaced = report
        .replaced
        .iter()
        .map(|replaced| match replaced.sympos {
            0 => readable(&replaced.name),
            position => format!("{},{position}", readable(&replaced.name)),
        });
    match expected.strip_prefix("replaced(") {
        Some(names) => {
            let names = names.trim_end_matches(')').split(", ").collect();
            assert_eq!(sorted(replaced), sorted_names(names), "{what}");
            assert!(built.module().exists(), "{what}");
        }
        None => {
            assert_eq!(expected, "unchanged", "{what}");
            assert_eq!(replaced.count(), 0, "{what}");
            assert!(!built.module().exists(), "{what}");
        }
    }
    let added = report.added.iter().map(|added| readable(&added.name));
    if let Some(names) = fixture.list("Added") {
        assert_eq!(sorted(added), sorted_names(names), "{what}");
    }
    let ignored = report.ignored.iter();
    let ignored = ignored.map(|ignored| format!("{} {:?}", ignored.name, ignored.what));
    if let Some(names) = fixture.list("Ignored") {
        assert_eq!(sorted(ignored), sorted_names(names), "{what}");
    }
    let once = report.once.iter().map(|once| once.name.clone());
    let names = fixture.list("Once").unwrap_or_default();
    assert_eq!(sorted(once), sorted_names(names), "{what}");
    let handled = report.handled.iter().map(|refusal| refusal.name.clone());
    let names = fixture.list("Handled").unwrap_or_default();
    assert_eq!(sorted(handled), sorted_names(names), "{what}");
}

/// A function of Rust by its path, without the hash that depends on the compiler.
fn readable(name: &str) -> String {
    const HASH: usize = "17h0123456789abcdefE".len();
    let path = name.len().checked_sub(HASH).and_then(|end| {
        let (path, hash) = name.split_at_checked(end)?;
        hash.starts_with("17h").then_some(path.strip_prefix("_ZN")?)
    });
    let Some(mut rest) = path else {
        return name.to_owned();
    };
    let mut parts = Vec::new();
    while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
        let length = rest[..end].parse::<usize>().expect("length");
        let (part, behind) = rest[end..].split_at(length);
        parts.push(part);
        rest = behind;
    }
    parts.join("::")
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

fn sorted_names(names: Vec<&str>) -> Vec<String> {
    sorted(names.into_iter().map(str::to_owned))
}

macro_rules! fixtures {
    ($($name:ident: $file:literal;)*) => {
        $(#[test]
        fn $name() {
            check($file);
        })*

        const LISTED: &[&str] = &[$($file),*];
    };
}

each_fixture!(fixtures);

#[test]
fn every_fixture_is_listed() {
    let listed: Vec<String> = sorted_names(LISTED.to_vec());
    let files = std::fs::read_dir("tests/fixtures").expect("fixtures");
    let files = files.map(|entry| entry.expect("fixture"));
    let files = files.filter(|entry| entry.path().is_file());
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert_eq!(listed, sorted(names.filter(|name| name != "program.h")));
}
