//! Damaged object files and debugging information: an error that names the file, or a module;
//! never a panic.

mod support;

use std::fs;
use std::path::Path;

use engraft_build::{BuildError, ModuleRequest, ObjectPair, Report, build_module};
use support::Fixture;

const ROUNDS: usize = 60;

/// xorshift64; the seed is printed by every failing assertion.
struct Random(u64);

impl Random {
    fn with_default(seed: u64) -> Self {
        let seed = std::env::var("ENGRAFT_SEED").map_or(seed, |seed| seed.parse().expect("seed"));
        println!("ENGRAFT_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Both versions of a fixture's object.
struct Sample {
    directory: tempfile::TempDir,
    name: &'static str,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Sample {
    fn compile(name: &'static str, flags: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let fixture = Fixture::read(name);
        let object = |changed: bool| {
            let path = directory.path().join("object.o");
            fixture.compile(&path, flags, "", changed, true);
            fs::read(path).expect("object")
        };
        let (before, after) = (object(false), object(true));
        Self {
            directory,
            name,
            before,
            after,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn build(&self, before: &[u8], after: &[u8]) -> Result<Report, BuildError> {
        let (before_path, after_path) = (self.path("before.o"), self.path("after.o"));
        fs::write(&before_path, before).expect("write");
        fs::write(&after_path, after).expect("write");
        build_module(ModuleRequest {
            objects: vec![ObjectPair {
                name: "damaged.o".to_owned(),
                before: Some(before_path),
                after: Some(after_path),
            }],
            sources: None,
            library: None,
            hooks: &[],
            hook_flags: &[],
            replace_set: 0,
            made_for: None,
            output: &self.path("hostile.lp"),
        })
    }
}

/// Where the sections whose names begin so lie in the file: offset and length.
fn find_sections(object: &[u8], wanted: &str) -> Vec<(usize, usize)> {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(object).expect("an object");
    file.sections()
        .filter(|section| section.name().is_ok_and(|name| name.starts_with(wanted)))
        .filter_map(|section| section.file_range())
        .map(|(start, length)| (start as usize, length as usize))
        .filter(|(_, length)| *length > 0)
        .collect()
}

fn samples() -> [Sample; 3] {
    [
        Sample::compile("constant_table.c", "-O2"),
        Sample::compile("exception_table.cc", "-O2"),
        Sample::compile("layout_kept.c", "-O2"),
    ]
}

/// An error names the object or a file beside it.
fn assert_named(sample: &Sample, error: &BuildError, what: &str) {
    let text = error.to_string();
    let named = ["damaged.o", "before.o", "after.o", "hostile"];
    assert!(
        named.iter().any(|name| text.contains(name)),
        "{}, {what}: {text}",
        sample.name
    );
}

#[test]
fn truncated_objects_are_refused_by_name() {
    for sample in samples() {
        for (version, bytes) in [("before", &sample.before), ("after", &sample.after)] {
            for part in 0..40 {
                let length = bytes.len() * part / 40;
                let cut = &bytes[..length];
                let result = match version {
                    "before" => sample.build(cut, &sample.after),
                    _ => sample.build(&sample.before, cut),
                };
                let what = format!("{version} cut to {length}");
                match result {
                    Ok(report) => panic!("{}, {what}: {report:?}", sample.name),
                    Err(error) => assert_named(&sample, &error, &what),
                }
            }
        }
    }
}

#[test]
fn damaged_objects_never_panic() {
    let mut random = Random::with_default(0xfade);
    let mut refused = 0;
    for sample in samples() {
        for round in 0..ROUNDS {
            let mut versions = [sample.before.clone(), sample.after.clone()];
            let version = random.below(2);
            let bytes = &mut versions[version];
            let table = u64::from_le_bytes(bytes[40..48].try_into().expect("a field")) as usize;
            for _ in 0..=random.below(3) {
                // Headers and tables, where it hurts most, or anything.
                let position = match random.below(3) {
                    0 => random.below(64),
                    1 => table + random.below(bytes.len() - table),
                    _ => random.below(bytes.len()),
                };
                damage(&mut bytes[position], &mut random);
            }
            let [before, after] = versions;
            if let Err(error) = sample.build(&before, &after) {
                assert_named(&sample, &error, &format!("round {round}"));
                refused += 1;
            }
        }
    }
    assert!(refused > ROUNDS / 4, "{refused}");
}

#[test]
fn damaged_debugging_information_never_panics() {
    let mut random = Random::with_default(0xdead);
    for sample in samples() {
        let sections = find_sections(&sample.before, ".debug_");
        assert!(sections.len() > 3, "{}: {sections:?}", sample.name);
        for round in 0..ROUNDS {
            let mut before = sample.before.clone();
            for _ in 0..=random.below(6) {
                let (start, length) = sections[random.below(sections.len())];
                damage(&mut before[start + random.below(length)], &mut random);
            }
            if let Err(error) = sample.build(&before, &sample.after) {
                assert_named(&sample, &error, &format!("round {round}"));
            }
        }
    }
}

fn damage(byte: &mut u8, random: &mut Random) {
    *byte = match random.below(4) {
        0 => 0,
        1 => 0xff,
        2 => *byte ^ (1 << random.below(8)),
        _ => random.below(256) as u8,
    };
}

#[test]
fn files_that_are_no_objects_are_refused_by_name() {
    let sample = Sample::compile("constant_table.c", "-O2");
    let empty: &[u8] = &[];
    for bytes in [empty, b"text", b"\x7fELF", &[0xff; 4096]] {
        let error = sample.build(bytes, &sample.after).expect_err("no object");
        assert_named(&sample, &error, "before");
        let error = sample.build(&sample.before, bytes).expect_err("no object");
        assert_named(&sample, &error, "after");
    }
    let missing = build_module(ModuleRequest {
        objects: vec![ObjectPair {
            name: "damaged.o".to_owned(),
            before: Some(Path::new("nowhere/before.o").to_owned()),
            after: Some(sample.path("after.o")),
        }],
        sources: None,
        library: None,
        hooks: &[],
        hook_flags: &[],
        replace_set: 0,
        made_for: None,
        output: &sample.path("hostile.lp"),
    });
    assert_named(&sample, &missing.expect_err("missing"), "missing");
}
