//! Symbols of libraries that the dynamic linker has mapped, found with nothing but the runtime's
//! own means, compared with what `dlsym` and the files themselves say.

#[allow(dead_code)] // a part of it is used here
#[path = "../target/syscall.rs"]
mod syscall;

#[path = "../target/arrival/exported.rs"]
mod exported;
#[path = "../target/arrival/link_map.rs"]
mod link_map;
#[allow(dead_code)] // a part of it is used here
#[path = "../target/arrival/mapped.rs"]
mod mapped;
#[path = "../target/arrival/symbol_file.rs"]
mod symbol_file;
#[allow(dead_code)] // a part of it is used here
#[path = "../target/arrival/symbols.rs"]
mod symbols;
#[path = "../target/arrival/table.rs"]
mod table;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use link_map::{LinkMap, RDebug, is_called, objects};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _, SymbolKind};
use symbols::{Missing, Place, Symbols};

/// A directory for one test's files.
fn directory(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("arrival-{test}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

/// Compiles each source on its own and links them, in this order.
fn build(output: &Path, sources: &[&str], flags: &[&str]) {
    let parts: Vec<PathBuf> = (0..sources.len())
        .map(|number| output.with_extension(format!("{number}.c")))
        .collect();
    for (part, source) in parts.iter().zip(sources) {
        fs::write(part, source).unwrap();
    }
    let mut command = Command::new("gcc");
    command.args(["-shared", "-fPIC", "-O1", "-Wl,-z,now", "-o"]);
    run(command.arg(output).args(&parts).args(flags));
}

/// A library that this process has loaded.
struct Loaded {
    handle: *mut libc::c_void,
    path: PathBuf,
}

impl Loaded {
    fn open(path: &Path) -> Self {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the libraries of these tests have no constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{}", path.display());
        Self {
            handle,
            path: path.to_owned(),
        }
    }

    fn build(directory: &Path, sources: &[&str], flags: &[&str]) -> Self {
        let path = directory.join("libsample.so");
        build(&path, sources, flags);
        Self::open(&path)
    }

    fn map(&self) -> &LinkMap {
        let mut map: *const LinkMap = std::ptr::null();
        // SAFETY: the handle is open; a pointer is written.
        let done = unsafe {
            libc::dlinfo(
                self.handle,
                libc::RTLD_DI_LINKMAP,
                (&raw mut map).cast::<libc::c_void>(),
            )
        };
        assert_eq!(done, 0);
        // SAFETY: the map lives as long as the handle is open.
        unsafe { &*map }
    }

    fn symbols(&self) -> Symbols {
        // SAFETY: the library stays loaded while `self` lives, which tests keep longer.
        unsafe { Symbols::open(self.map()) }.unwrap()
    }

    fn dlsym(&self, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        // SAFETY: the handle is open.
        unsafe { libc::dlsym(self.handle, name.as_ptr()) as u64 }
    }

    fn parse<R>(&self, look: impl FnOnce(&ElfFile64<'_>) -> R) -> R {
        let bytes = fs::read(&self.path).unwrap();
        look(&ElfFile64::parse(&*bytes).unwrap())
    }

    /// Puts something else where the file was, which stays mapped.
    fn replace(&self, contents: &[u8]) {
        let other = self.path.with_extension("new");
        fs::write(&other, contents).unwrap();
        fs::rename(&other, &self.path).unwrap();
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: nothing of the library is used any more.
        unsafe { libc::dlclose(self.handle) };
    }
}

fn function(symbols: &Symbols, name: &str, position: u64) -> Result<Place, Missing> {
    let name = CString::new(name).unwrap();
    // SAFETY: a C string.
    unsafe { symbols.find_function(name.as_ptr().cast(), position) }
}

fn any(symbols: &Symbols, name: &str, position: u64) -> Result<Place, Missing> {
    let name = CString::new(name).unwrap();
    // SAFETY: a C string.
    unsafe { symbols.find(name.as_ptr().cast(), position) }
}

/// All definitions by name: those of the file in order, then exported ones that are not there.
fn definitions(loaded: &Loaded) -> BTreeMap<String, Vec<(Place, bool)>> {
    let bias = loaded.map().l_addr;
    let mut found: BTreeMap<String, Vec<(Place, bool)>> = BTreeMap::new();
    loaded.parse(|file| {
        for (symbol, is_local_table) in (file.symbols().map(|symbol| (symbol, true)))
            .chain(file.dynamic_symbols().map(|symbol| (symbol, false)))
        {
            let meant = !matches!(symbol.kind(), SymbolKind::File | SymbolKind::Section);
            let name = symbol.name().unwrap();
            if symbol.is_undefined() || !meant || name.is_empty() {
                continue;
            }
            let place = Place {
                address: symbol.address() + bias,
                size: symbol.size(),
            };
            let is_function = symbol.kind() == SymbolKind::Text;
            let list = found.entry(name.to_owned()).or_default();
            let known = list.iter().any(|known| known.0.address == place.address);
            if is_local_table || !known {
                list.push((place, is_function));
            }
        }
    });
    found
}

/// Compares every symbol of a library at every position, and what is exported with `dlsym`.
fn compare_all(loaded: &Loaded) -> usize {
    let symbols = loaded.symbols();
    let all = definitions(loaded);
    for (name, list) in &all {
        let unique = list
            .iter()
            .all(|entry| entry.0.address == list[0].0.address);
        let expected = match unique {
            true => Ok(list[0].0),
            false => Err(Missing::Ambiguous),
        };
        assert_eq!(any(&symbols, name, 0), expected, "{name}");
        for (index, (place, is_function)) in list.iter().enumerate() {
            let position = index as u64 + 1;
            assert_eq!(any(&symbols, name, position), Ok(*place), "{name}");
            if *is_function && place.size > 0 {
                assert_eq!(function(&symbols, name, position), Ok(*place), "{name}");
            }
        }
        let beyond = list.len() as u64 + 1;
        assert_eq!(any(&symbols, name, beyond), Err(Missing::PositionNotFound));
    }
    loaded.parse(|file| {
        for symbol in file
            .dynamic_symbols()
            .filter(|symbol| symbol.is_definition())
        {
            let name = symbol.name().unwrap();
            let address = loaded.dlsym(name);
            assert_ne!(address, 0, "{name}");
            let places = all[name].iter();
            assert!(
                places.clone().any(|place| place.0.address == address),
                "{name}"
            );
        }
    });
    assert_eq!(any(&symbols, "no_such_name", 0), Err(Missing::NotFound));
    assert_eq!(any(&symbols, "", 0), Err(Missing::NotFound));
    all.len()
}

const FIRST: &str = "static __attribute__((noinline)) int helper(int a) { return a + 1; }\n\
    static __attribute__((noinline)) int only_first(int a) { return a * 3; }\n\
    int exported_first(int a) { return helper(a) + only_first(a); }\n\
    int counter = 7; static int quiet = 9; int *quiet_at(void) { return &quiet; }\n\
    __attribute__((weak)) int weak_one(int a) { return a - 4; }\n\
    int renamed(int a) __attribute__((alias(\"exported_first\")));\n";
const SECOND: &str = "static __attribute__((noinline)) int helper(int a) { return a + 2; }\n\
    static int quiet = 10; int *quiet_too(void) { return &quiet; }\n\
    int exported_second(int a) { return helper(a); }\n";

#[test]
fn local_functions_of_one_name_count_in_the_order_of_the_file() {
    let loaded = Loaded::build(&directory("positions"), &[FIRST, SECOND], &[]);
    assert!(compare_all(&loaded) > 10);
    let symbols = loaded.symbols();
    assert!(symbols.is_complete());
    assert!(!symbols.relocates_text());
    let (one, two) = (
        function(&symbols, "helper", 1),
        function(&symbols, "helper", 2),
    );
    assert_eq!(function(&symbols, "helper", 0), Err(Missing::Ambiguous));
    assert_eq!(
        function(&symbols, "helper", 3),
        Err(Missing::PositionNotFound)
    );
    assert_eq!(
        function(&symbols, "helper", u64::MAX),
        Err(Missing::PositionNotFound)
    );
    let call = |place: Result<Place, Missing>| {
        // SAFETY: both are functions of the library with this type.
        let helper: extern "C" fn(i32) -> i32 =
            unsafe { std::mem::transmute(place.unwrap().address) };
        helper(40)
    };
    assert_eq!((call(one), call(two)), (41, 42));
    assert_eq!(any(&symbols, "quiet", 0), Err(Missing::Ambiguous));
    assert_eq!(
        any(&symbols, "counter", 0).unwrap().address,
        loaded.dlsym("counter")
    );
    assert_eq!(function(&symbols, "counter", 0), Err(Missing::NotCode));
    let alias = function(&symbols, "renamed", 0).unwrap();
    assert_eq!(function(&symbols, "exported_first", 0), Ok(alias));
}

#[test]
fn a_stripped_library_has_what_it_exports() {
    let loaded = Loaded::build(&directory("stripped"), &[FIRST, SECOND], &["-s"]);
    compare_all(&loaded);
    let symbols = loaded.symbols();
    assert!(!symbols.is_complete());
    assert_eq!(function(&symbols, "helper", 1), Err(Missing::NotFound));
    for name in ["exported_first", "exported_second", "weak_one", "renamed"] {
        let address = function(&symbols, name, 0).unwrap().address;
        assert_eq!(address, loaded.dlsym(name));
    }
}

#[test]
fn either_hash_table_says_how_many_symbols_there_are() {
    for style in ["sysv", "gnu", "both"] {
        let flag = format!("-Wl,--hash-style={style}");
        let loaded = Loaded::build(&directory(style), &[FIRST, SECOND], &[&flag, "-s"]);
        assert!(compare_all(&loaded) > 6);
    }
    // Nothing is exported at all.
    let source = "static int hidden(int a) { return a; } static void *keep = hidden;\n\
        __attribute__((visibility(\"hidden\"))) void *use(void) { return keep; }\n";
    let flags = ["-Wl,--hash-style=gnu", "-nostdlib"];
    let loaded = Loaded::build(&directory("nothing"), &[source], &flags);
    assert!(function(&loaded.symbols(), "hidden", 0).is_ok());
}

#[test]
fn many_symbols_and_long_names_are_found() {
    let long = |number: usize| format!("{}{number}", "very_long_name_".repeat(300));
    let mut source: String = (0..12_000)
        .map(|number| {
            let linkage = if number % 2 == 0 { "" } else { "static " };
            let keep = "__attribute__((used))";
            format!("{keep} {linkage}int function_{number}(void) {{ return {number}; }}\n")
        })
        .collect();
    for number in 0..3 {
        source += &format!("int {}(void) {{ return {number}; }}\n", long(number));
    }
    let loaded = Loaded::build(&directory("many"), &[&source], &["-O0"]);
    let symbols = loaded.symbols();
    let all = definitions(&loaded);
    assert!(all.len() > 12_000);
    for (name, list) in all
        .iter()
        .step_by(97)
        .chain(all.iter().filter(|(name, _)| name.len() > 99))
    {
        let found = any(&symbols, name, 0);
        assert!(found == Ok(list[0].0) || list.len() > 1, "{name}");
    }
    let place = function(&symbols, &long(1), 0).unwrap();
    assert_eq!(place.address, loaded.dlsym(&long(1)));
    let cut = &long(1)[..4000];
    assert_eq!(function(&symbols, cut, 0), Err(Missing::NotFound));
}

#[test]
fn what_is_no_plain_function_is_told_apart() {
    let source = "static int one(void) { return 1; } static void *pick(void) { return one; }\n\
        int chosen(void) __attribute__((ifunc(\"pick\")));\n\
        __thread int each = 3; int *each_at(void) { return &each; }\n\
        asm(\".text\\n.globl bare\\nbare: nop\\nnop\\nret\\n\");\n\
        asm(\".globl fixed\\n.set fixed, 0x1234\\n\");\n\
        asm(\".text\\n.type both, @object\\n.size both, 1\\nboth: .byte 0xc3\\n\");\n";
    let label = "asm(\".text\\nboth: nop\\n\");\n";
    let loaded = Loaded::build(&directory("kinds"), &[source, label], &[]);
    let symbols = loaded.symbols();
    assert_eq!(function(&symbols, "chosen", 0), Err(Missing::Ifunc));
    assert_eq!(any(&symbols, "chosen", 0), Err(Missing::Ifunc));
    assert_eq!(any(&symbols, "each", 0), Err(Missing::ThreadLocal));
    assert_eq!(function(&symbols, "each", 0), Err(Missing::NotCode));
    assert_eq!(function(&symbols, "bare", 0), Err(Missing::NoSize));
    assert_eq!(
        any(&symbols, "bare", 0).unwrap().address,
        loaded.dlsym("bare")
    );
    assert_eq!(any(&symbols, "fixed", 0).unwrap().address, 0x1234);
    assert_eq!(function(&symbols, "fixed", 0), Err(Missing::NotCode));
    // A typed symbol hides the label of the same name.
    assert_eq!(any(&symbols, "both", 0).unwrap().size, 1);
    assert_eq!(any(&symbols, "both", 2), Err(Missing::PositionNotFound));
}

#[test]
fn default_versions_hide_others() {
    let directory = directory("versions");
    let script = directory.join("versions.map");
    fs::write(&script, "V1 { global: grow; };\nV2 { global: grow; } V1;\n").unwrap();
    let source = "int old_grow(int a) { return a; } int new_grow(int a) { return a + 1; }\n\
        asm(\".symver old_grow, grow@V1\\n.symver new_grow, grow@@V2\\n\");\n";
    let flag = format!("-Wl,--version-script={}", script.display());
    for strip in ["-g", "-s"] {
        let loaded = Loaded::build(&directory, &[source], &[&flag, strip]);
        let symbols = loaded.symbols();
        let newest = function(&symbols, "grow", 0).unwrap();
        assert_eq!(newest.address, loaded.dlsym("grow"));
        let old = function(&symbols, "grow@V1", 0);
        match symbols.is_complete() {
            true => assert_ne!(old.unwrap().address, newest.address),
            false => assert_eq!(old, Err(Missing::NotFound)),
        }
        assert_eq!(
            function(&symbols, "grow", 2),
            Err(Missing::PositionNotFound)
        );
        assert_eq!(function(&symbols, "grow@V3", 0), Err(Missing::NotFound));
    }
}

#[test]
fn padding_ends_where_a_symbol_starts() {
    let loaded = Loaded::build(&directory("padding"), &[FIRST, SECOND], &[]);
    let symbols = loaded.symbols();
    let bias = loaded.map().l_addr;
    let mut starts: Vec<u64> = definitions(&loaded)
        .values()
        .flatten()
        .map(|(place, _)| place.address)
        .collect();
    starts.sort_unstable();
    for name in ["helper", "only_first", "exported_first", "weak_one"] {
        let place = function(&symbols, name, 1).unwrap();
        let next = symbols.next_after(place.address + place.size - 1);
        let expected = starts
            .iter()
            .find(|start| **start >= place.address + place.size);
        assert_eq!(Some(&next), expected, "{name}");
    }
    assert_eq!(symbols.next_after(bias - 1), bias - 1);
}

#[test]
fn link_time_addresses_in_the_dynamic_section_are_understood() {
    let flags = ["-Wl,-z,norelro", "-Wl,--hash-style=both"];
    let loaded = Loaded::build(&directory("musl"), &[FIRST, SECOND], &flags);
    let map = loaded.map();
    let before = (loaded.symbols(), loaded.dlsym("counter"));
    let entries = map.l_ld as *mut [u64; 2];
    let mut changed = Vec::new();
    for index in 0.. {
        // SAFETY: up to DT_NULL, the dynamic section is there; it is writable, and nobody else
        // uses this library meanwhile.
        unsafe {
            let entry = entries.add(index);
            match (*entry)[0] {
                0 => break,
                4 | 5 | 6 | 0x6fff_fef5 | 0x6fff_fff0 if (*entry)[1] >= map.l_addr => {
                    (*entry)[1] -= map.l_addr;
                    changed.push(entry);
                }
                _ => {}
            }
        }
    }
    assert!(changed.len() >= 4);
    // SAFETY: the library is loaded.
    let after = unsafe { Symbols::open_exported(map) };
    for entry in changed {
        // SAFETY: as above; back to what the C library expects.
        unsafe { (*entry)[1] += map.l_addr };
    }
    let after = after.unwrap();
    assert!(!after.is_complete());
    assert_eq!(any(&after, "counter", 0).unwrap().address, before.1);
    assert_eq!(any(&after, "renamed", 0), any(&before.0, "renamed", 0));
}

#[test]
fn patches_call_an_object_as_the_tool_does() {
    let loaded = Loaded::build(
        &directory("names"),
        &[FIRST],
        &["-Wl,-soname,libother-thing.so.4"],
    );
    let symbols = loaded.symbols();
    // SAFETY: the soname is a C string in the library.
    let soname = unsafe { CStr::from_ptr(symbols.soname().cast()) };
    assert_eq!(soname, c"libother-thing.so.4");
    let called = |wanted: &CStr| {
        // SAFETY: C strings.
        unsafe {
            is_called(
                loaded.map().l_name,
                symbols.soname(),
                wanted.as_ptr().cast(),
            )
        }
    };
    for name in [
        c"libsample.so",
        c"libsample",
        c"libsample.so.9",
        c"libother-thing.so.4",
        c"libother-thing",
        c"libother_thing",
        c"libother_thing.so.5",
    ] {
        assert!(called(name), "{name:?}");
    }
    for name in [
        c"",
        c".so",
        c"sample",
        c"libsample.",
        c"libother",
        c"libother-thing4",
        c"names",
    ] {
        assert!(!called(name), "{name:?}");
    }
    let plain = Loaded::build(&directory("no-soname"), &[SECOND], &[]);
    assert!(plain.symbols().soname().is_null());
    let null = std::ptr::null();
    // SAFETY: C strings or null.
    unsafe {
        assert!(is_called(
            c"a-b.so".as_ptr().cast(),
            null,
            c"a_b".as_ptr().cast()
        ));
        assert!(is_called(
            c"/x/a.so/b".as_ptr().cast(),
            null,
            c"b".as_ptr().cast()
        ));
        assert!(!is_called(
            c"/x/a.so/b".as_ptr().cast(),
            null,
            c"a".as_ptr().cast()
        ));
        assert!(!is_called(null, null, null));
    }
}

/// Walks the list while the C library keeps it as it is; `wanted` is a [`LinkMap`] of it.
unsafe extern "C" fn walk(
    _: *mut libc::dl_phdr_info,
    _: usize,
    wanted: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library exports it.
    let debug = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_r_debug".as_ptr()) } as *const RDebug;
    assert!(!debug.is_null());
    // SAFETY: as above; nothing is loaded or unloaded during the call.
    let all = unsafe { objects((*debug).r_map) };
    let found = all.filter(|map| std::ptr::eq(*map, wanted.cast())).count();
    // SAFETY: the map is one that is loaded, and so are those before it.
    let back = std::iter::successors(unsafe { wanted.cast::<LinkMap>().as_ref() }, |map| unsafe {
        map.l_prev.as_ref()
    });
    // SAFETY: as above.
    let first = unsafe { (*debug).r_map };
    i32::from(found == 1 && back.last().is_some_and(|map| std::ptr::eq(map, first)))
}

#[test]
fn the_list_of_objects_can_be_walked() {
    let loaded = Loaded::build(&directory("list"), &[FIRST], &[]);
    let wanted = std::ptr::from_ref(loaded.map()).cast_mut().cast();
    // SAFETY: the function takes such a map.
    assert_eq!(unsafe { libc::dl_iterate_phdr(Some(walk), wanted) }, 1);
}

/// The bytes of a file with a 64-bit word replaced.
fn with_word(bytes: &[u8], at: usize, word: u64) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[at..at + 8].copy_from_slice(&word.to_le_bytes());
    changed
}

/// What is exported must be found, whatever the file says.
fn check_exported(loaded: &Loaded) -> Symbols {
    let symbols = loaded.symbols();
    let address = function(&symbols, "exported_first", 0).map(|place| place.address);
    assert_eq!(address, Ok(loaded.dlsym("exported_first")));
    symbols
}

#[test]
fn a_file_that_is_cut_off_or_damaged_is_not_believed() {
    let loaded = Loaded::build(&directory("damaged"), &[FIRST, SECOND], &["-Wl,--build-id"]);
    let bytes = fs::read(&loaded.path).unwrap();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let sections = word(0x28) as usize;
    for length in (0..bytes.len()).step_by(211) {
        loaded.replace(&bytes[..length]);
        check_exported(&loaded);
    }
    loaded.replace(&bytes);
    assert!(check_exported(&loaded).is_complete());
    // Every word of the section headers and of the notes in turn.
    for at in (sections..bytes.len() - 8)
        .step_by(8)
        .chain((0..0x400).step_by(8))
    {
        for value in [0, 1, u64::MAX, 1 << 63, bytes.len() as u64, 0xffff_ffff] {
            loaded.replace(&with_word(&bytes, at, value));
            check_exported(&loaded);
        }
    }
    loaded.replace(&with_word(&bytes, 0x28, 1));
    assert!(!check_exported(&loaded).is_complete());
}

#[test]
fn names_outside_the_strings_make_the_table_worthless() {
    let loaded = Loaded::build(&directory("strings"), &[FIRST, SECOND], &[]);
    let bytes = fs::read(&loaded.path).unwrap();
    let at = loaded.parse(|file| {
        let table = object::ObjectSection::file_range(&file.section_by_name(".symtab").unwrap());
        table.unwrap().0 as usize
    });
    let first = with_word(&bytes, at + 24 * 3, 0x0000_0001_ffff_fff0);
    loaded.replace(&first);
    assert!(!check_exported(&loaded).is_complete());
}

#[test]
fn another_file_at_the_same_path_is_not_the_object() {
    let other = FIRST.replace("a + 1", "a + 5");
    for identity in ["-Wl,--build-id=sha1", "-Wl,--build-id=none"] {
        let directory = directory(&format!("replaced{}", identity.len()));
        let loaded = Loaded::build(&directory, &[FIRST, SECOND], &[identity]);
        assert!(check_exported(&loaded).is_complete());
        let second = directory.join("other.so");
        build(&second, &[&other, SECOND], &[identity]);
        fs::rename(&second, &loaded.path).unwrap();
        assert!(!check_exported(&loaded).is_complete());
        fs::remove_file(&loaded.path).unwrap();
        assert!(!check_exported(&loaded).is_complete());
        // Nobody will ever write into the pipe.
        run(Command::new("mkfifo").arg(&loaded.path));
        assert!(!check_exported(&loaded).is_complete());
        fs::remove_file(&loaded.path).unwrap();
    }
}

#[test]
fn nothing_stays_open_or_mapped() {
    let loaded = Loaded::build(&directory("left"), &[FIRST, SECOND], &[]);
    let symbols = loaded.symbols();
    let open = fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
        let target = fs::read_link(entry.as_ref().unwrap().path());
        target.is_ok_and(|target| target == loaded.path)
    });
    assert_eq!(open.count(), 0);
    drop(symbols);
    let size = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = size();
    for _ in 0..20_000 {
        assert!(loaded.symbols().is_complete());
    }
    // Other tests use memory, too, but 20,000 tables of two pages each are more.
    assert!(size() < before + 30_000);
}

#[test]
fn every_library_of_this_process_is_read() {
    // SAFETY: the C library and the dynamic linker themselves are never unloaded.
    let handle = unsafe { libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_NOW) };
    // SAFETY: with the GNU C library, a handle is the link map.
    let map = unsafe { &*handle.cast::<LinkMap>() };
    // SAFETY: the C library stays loaded.
    let symbols = unsafe { Symbols::open(map) }.unwrap();
    for name in ["malloc", "dlopen", "qsort", "getaddrinfo"] {
        // SAFETY: a handle and a C string.
        let address = unsafe {
            let name = CString::new(name).unwrap();
            libc::dlsym(handle, name.as_ptr()) as u64
        };
        assert_eq!(
            function(&symbols, name, 0).map(|place| place.address),
            Ok(address)
        );
    }
    assert_eq!(function(&symbols, "memcpy", 0), Err(Missing::Ifunc));
    // SAFETY: no object is there.
    unsafe {
        let nowhere = LinkMap {
            l_addr: 0x1000,
            l_name: c"".as_ptr().cast(),
            l_ld: 0x2000,
            l_next: std::ptr::null(),
            l_prev: std::ptr::null(),
        };
        assert!(Symbols::open(&nowhere).is_none());
    }
}
