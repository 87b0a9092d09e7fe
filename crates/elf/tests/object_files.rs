//! What a file on disk is: a program or a library, and of which build.
#![allow(missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use common::run;
use engraft_elf::{FileErrorKind, ObjectFile, ObjectKind};

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        std::fs::write(bench.path("main.c"), "int main(void) { return 0; }\n").unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn link(&self, name: &str, flags: &[&str]) -> PathBuf {
        let (output, source) = (self.path(name), self.path("main.c"));
        let mut arguments = vec!["-g", "-o", output.to_str().unwrap()];
        arguments.push(source.to_str().unwrap());
        arguments.extend(flags);
        run("gcc", &arguments);
        output
    }
}

fn parse(path: &Path) -> ObjectFile {
    ObjectFile::parse(&std::fs::read(path).unwrap()).unwrap()
}

fn build_id(byte: &str) -> String {
    format!("-Wl,--build-id=0x{}", byte.repeat(4))
}

#[test]
fn programs_of_every_kind_of_linking() {
    let bench = Bench::new();
    for flags in [
        &["-pie"][..],
        &["-no-pie"],
        &["-static"],
        &["-static-pie"],
        &["-pie", "-Wl,--export-dynamic"],
    ] {
        let id = build_id("5a");
        let program = bench.link("program", &[flags, &[&id]].concat());
        let file = parse(&program);
        assert_eq!(file.kind, ObjectKind::Executable, "{flags:?}");
        assert_eq!(file.build_id.unwrap().to_string(), "5a5a5a5a", "{flags:?}");
    }
}

#[test]
fn libraries_with_and_without_a_soname() {
    let bench = Bench::new();
    let library = bench.link(
        "liba.so",
        &["-shared", &build_id("ab"), "-Wl,-soname,liba.so.7"],
    );
    let file = parse(&library);
    let soname = Some("liba.so.7".to_owned());
    assert_eq!(file.kind, ObjectKind::Library { soname });
    assert_eq!(file.build_id.unwrap().to_string(), "abababab");
    let plugin = bench.link("plugin.so", &["-shared", "-Wl,--build-id=none"]);
    let file = parse(&plugin);
    assert_eq!(file.kind, ObjectKind::Library { soname: None });
    assert_eq!(file.build_id, None);
    // The C library has an interpreter, too: it can be run.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps
        .lines()
        .find(|line| line.ends_with("/libc.so.6"))
        .unwrap();
    let libc = &libc[libc.find('/').unwrap()..];
    let soname = Some("libc.so.6".to_owned());
    assert_eq!(parse(Path::new(libc)).kind, ObjectKind::Library { soname });
}

#[test]
fn without_section_headers() {
    let bench = Bench::new();
    let library = bench.link(
        "liba.so",
        &["-shared", &build_id("cd"), "-Wl,-soname,liba.so.7"],
    );
    let whole = std::fs::read(&library).unwrap();
    let mut bytes = whole.clone();
    bytes[40..48].fill(0); // e_shoff
    bytes[60..64].fill(0); // e_shnum, e_shstrndx
    let file = ObjectFile::parse(&bytes).unwrap();
    assert_eq!(file, ObjectFile::parse(&whole).unwrap());
    assert_eq!(file.build_id.unwrap().to_string(), "cdcdcdcd");
}

#[test]
fn what_is_no_loadable_object_is_refused() {
    let bench = Bench::new();
    let program = bench.link("program", &["-pie"]);
    let [program, debug] = [program, bench.path("program.debug")];
    let [from, to] = [program.to_str().unwrap(), debug.to_str().unwrap()];
    run("objcopy", &["--only-keep-debug", from, to]);
    let refused = |path: &Path| {
        ObjectFile::parse(&std::fs::read(path).unwrap())
            .unwrap_err()
            .kind
    };
    assert_eq!(refused(&debug), FileErrorKind::DebugFile);
    let object = bench.link("main.o", &["-c"]);
    assert_eq!(refused(&object), FileErrorKind::NotLoadable(1));
    assert_eq!(refused(&bench.path("main.c")), FileErrorKind::NotElf);
}

#[test]
fn every_prefix_is_refused_or_read() {
    let bench = Bench::new();
    let program = bench.link("program", &["-pie"]);
    let bytes = std::fs::read(&program).unwrap();
    let whole = ObjectFile::parse(&bytes).unwrap();
    let mut refused = 0;
    for length in 0..bytes.len() {
        match ObjectFile::parse(&bytes[..length]) {
            Ok(file) => assert_eq!(file, whole, "{length}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 64, "{refused}");
}
