//! Compiles `target/` into one relocatable object and proves that it can be placed anywhere:
//! nothing undefined, no constructors, no thread-local storage, no absolute 32-bit addresses.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::elf;
use object::read::elf::{ElfFile64, FileHeader as _, SectionHeader as _};
use object::{Object as _, ObjectSymbol as _};

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let sources = manifest.join("target");
    let abi = manifest.join("../abi/src");
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-changed={}", abi.display());

    let rlib = out.join("libengraft_abi.rlib");
    compile(
        &abi.join("lib.rs"),
        &[
            "--crate-name",
            "engraft_abi",
            "--crate-type",
            "rlib",
            "-o",
            text(&rlib),
        ],
    );
    let runtime = out.join("runtime.o");
    let abi_extern = format!("engraft_abi={}", rlib.display());
    compile(
        &sources.join("lib.rs"),
        &[
            "--crate-name",
            "engraft_target",
            "--crate-type",
            "staticlib",
            "--emit",
            "obj",
            "-C",
            "lto=fat",
            "--extern",
            &abi_extern,
            "-o",
            text(&runtime),
        ],
    );
    let bytes = fs::read(&runtime).expect("the object that was just written can be read");
    check_object(&bytes);
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the build directory's name is UTF-8")
}

fn compile(source: &Path, arguments: &[&str]) {
    let mut command = Command::new(variable("RUSTC"));
    command
        .args([
            "--edition",
            "2024",
            "--cap-lints",
            "warn",
            "--target",
            "x86_64-unknown-linux-gnu",
        ])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=2",
            "-C",
            "codegen-units=1",
        ])
        .args([
            "-C",
            "force-unwind-tables=yes",
            "-C",
            "relocation-model=pic",
        ])
        .args(["-C", "target-cpu=x86-64", "-C", "overflow-checks=no"])
        .args(arguments)
        .arg(source);
    let status = command
        .status()
        .expect("the compiler that runs this script can be run again");
    assert!(status.success(), "{command:?} failed");
}

fn check_object(bytes: &[u8]) {
    let file = ElfFile64::<object::Endianness>::parse(bytes).expect("rustc writes valid ELF");
    // A panic that the optimizer could not rule out shows up as `engraft_panic_is_possible`.
    let undefined: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.is_undefined())
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| !name.is_empty())
        .collect();
    assert!(
        undefined.is_empty(),
        "the runtime needs symbols that no target has: {undefined:?}"
    );

    let endian = file.endian();
    let header = file.elf_header();
    let sections = header.sections(endian, bytes).expect("valid section table");
    for section in sections.iter() {
        let name = String::from_utf8_lossy(sections.section_name(endian, section).unwrap_or(b"?"));
        let kind = section.sh_type(endian);
        let flags = section.sh_flags(endian);
        assert!(
            !matches!(
                kind,
                elf::SHT_INIT_ARRAY | elf::SHT_FINI_ARRAY | elf::SHT_PREINIT_ARRAY
            ) && !name.starts_with(".ctors"),
            "the runtime has constructors in {name}"
        );
        assert!(
            !flags.contains(elf::SHF_TLS),
            "the runtime has thread-local {name}"
        );
        check_relocations(bytes, endian, section, &name);
    }
}

fn check_relocations(
    bytes: &[u8],
    endian: object::Endianness,
    section: &elf::SectionHeader64<object::Endianness>,
    name: &str,
) {
    let Some((relocations, _)) = section.rela(endian, bytes).expect("valid relocations") else {
        return;
    };
    for relocation in relocations {
        let kind = relocation.r_type(endian, false);
        assert!(
            matches!(
                kind,
                elf::R_X86_64_64
                    | elf::R_X86_64_PC32
                    | elf::R_X86_64_PC64
                    | elf::R_X86_64_PLT32
                    | elf::R_X86_64_GOTPCREL
                    | elf::R_X86_64_GOTPCRELX
                    | elf::R_X86_64_REX_GOTPCRELX
            ),
            "the runtime has a relocation of type {kind} in {name}"
        );
    }
}
