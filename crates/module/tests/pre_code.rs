//! Modules that carry pre-patch code: what they refer to, and what is refused.
#![allow(missing_docs)]

mod common;

use std::fmt::Write;

use common::assemble;
use engraft_module::{
    Layout, LinkErrorKind, ModuleErrorKind, PRE_CODE_SECTION, PatchModule, Placement, PreCode,
    PreFunction, PreKind, PreObject, PreRelocation, PreSection, PreSymbol, PreSymbolKind,
    Reference, Resolve, ResolveError, Resolved, Scope, link,
};

fn symbol(name: &str, kind: PreSymbolKind) -> PreSymbol {
    PreSymbol {
        name: name.into(),
        file: None,
        kind,
        size: 6,
        place: (name == "old").then_some((0, 0)),
        wanted: true,
    }
}

fn object(name: Option<&str>) -> PreObject {
    PreObject {
        name: name.map(Into::into),
        sections: vec![PreSection {
            name: ".text.old".into(),
            kind: PreKind::Code,
            bytes: vec![0xe8, 0, 0, 0, 0, 0xc3],
            relocations: vec![PreRelocation {
                offset: 1,
                kind: 4,
                symbol: 1,
                addend: -4,
            }],
        }],
        symbols: vec![
            symbol("old", PreSymbolKind::Function),
            symbol("counter.12", PreSymbolKind::Object),
            symbol("per_thread", PreSymbolKind::Tls),
        ],
        functions: vec![PreFunction {
            old_name: "old".into(),
            old_sympos: 0,
            symbol: 0,
            cold: Vec::new(),
        }],
        exception_tables: Vec::new(),
    }
}

fn example() -> PreCode {
    PreCode {
        objects: vec![object(None), object(Some("libcrypto.so.3"))],
    }
}

/// A module whose text refers to these names, with the bytes as its pre-patch code.
fn module_bytes(flags: &str, pre_code: &[u8], names: &[&str]) -> Vec<u8> {
    let mut text = String::from(".text\n.globl init_module\ninit_module:\n");
    for name in names {
        match name.strip_prefix("tls:") {
            Some(name) => writeln!(text, "movq \"{name}\"@gottpoff(%rip), %rax").unwrap(),
            None => writeln!(text, "movq \"{name}\"@GOTPCREL(%rip), %rax").unwrap(),
        }
    }
    writeln!(
        text,
        "ret\n.section {PRE_CODE_SECTION},\"{flags}\",@progbits"
    )
    .unwrap();
    for byte in pre_code {
        writeln!(text, ".byte {byte}").unwrap();
    }
    assemble(&text)
}

fn parse(bytes: &[u8]) -> Result<PatchModule, ModuleErrorKind> {
    PatchModule::parse(bytes, "built.lp").map_err(|error| error.kind)
}

/// Answers with the position; libraries are not loaded.
struct Positions;

impl Resolve for Positions {
    fn resolve(&self, reference: &Reference) -> Result<Resolved, ResolveError> {
        match reference.scope {
            Scope::PreCode { object: 1, .. } => Ok(Resolved::Absent),
            Scope::PreCode { symbol: 2, .. } => Ok(Resolved::TlsOffset(-8)),
            Scope::PreCode { symbol, .. } => Ok(Resolved::Address(0x1000 + symbol as u64)),
            _ => Err("not found in symbol table".into()),
        }
    }
}

#[test]
fn references_lead_to_symbols_of_the_pre_patch_code() {
    let names = [
        ".engraft.pre.0.1",
        ".engraft.pre.1.0",
        "tls:.engraft.pre.0.2",
    ];
    let module = parse(&module_bytes("", &example().to_bytes(), &names)).unwrap();
    assert_eq!(module.pre_code, Some(example()));
    let list: Vec<String> = module
        .references()
        .into_iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        list,
        [
            "'counter.12' of the pre-patch code",
            "'old' of the pre-patch code",
            "'per_thread' of the pre-patch code"
        ]
    );
    let reference = module.references()[0];
    assert_eq!(
        reference.scope,
        Scope::PreCode {
            object: 0,
            symbol: 1
        }
    );
    assert!(!reference.thread_local && module.references()[2].thread_local);
    assert!(
        module
            .sections
            .iter()
            .all(|section| section.name != PRE_CODE_SECTION),
        "it does not become part of the target"
    );
    let placement = Placement {
        text: 0x10_0000,
        read_only: 0x20_0000,
        data: 0x30_0000,
    };
    let linked = link(&module, &placement, &Positions).unwrap();
    assert_eq!(linked.absent, ["libcrypto.so.3"]);
    let slots = linked.read_only.as_chunks::<8>().0;
    assert!(slots.contains(&0x1001u64.to_le_bytes()));
    assert!(slots.contains(&(-8i64).to_le_bytes()));
    assert!(!slots.contains(&0x1000u64.to_le_bytes()), "absent");
    assert_eq!(Layout::of(&module).text.size, linked.text.len() as u64);
}

#[test]
fn the_main_executable_is_never_absent() {
    struct Nothing;
    impl Resolve for Nothing {
        fn resolve(&self, _: &Reference) -> Result<Resolved, ResolveError> {
            Ok(Resolved::Absent)
        }
    }
    let bytes = module_bytes("", &example().to_bytes(), &[".engraft.pre.0.1"]);
    let placement = Placement {
        text: 0x10_0000,
        read_only: 0x20_0000,
        data: 0x30_0000,
    };
    let error = link(&parse(&bytes).unwrap(), &placement, &Nothing).unwrap_err();
    assert!(
        matches!(error.kind, LinkErrorKind::Unresolved(_)),
        "{error}"
    );
}

#[test]
fn references_to_nothing_are_refused() {
    let code = example().to_bytes();
    for name in [
        ".engraft.pre.2.0",
        ".engraft.pre.0.3",
        ".engraft.pre.0",
        ".engraft.pre.0.x",
    ] {
        let error = parse(&module_bytes("", &code, &[name])).unwrap_err();
        assert_eq!(error, ModuleErrorKind::PreCodeSymbolName(name.into()));
    }
    let without = assemble(".text\nmovq \".engraft.pre.0.0\"@GOTPCREL(%rip), %rax\nret\n");
    assert!(matches!(
        parse(&without),
        Err(ModuleErrorKind::PreCodeSymbolName(_))
    ));
}

#[test]
fn modules_without_pre_patch_code_have_none() {
    assert_eq!(parse(&assemble(".text\nret\n")).unwrap().pre_code, None);
}

#[test]
fn a_loadable_or_second_section_is_refused() {
    let code = example().to_bytes();
    for flags in ["a", "aw"] {
        assert!(parse(&module_bytes(flags, &code, &[])).is_err(), "{flags}");
    }
    let two = format!(
        ".text\nret\n.section {PRE_CODE_SECTION},\"\",@progbits,unique,1\n.byte 1, 0\n\
         .section {PRE_CODE_SECTION},\"\",@progbits,unique,2\n.byte 1, 0\n"
    );
    assert!(parse(&assemble(&two)).is_err());
}

#[test]
fn every_prefix_of_the_pre_patch_code_is_refused() {
    let code = example().to_bytes();
    for length in 0..code.len() {
        assert!(PreCode::from_bytes(&code[..length]).is_err(), "{length}");
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let seed = std::env::var("ENGRAFT_SEED").map_or(0xc0de, |seed| seed.parse().unwrap());
    println!("ENGRAFT_SEED={seed}");
    let mut state: u64 = seed;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as usize
    };
    let names = [".engraft.pre.0.1", ".engraft.pre.1.2"];
    let original = module_bytes("", &example().to_bytes(), &names);
    let code = example().to_bytes();
    let start = original
        .windows(code.len())
        .position(|window| window == code)
        .unwrap();
    let mut outcomes = [0; 2];
    for _ in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..=below(3) {
            bytes[start + below(code.len())] = [0, 1, 0x7f, 0xff, below(256) as u8][below(5)];
        }
        let parsed = parse(&bytes);
        if let Ok(module) = &parsed {
            let pre_code = module.pre_code.as_ref().unwrap();
            for reference in module.references() {
                let Scope::PreCode { object, symbol } = reference.scope else {
                    panic!("{reference:?}, seed {seed}");
                };
                assert_eq!(
                    pre_code.objects[object].symbols[symbol].name, reference.name,
                    "seed {seed}"
                );
            }
        }
        outcomes[usize::from(parsed.is_ok())] += 1;
    }
    assert!(
        outcomes[0] > 500 && outcomes[1] > 500,
        "{outcomes:?}, seed {seed}"
    );
}
