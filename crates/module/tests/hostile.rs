//! Damaged files: errors or modules, never a panic.
#![allow(missing_docs)]

mod common;

use common::{Names, fixture, try_build};
use engraft_module::{Layout, PatchModule, Placement, Resolved, link};

/// xorshift64; the seed is printed by every failing assertion.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Does with the bytes all that can be done with a module.
fn digest(bytes: &[u8], names: &Names) -> bool {
    let Ok(module) = PatchModule::parse(bytes, "hostile.lp") else {
        return false;
    };
    let _ = module.declared_patches();
    let layout = Layout::of(&module);
    let total = layout.text.size + layout.read_only.size + layout.data.size;
    if total < 1 << 22 {
        let placement = Placement {
            text: 0x7000_0000_0000,
            read_only: 0x7000_1000_0000,
            data: 0x7000_2000_0000,
        };
        if let Ok(linked) = link(&module, &placement, names) {
            assert_eq!(linked.text.len() as u64, layout.text.size);
            assert_eq!(linked.relocations, module.relocations.len());
            assert!(linked.function_at(0).is_none());
        }
    }
    true
}

fn samples() -> Vec<(Vec<u8>, Names)> {
    let address = Resolved::Address(0x7000_4000_0000);
    let names = || {
        let mut names = Names::of(
            [
                "outside_add",
                "outside_pointer",
                "outside_value",
                "klp_enable_patch",
            ]
            .map(|name| (name, address)),
        );
        names
            .0
            .insert("outside_tls".into(), Resolved::TlsOffset(-16));
        names
    };
    ["calls.c", "tls.c", "patch.c"]
        .map(|source| {
            let flags = ["-ftls-model=global-dynamic"];
            let (_, bytes) = try_build(&[fixture(source)], "hostile", &flags).unwrap();
            let names = names();
            assert!(
                digest(&bytes, &names),
                "{source} is valid before it is damaged"
            );
            (bytes, names)
        })
        .into()
}

#[test]
fn every_prefix_is_refused_or_read() {
    for (bytes, names) in samples() {
        let mut refused = 0;
        for length in 0..bytes.len() {
            refused += usize::from(!digest(&bytes[..length], &names));
        }
        // The section headers come last: only bytes behind them can be spared.
        assert!(refused > bytes.len() - 64, "{refused} of {}", bytes.len());
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let seed = std::env::var("ENGRAFT_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    println!("ENGRAFT_SEED={seed}");
    let mut random = Random(seed);
    let samples = samples();
    let mut outcomes = [0usize; 2];
    for _ in 0..30_000 {
        let (bytes, names) = &samples[random.below(samples.len())];
        let mut bytes = bytes.clone();
        for _ in 0..=random.below(4) {
            let position = random.below(bytes.len());
            bytes[position] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[position] ^ (1 << random.below(8)),
                _ => random.below(256) as u8,
            };
        }
        outcomes[usize::from(digest(&bytes, names))] += 1;
    }
    assert!(
        outcomes[0] > 1000 && outcomes[1] > 1000,
        "{outcomes:?}, seed {seed}"
    );
}

/// Flips in the headers and tables, where they hurt most.
#[test]
fn flipped_table_entries_never_panic() {
    let seed = std::env::var("ENGRAFT_SEED").map_or(0xfeed, |seed| seed.parse().unwrap());
    println!("ENGRAFT_SEED={seed}");
    let mut random = Random(seed);
    for (original, names) in &samples() {
        let table = u64::from_le_bytes(original[40..48].try_into().unwrap()) as usize;
        for _ in 0..10_000 {
            let mut bytes = original.clone();
            for _ in 0..=random.below(2) {
                let start = if random.below(8) == 0 { 0 } else { table };
                let end = if start == 0 { 64 } else { bytes.len() };
                let field = start + random.below((end - start) / 4) * 4;
                let value: u32 = match random.below(4) {
                    0 => u32::MAX,
                    1 => random.below(1 << 31) as u32,
                    2 => random.below(100) as u32,
                    _ => u32::from_le_bytes(bytes[field..field + 4].try_into().unwrap()) ^ 1,
                };
                bytes[field..field + 4].copy_from_slice(&value.to_le_bytes());
            }
            digest(&bytes, names);
        }
    }
}
