//! Real programs of every kind of linking, read from the memory of their processes.
#![allow(missing_docs)]

mod common;

use std::path::Path;

use common::{ProcessMemory, Running, build_program, find_mapping, run};
use engraft_elf::{
    Identity, Image, ImageErrorKind, SliceMemory, SymbolErrorKind, SymbolFile, SymbolKind,
    SymbolTable, build_id_path,
};

struct Case {
    running: Running,
    image: Image,
    file: SymbolFile,
    _directory: tempfile::TempDir,
}

impl Case {
    fn new(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut all = vec!["-Wl,--build-id"];
        all.extend(flags);
        let program = build_program(directory.path(), &all);
        let running = Running::start(&program);
        let (header, _) = find_mapping(&running.pid, program.to_str().unwrap());
        let memory = ProcessMemory::open(&running.pid);
        let image = Image::from_memory(&memory, header).unwrap();
        let file = SymbolFile::parse(&std::fs::read(&program).unwrap()).unwrap();
        Self {
            running,
            image,
            file,
            _directory: directory,
        }
    }

    fn table(&self) -> SymbolTable {
        SymbolTable::new("program", &self.image, Some(&self.file))
    }
}

fn check_program(flags: &[&str], fixed: bool, dynamic: bool) {
    let case = Case::new(flags);
    let image = &case.image;
    assert_eq!(image.fixed_position, fixed, "{flags:?}");
    assert_eq!(image.bias == 0, fixed);
    assert_eq!(case.file.compare(image), Identity::Same);
    assert!(case.file.complete);
    assert_eq!(image.needed.iter().any(|name| name == "libc.so.6"), dynamic);
    let table = case.table();
    let printed = &case.running.addresses;
    for (name, address) in ["process_item", "shared_value", "first_helper"]
        .iter()
        .zip(printed)
    {
        let symbol = table.resolve(name, 0).unwrap();
        assert_eq!(symbol.address, *address, "{name} {flags:?}");
        assert!(image.contains(symbol.address) && symbol.size > 0);
    }
    let entry = image.entry.unwrap();
    assert_eq!(table.resolve("_start", 0).unwrap().address, entry);
    let process_item = table.resolve("process_item", 0).unwrap();
    let (inside, offset) = table.containing(printed[0] + 1).unwrap();
    assert_eq!((&*inside.name, offset), ("process_item", 1));
    assert!(table.next_symbol_after(printed[0]).unwrap() >= printed[0] + process_item.size);
    assert!(image.segment_at(printed[0]).unwrap().executable);
    assert!(image.segment_at(printed[1]).unwrap().writable);
    let frames = case.file.section_in(".eh_frame", image).unwrap();
    assert!(frames.end - frames.start > 100);
    if let Some(header) = &image.eh_frame_hdr {
        let hdr = case.file.section_in(".eh_frame_hdr", image);
        assert_eq!(hdr.as_ref(), Some(header));
    } else {
        assert!(!dynamic, "only static executables do without");
    }
    check_equal_names(&table);
    check_tls(&case, &table);
}

fn check_equal_names(table: &SymbolTable) {
    let error = table.resolve("helper", 0).unwrap_err();
    let SymbolErrorKind::Ambiguous { candidates } = &error.kind else {
        panic!("{error}");
    };
    let files: Vec<Option<&str>> = candidates
        .iter()
        .map(|c| c.source_file.as_deref())
        .collect();
    assert_eq!(files, [Some("main.c"), Some("other.c")]);
    for candidate in candidates {
        let chosen = table.resolve("helper", candidate.sympos).unwrap();
        assert_eq!(chosen.address, candidate.address);
        assert_eq!(chosen.kind, SymbolKind::Function);
    }
    assert!(error.to_string().contains("from other.c"), "{error}");
    let error = table.resolve("helper", 3).unwrap_err();
    assert!(matches!(
        error.kind,
        SymbolErrorKind::PositionNotFound { position: 3, .. }
    ));
    let error = table.resolve("proces_item", 0).unwrap_err();
    assert!(error.to_string().contains("process_item"), "{error}");
    assert!(!error.to_string().contains("stripped"), "{error}");
}

fn check_tls(case: &Case, table: &SymbolTable) {
    let tls = case.image.tls.unwrap();
    let variable = table.resolve("per_thread", 0).unwrap();
    assert_eq!(variable.kind, SymbolKind::Tls);
    assert!(variable.address + variable.size <= tls.size);
    let memory = ProcessMemory::open(&case.running.pid);
    let mut value = [0; 4];
    engraft_elf::ReadMemory::read(&memory, tls.address + variable.address, &mut value).unwrap();
    assert_eq!(i32::from_le_bytes(value), 3, "the initial value");
    let offset = tls.executable_offset(variable.address);
    assert!(offset < 0 && offset >= -(tls.size.next_multiple_of(tls.alignment) as i64));
}

#[test]
fn position_independent_executable() {
    check_program(&["-pie", "-fPIE"], false, true);
}

#[test]
fn fixed_position_executable() {
    check_program(&["-no-pie", "-fno-pie"], true, true);
}

#[test]
fn static_executable() {
    check_program(&["-static", "-no-pie", "-fno-pie"], true, false);
}

#[test]
fn static_position_independent_executable() {
    check_program(&["-static-pie", "-fPIE"], false, false);
}

#[test]
fn executables_with_only_one_kind_of_hash_table() {
    check_program(&["-Wl,--hash-style=sysv"], false, true);
    check_program(
        &["-Wl,--hash-style=gnu", "-Wl,--export-dynamic"],
        false,
        true,
    );
}

#[test]
fn split_off_parts_belong_to_their_function() {
    let case = Case::new(&[]);
    let table = case.table();
    let process_item = table.resolve("process_item", 0).unwrap();
    let parts = table.cold_parts(process_item);
    assert_eq!(parts.len(), 1, "{parts:?}");
    assert_eq!(&*parts[0].name, "process_item.cold");
    let helper = table.resolve("helper", 1).unwrap();
    assert!(table.cold_parts(helper).is_empty());
}

#[test]
fn imported_functions_are_found_through_relocations() {
    let case = Case::new(&["-Wl,-z,now"]);
    let memory = ProcessMemory::open(&case.running.pid);
    let relocations = case.image.read_relocations(&memory).unwrap();
    let fflush = relocations.iter().find(|relocation| {
        relocation
            .symbol
            .is_some_and(|index| &*case.image.dynamic_symbols[index as usize].name == "fflush")
    });
    let mut slot = [0; 8];
    engraft_elf::ReadMemory::read(&memory, fflush.unwrap().address, &mut slot).unwrap();
    let (libc, path) = find_mapping(&case.running.pid, "libc.so");
    let libc = Image::from_memory(&memory, libc).unwrap();
    let table = SymbolTable::new(&path, &libc, None);
    let defined = table.resolve("fflush", 0).unwrap();
    assert_eq!(u64::from_le_bytes(slot), defined.address);
}

#[test]
fn stripped_programs_and_debug_files() {
    let directory = tempfile::tempdir().unwrap();
    let program = build_program(directory.path(), &["-Wl,--build-id", "-g"]);
    let path = program.to_str().unwrap().to_owned();
    let debug = directory.path().join("program.debug");
    let debug_path = debug.to_str().unwrap().to_owned();
    run("objcopy", &["--only-keep-debug", &path, &debug_path]);
    run("strip", &[&path]);
    run(
        "objcopy",
        &[&format!("--add-gnu-debuglink={debug_path}"), &path],
    );
    let running = Running::start(&program);
    let (header, _) = find_mapping(&running.pid, &path);
    let image = Image::from_memory(&ProcessMemory::open(&running.pid), header).unwrap();
    let stripped = SymbolFile::parse(&std::fs::read(&program).unwrap()).unwrap();
    assert!(!stripped.complete);
    assert_eq!(
        stripped.debug_link.as_ref().unwrap().file_name,
        "program.debug"
    );
    let table = SymbolTable::new("program", &image, Some(&stripped));
    let error = table.resolve("process_item", 0).unwrap_err();
    assert!(error.to_string().contains("stripped"), "{error}");
    let full = SymbolFile::parse(&std::fs::read(&debug).unwrap()).unwrap();
    assert_eq!(full.compare(&image), Identity::Same);
    assert!(full.complete);
    let table = SymbolTable::new("program", &image, Some(&full));
    assert_eq!(
        table.resolve("process_item", 0).unwrap().address,
        running.addresses[0]
    );
    let id = image.build_id.clone().unwrap();
    assert!(build_id_path(&id).to_str().unwrap().ends_with(".debug"));
    let other = Case::new(&["-DOTHER", "-O1"]);
    assert!(matches!(
        full.compare(&other.image),
        Identity::Different { .. }
    ));
}

#[test]
fn a_file_that_was_replaced_is_noticed_by_what_is_mapped() {
    let directory = tempfile::tempdir().unwrap();
    let program = build_program(directory.path(), &["-Wl,--build-id"]);
    let running = Running::start(&program);
    std::fs::remove_file(&program).unwrap();
    build_program(directory.path(), &["-Wl,--build-id", "-O0"]);
    let deleted = format!("{} (deleted)", program.display());
    let (header, _) = find_mapping(&running.pid, &deleted);
    let image = Image::from_memory(&ProcessMemory::open(&running.pid), header).unwrap();
    let file = SymbolFile::parse(&std::fs::read(&program).unwrap()).unwrap();
    assert!(matches!(file.compare(&image), Identity::Different { .. }));
}

#[test]
fn programs_without_build_id() {
    let case = Case::new(&["-Wl,--build-id=none"]);
    assert_eq!(case.image.build_id, None);
    assert_eq!(
        case.file.compare(&case.image),
        Identity::ImageWithoutBuildId
    );
}

#[test]
fn a_cpp_library_with_versions() {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("libshop.so.1");
    let (source, map) = (
        common::fixture("library.cc"),
        common::fixture("versions.map"),
    );
    let script = format!("-Wl,--version-script={}", map.display());
    let build = |extra: &[&str]| {
        let mut arguments = vec!["-O2", "-shared", "-fPIC", "-Wl,-soname,libshop.so.1"];
        arguments.extend(["-Wl,--build-id", &script, "-o", library.to_str().unwrap()]);
        arguments.push(source.to_str().unwrap());
        arguments.extend(extra);
        run("g++", &arguments);
        std::fs::read(&library).unwrap()
    };
    for extra in [&[][..], &["-s"]] {
        let bytes = build(extra);
        let (image, _) = map_file(&bytes);
        assert_eq!(image.soname.as_deref(), Some("libshop.so.1"));
        assert!(
            image
                .needed
                .iter()
                .any(|name| name.starts_with("libstdc++"))
        );
        let file = SymbolFile::parse(&bytes).unwrap();
        assert_eq!(file.compare(&image), Identity::Same);
        for table in [
            SymbolTable::new("libshop.so.1", &image, Some(&file)),
            SymbolTable::new("libshop.so.1", &image, None),
        ] {
            let old = table.resolve("versioned_old", 0).unwrap();
            let new = table.resolve("versioned_new", 0).unwrap();
            let default = table.resolve("versioned", 0).unwrap();
            assert_eq!(default.address, new.address);
            assert_ne!(default.address, old.address);
            assert_eq!(table.lookup("versioned").len(), 1);
            let checkout = table.resolve("_ZN4shop8checkoutERKNS_4CartEi", 0).unwrap();
            assert!(checkout.is_function());
            assert_eq!(table.function_size(checkout, None), Some(checkout.size));
            let weak = table.resolve("_ZNK4shop4Cart5totalEi", 0).unwrap();
            assert_eq!(weak.binding, engraft_elf::Binding::Weak);
        }
        if extra.is_empty() {
            let table = SymbolTable::new("libshop.so.1", &image, Some(&file));
            let old = table.resolve("versioned@SHOP_1", 0).unwrap();
            assert_eq!(
                old.address,
                table.resolve("versioned_old", 0).unwrap().address
            );
        }
    }
}

/// Lays a file out as a loader would, at an address of its own, with link-time addresses in
/// the dynamic section.
fn map_file(bytes: &[u8]) -> (Image, Vec<u8>) {
    const BASE: u64 = 0x7f00_0000_0000;
    let count = u16::from_le_bytes([bytes[56], bytes[57]]) as usize;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let mut memory = vec![0; 1 << 20];
    for index in 0..count {
        let header = 64 + index * 56;
        if bytes[header..header + 4] == [1, 0, 0, 0] {
            let (offset, address, size) = (word(header + 8), word(header + 16), word(header + 32));
            memory[address..address + size].copy_from_slice(&bytes[offset..offset + size]);
        }
    }
    let image = SliceMemory {
        address: BASE,
        bytes: &memory,
    };
    (Image::from_memory(&image, BASE).unwrap(), memory)
}

#[test]
fn this_process_and_its_vdso() {
    let memory = ProcessMemory::open("self");
    let (header, path) = find_mapping("self", "libc.so");
    let libc = Image::from_memory(&memory, header).unwrap();
    assert_eq!(libc.soname.as_deref(), Some("libc.so.6"));
    let file = SymbolFile::parse(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(file.compare(&libc), Identity::Same);
    let table = SymbolTable::new("libc.so.6", &libc, Some(&file));
    let getpid = table.resolve("getpid", 0).unwrap();
    assert_eq!(getpid.address, libc::getpid as *const () as u64);
    assert_eq!(table.resolve("memcpy", 0).unwrap().kind, SymbolKind::Ifunc);
    assert!(table.lookup("getpidd").is_empty());
    let (vdso, _) = find_mapping("self", "[vdso]");
    let vdso = Image::from_memory(&memory, vdso).unwrap();
    let table = SymbolTable::new("vdso", &vdso, None);
    let symbol = table.resolve("__vdso_clock_gettime", 0).unwrap();
    assert!(vdso.contains(symbol.address));
}

#[test]
fn refuses_what_is_not_a_64_bit_program() {
    let own = std::fs::read("/proc/self/exe").unwrap();
    let kind = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = own[..1 << 16].to_vec();
        change(&mut bytes);
        let memory = SliceMemory {
            address: 0x1000,
            bytes: &bytes,
        };
        Image::from_memory(&memory, 0x1000).unwrap_err().kind
    };
    assert_eq!(kind(&|bytes| bytes[0] = 0), ImageErrorKind::NotElf);
    assert_eq!(kind(&|bytes| bytes[4] = 1), ImageErrorKind::ThirtyTwoBit);
    assert_eq!(
        kind(&|bytes| bytes[18] = 183),
        ImageErrorKind::ForeignMachine(183)
    );
    assert_eq!(kind(&|bytes| bytes[16] = 1), ImageErrorKind::NotLoadable(1));
    assert!(matches!(
        kind(&|bytes| bytes.truncate(70)),
        ImageErrorKind::Unreadable(_)
    ));
    assert!(SymbolFile::parse(b"\x7fELF\x01").is_err());
    assert!(SymbolFile::parse(Path::new("x").as_os_str().as_encoded_bytes()).is_err());
}

/// xorshift64.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}

#[test]
fn damaged_images_and_files_never_panic() {
    let seed: u64 = std::env::var("ENGRAFT_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    println!("ENGRAFT_SEED={seed}");
    let mut state = seed;
    let directory = tempfile::tempdir().unwrap();
    let program = build_program(directory.path(), &["-Wl,--build-id", "-Wl,-E"]);
    let file = std::fs::read(program).unwrap();
    let (_, mut memory) = map_file(&file);
    memory.truncate(0x6000);
    let (mut good, mut bad) = (0, 0);
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 {
            memory.clone()
        } else {
            file.clone()
        };
        for _ in 0..=next(&mut state) % 4 {
            // Headers and tables lie in front in memory and at the end of the file.
            let limit = if next(&mut state).is_multiple_of(2) {
                0x800
            } else {
                bytes.len()
            };
            let position = next(&mut state) % limit;
            let values = [0, 0xff, bytes[position] ^ 1, next(&mut state) as u8];
            bytes[position] = values[next(&mut state) % 4];
        }
        let outcome = if round % 2 == 0 {
            let memory = SliceMemory {
                address: 0x10_0000,
                bytes: &bytes,
            };
            Image::from_memory(&memory, 0x10_0000)
                .map(|image| {
                    let _ = image.read_relocations(&memory);
                    let table = SymbolTable::new("damaged", &image, None);
                    let _ = table.resolve("process_item", 0);
                    let _ = table.containing(0x10_1234);
                })
                .is_ok()
        } else {
            let cut = if next(&mut state).is_multiple_of(8) {
                next(&mut state) % bytes.len()
            } else {
                bytes.len()
            };
            SymbolFile::parse(&bytes[..cut]).is_ok()
        };
        if outcome { good += 1 } else { bad += 1 }
    }
    assert!(good > 1000 && bad > 500, "{good} {bad}, seed {seed}");
}
