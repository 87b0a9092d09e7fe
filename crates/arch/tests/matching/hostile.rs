//! Anything may come in: no panic, and a match keeps its promises.

use engraft_arch::matching::{Field, FieldKind, Matched, Pattern, match_code};

use crate::VARIED;
use crate::linked_file::LinkedFile;
use crate::object_file::ObjectFile;
use crate::toolchain::{Build, Kind};

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn field(&mut self, limit: usize) -> Option<Field> {
        let kind = FieldKind::from_raw(self.below(43) as u32)?;
        let offset = self.below(limit + 3) as u32;
        Some(Field { offset, kind })
    }
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = since.as_nanos() as u64 | 1;
    println!("seed {seed:#x}");
    seed
}

fn check(before: &[u8], fields: &[Field], address: u64, running: &[u8]) {
    let pattern = Pattern::new(before, fields);
    let result = match_code(before, fields, address, running);
    assert!(result.is_err() || pattern.may_match(running));
    match result {
        Ok(matched) => check_matched(&matched, before, fields, address, running),
        Err(mismatch) => {
            assert!(mismatch.before_offset as usize <= before.len());
            let text = mismatch.to_string();
            assert!(text.contains(&mismatch.running_text()), "{text}");
        }
    }
}

fn check_matched(matched: &Matched, before: &[u8], fields: &[Field], address: u64, running: &[u8]) {
    assert!(matched.length <= running.len());
    assert!(
        matched
            .values
            .iter()
            .all(|(index, _)| *index < fields.len())
    );
    for &(offset, place) in &matched.places {
        assert!((offset as usize) < before.len());
        assert!(place.wrapping_sub(address) < running.len() as u64);
    }
}

#[test]
fn random_bytes_do_no_harm() {
    let mut random = Random(seed());
    for _ in 0..200_000 {
        let length = random.below(40);
        let before = random.bytes(length);
        let mut running = before.clone();
        running.extend(random.bytes(8));
        for _ in 0..random.below(4) {
            let at = random.below(running.len());
            running[at] = random.next() as u8;
        }
        running.truncate(random.below(running.len() + 1));
        let count = random.below(3);
        let fields: Vec<Field> = (0..count).filter_map(|_| random.field(length)).collect();
        let address = random.next();
        check(&before, &fields, address, &running);
    }
}

#[test]
fn damaged_functions_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let build = Build::new("gcc", Kind::Pie, &["-O2", "-fPIC", "-fno-plt"], &[]);
    let made = build.compile(directory.path(), VARIED);
    let object = ObjectFile::open(&made.sections);
    let linked = LinkedFile::open(&build.link(&made, "bfd"));
    let mut random = Random(seed());
    for _ in 0..100 {
        for function in &object.functions {
            let address = linked.functions(&function.name)[0];
            let running = linked.bytes(address).expect("code");
            let mut running = running[..running.len().min(function.code.len() + 64)].to_vec();
            let mut before = function.code.clone();
            let mut fields = function.fields.clone();
            for _ in 0..random.below(4) {
                let at = random.below(before.len());
                before[at] = random.next() as u8;
                let at = random.below(running.len());
                running[at] = random.next() as u8;
            }
            if random.below(4) == 0 {
                fields.extend(random.field(before.len()));
            }
            if random.below(4) == 0 && !fields.is_empty() {
                fields.swap_remove(random.below(fields.len()));
            }
            if random.below(8) == 0 {
                before.truncate(random.below(before.len()));
                running.truncate(random.below(running.len()));
            }
            check(&before, &fields, address, &running);
        }
    }
}
