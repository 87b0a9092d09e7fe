//! A file that is no patch module, or a damaged or hostile one.

use super::*;

#[test]
fn truncated() {
    let mut scene = Scene::set();
    let module = fix(&scene.workshop, "fix");
    for length in [
        0,
        3,
        4,
        63,
        64,
        module.len() / 4,
        module.len() / 2,
        module.len() - 64,
    ] {
        let error = scene.load("fix", &module[..length]).expect_err("truncated");
        expect(&error, Errno::ENOEXEC, &["patch module 'fix.lp'"]);
    }
    scene.is_untouched();
}

#[test]
fn not_a_module_at_all() {
    let mut scene = Scene::set();
    let program = fs::read(scene.workshop.path("program")).expect("program");
    let said = [
        "patch module 'fix.lp'",
        "not a relocatable object",
        "compile with -c",
    ];
    scene.refuses("fix", &program, Errno::ENOEXEC, &said);
    let text = b"#!/bin/sh\necho no\n";
    scene.refuses(
        "fix",
        text,
        Errno::ENOEXEC,
        &["'fix.lp'", "not an ELF file"],
    );
    let mut foreign = fix(&scene.workshop, "fix");
    foreign[18] = 183; // e_machine: AArch64
    let said = ["'fix.lp'", "machine type 183", "compile for x86-64"];
    scene.refuses("fix", &foreign, Errno::ENOEXEC, &said);
    foreign[4] = 1; // ELFCLASS32
    let said = ["'fix.lp'", "32-bit object", "compile for 64-bit"];
    scene.refuses("fix", &foreign, Errno::ENOEXEC, &said);
}

/// Flipped bits: some give a module that still loads, then it must come off again.
#[test]
fn corrupt() {
    let seed = std::env::var("ENGRAFT_SEED").map_or(0xbad_5eed, |seed| seed.parse().expect("seed"));
    println!("ENGRAFT_SEED={seed}");
    let mut scene = Scene::set();
    let module = fix(&scene.workshop, "fix");
    let table = u64::from_le_bytes(module[40..48].try_into().expect("e_shoff")) as usize;
    let mut random = seed;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit as u64) as usize
    };
    let mut refused = 0;
    for _ in 0..150 {
        let mut bytes = module.clone();
        // Headers, where it hurts; never code, which would be run as it is.
        let at = match below(4) {
            0 => below(64),
            _ => table + below(module.len() - table),
        };
        bytes[at] = below(256) as u8;
        let file_name = "fix.lp".to_owned();
        let request = LoadRequest {
            module: &bytes,
            file_name: &file_name,
            parameters: &[],
            enable: true,
        };
        match check(scene.pid(), &request) {
            Ok(report) => refused += usize::from(!report.problems.is_empty()),
            Err(error) => {
                expect(&error, Errno::ENOEXEC, &["patch module 'fix.lp'"]);
                refused += 1;
            }
        }
    }
    assert!(refused > 30, "{refused}, seed {seed}");
    scene.is_untouched();
}

#[test]
fn hostile_code_is_not_run_before_the_rules() {
    let mut scene = Scene::set();
    let startup = format!(
        "{}\nextern int secret;\n__attribute__((constructor)) static void early(void) {{ secret = 1; }}",
        livepatch(FIX, FIX_FUNCS)
    );
    let source = scene.workshop.write("startup.c", &startup);
    let error = engraft_module::compile(&engraft_module::CompileRequest {
        sources: vec![source],
        objects: Vec::new(),
        output: scene.workshop.path("startup.lp"),
        flags: Vec::new(),
        made_for: Vec::new(),
    })
    .expect_err("constructors are refused");
    let text = error.to_string();
    assert!(
        text.contains("'early'") && text.contains("module_init"),
        "{text}"
    );
    assert!(!scene.workshop.path("startup.lp").exists());
    scene.is_untouched();
}

#[test]
fn without_an_init_function() {
    let mut scene = Scene::set();
    let module = scene.workshop.module("fix", "int unused;");
    let said = ["load 'fix'", "no init function", "module_init()"];
    scene.refuses("fix", &module, Errno::ENOEXEC, &said);
}

#[test]
fn not_marked_as_a_livepatch() {
    let mut scene = Scene::set();
    let source = livepatch(FIX, FIX_FUNCS).replace("MODULE_INFO(livepatch, \"Y\");", "");
    let module = scene.workshop.module("fix", &source);
    let said = [
        "not marked as a livepatch module",
        "MODULE_INFO(livepatch, \"Y\")",
    ];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
}
