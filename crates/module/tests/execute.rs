//! Modules compiled by a real compiler, linked into this process, and run.
#![allow(missing_docs)]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use common::{Loaded, Names, build, build_text, build_with};
use engraft_module::{FaultKind, LinkErrorKind, Resolved, TlsIndex};

static OUTSIDE_VALUE: AtomicI32 = AtomicI32::new(0);
/// Tests share the variable.
static TURN: Mutex<()> = Mutex::new(());

extern "C" fn outside_add(a: i32, b: i32) -> i32 {
    a + b
}

extern "C" fn outside_pointer() -> *mut i32 {
    OUTSIDE_VALUE.as_ptr()
}

fn surroundings() -> Names {
    Names::of([
        (
            "outside_add",
            Resolved::Address(outside_add as *const () as u64),
        ),
        (
            "outside_pointer",
            Resolved::Address(outside_pointer as *const () as u64),
        ),
        (
            "outside_value",
            Resolved::Address(OUTSIDE_VALUE.as_ptr() as u64),
        ),
    ])
}

fn exercise(loaded: &Loaded) {
    // SAFETY: the types are those of tests/fixtures/calls.c.
    unsafe {
        let unary = |name| loaded.function::<extern "C" fn(i32) -> i32>(name);
        let nullary = |name| loaded.function::<extern "C" fn() -> i32>(name);
        assert_eq!(nullary("count")(), 43);
        assert_eq!(nullary("count")(), 46);
        assert_eq!(unary("call_outside")(4), 4 + 5 + 1);
        assert_eq!(unary("tail_call_outside")(4), 1004);
        OUTSIDE_VALUE.store(77, Ordering::SeqCst);
        assert_eq!(nullary("read_outside")(), 77);
        assert_eq!(unary("write_outside")(5), 6);
        assert_eq!(OUTSIDE_VALUE.load(Ordering::SeqCst), 6);
        assert_eq!(unary("call_indirect")(1), 8);
        assert_eq!(nullary("call_weak")(), -1);
        let address = loaded.function::<extern "C" fn() -> u64>("address_of_outside")();
        assert_eq!(address, outside_add as *const () as u64);
        let word = loaded.function::<extern "C" fn(i32) -> *const libc::c_char>("word");
        assert_eq!(std::ffi::CStr::from_ptr(word(2)).to_str(), Ok("two"));
        let classify = unary("classify");
        let results: Vec<i32> = (0..8).map(|code| classify(code)).collect();
        assert_eq!(results, [17, 6, 19, 49, 23, 29, 34, -1]);
    }
}

#[test]
fn runs_far_from_what_it_calls() {
    let _turn = TURN.lock().unwrap();
    for flags in [
        &[][..],
        &["-O0"],
        &["-fno-plt"],
        &["-fcf-protection=full"],
        &["-Os"],
    ] {
        let module = build("calls.c", flags);
        let loaded = Loaded::load(&module, 0, &surroundings()).unwrap();
        let distance = loaded
            .linked
            .placement
            .text
            .abs_diff(outside_add as *const () as u64);
        assert!(distance > 1 << 31, "the mapping happens to be near");
        assert_eq!(loaded.linked.relocations, module.relocations.len());
        assert!(loaded.linked.absent.is_empty() && loaded.linked.ifuncs.is_empty());
        exercise(&loaded);
    }
}

#[test]
fn runs_near_what_it_calls_even_without_pic() {
    let _turn = TURN.lock().unwrap();
    for flags in [&[][..], &["-fPIE"], &["-fPIE", "-fvisibility=hidden"]] {
        let module = build("calls.c", flags);
        let loaded =
            Loaded::load(&module, outside_add as *const () as usize, &surroundings()).unwrap();
        exercise(&loaded);
    }
}

#[test]
fn takes_addresses_that_are_out_of_reach() {
    let text =
        "extern int outside_value;\nint *address_of_value(void) { return &outside_value; }\n";
    let module = build_text(text, "c", &["-fPIE"]).unwrap();
    assert!(module.relocations.iter().any(|place| place.address_only));
    let near = OUTSIDE_VALUE.as_ptr() as usize;
    for (hint, is_near) in [(0, false), (near, true)] {
        let loaded = Loaded::load(&module, hint, &surroundings()).unwrap();
        let distance = loaded.linked.placement.text.abs_diff(near as u64);
        assert_eq!(distance < 1 << 31, is_near);
        // SAFETY: the type is that of the text above.
        let address = unsafe { loaded.function::<extern "C" fn() -> u64>("address_of_value")() };
        assert_eq!(address, near as u64);
    }
}

#[test]
fn refuses_data_out_of_reach() {
    let module = build("calls.c", &["-fPIE"]);
    let error = match Loaded::load(&module, 0, &surroundings()) {
        Ok(_) => panic!("linked data that is out of reach"),
        Err(error) => error,
    };
    let LinkErrorKind::Faults(faults) = &error.kind else {
        panic!("{error}");
    };
    let reach = |fault: &&engraft_module::Fault| matches!(fault.kind, FaultKind::OutOfReach { .. });
    assert!(
        faults
            .iter()
            .filter(reach)
            .any(|fault| fault.symbol == "outside_value"),
        "{error}"
    );
    assert!(faults.len() > 1, "all faults are listed: {error}");
    assert!(error.to_string().contains("-fPIC"), "{error}");
}

#[test]
fn lists_all_unresolved_references() {
    let module = build("calls.c", &[]);
    let error = match Loaded::load(&module, 0, &Names::default()) {
        Ok(_) => panic!("linked without symbols"),
        Err(error) => error,
    };
    let LinkErrorKind::Unresolved(unresolved) = &error.kind else {
        panic!("{error}");
    };
    let mut names: Vec<&str> = unresolved.iter().map(|u| &*u.reference.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["outside_add", "outside_pointer", "outside_value"]);
}

extern "C" fn resolve_add() -> u64 {
    outside_add as *const () as u64
}

#[test]
fn calls_and_points_to_ifuncs() {
    let _turn = TURN.lock().unwrap();
    let mut names = surroundings();
    names.0.insert(
        "outside_add".into(),
        Resolved::Ifunc(resolve_add as *const () as u64),
    );
    let module = build("calls.c", &[]);
    let loaded = Loaded::load(&module, 0, &names).unwrap();
    assert!(
        loaded.linked.ifuncs.len() >= 2,
        "a slot and a pointer in data"
    );
    exercise(&loaded);
}

#[test]
fn defines_an_ifunc() {
    let text = "static int f(void) { return 5; }
        static int (*pick(void))(void) { return f; }
        int chosen(void) __attribute__((ifunc(\"pick\")));
        int call(void) { return chosen() + 1; }";
    let module = build_text(text, "c", &[]).unwrap();
    let loaded = Loaded::load(&module, 0, &Names::default()).unwrap();
    assert!(!loaded.linked.ifuncs.is_empty());
    // SAFETY: the type is that of the source.
    let call = unsafe { loaded.function::<extern "C" fn() -> i32>("call") };
    assert_eq!(call(), 6);
}

fn thread_pointer() -> u64 {
    let value: u64;
    // SAFETY: the psABI puts the thread pointer at %fs:0.
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) value, options(nostack, readonly)) };
    value
}

fn errno_address() -> u64 {
    // SAFETY: the function has no preconditions.
    unsafe { libc::__errno_location() as u64 }
}

#[test]
fn accesses_existing_thread_local_variables() {
    let offset = errno_address().wrapping_sub(thread_pointer()).cast_signed();
    let names = Names::of([("outside_tls", Resolved::TlsOffset(offset))]);
    for flags in [
        &[][..],
        &["-ftls-model=initial-exec"],
        &["-fno-plt"],
        &["-mtls-dialect=gnu2"],
        &["-fPIE", "-ftls-model=local-exec"],
    ] {
        let module = build("tls.c", flags);
        assert!(
            module.references().iter().all(|r| r.thread_local),
            "{flags:?}"
        );
        let loaded = Loaded::load(&module, 0, &names).unwrap();
        let check = |value: i32| {
            // SAFETY: the types are those of tests/fixtures/tls.c.
            unsafe {
                loaded.function::<extern "C" fn(i32)>("write_tls")(value);
                assert_eq!(*libc::__errno_location(), value, "{flags:?}");
                assert_eq!(
                    loaded.function::<extern "C" fn() -> i32>("read_tls")(),
                    value
                );
                let address = loaded.function::<extern "C" fn() -> u64>("address_tls")();
                assert_eq!(address, errno_address());
            }
        };
        check(11);
        std::thread::scope(|scope| {
            scope.spawn(|| check(12));
        });
    }
}

/// Where the C library's own errno is, as the dynamic linker counts.
fn errno_index() -> TlsIndex {
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        index: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: dl_iterate_phdr passes valid records, and the pointer handed to it, which is
        // to a `TlsIndex` that outlives the call.
        let (info, index) = unsafe { (&*info, &mut *index.cast::<TlsIndex>()) };
        let distance = errno_address().wrapping_sub(info.dlpi_tls_data as u64);
        if !info.dlpi_tls_data.is_null() && distance < 4096 && distance < index.offset {
            (index.module, index.offset) = (info.dlpi_tls_modid as u64, distance);
        }
        0
    }
    unsafe extern "C" {
        fn __tls_get_addr(index: *const u64) -> *mut libc::c_void;
    }
    let mut index = TlsIndex {
        module: 0,
        offset: u64::MAX,
        get_addr: __tls_get_addr as *const () as u64,
    };
    // SAFETY: the function has the type asked for and `index` lives until it returns.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut index).cast()) };
    assert_ne!(index.module, 0);
    index
}

#[test]
fn asks_the_dynamic_linker_for_variables_at_no_fixed_distance() {
    let names = Names::of([("outside_tls", Resolved::TlsIndex(errno_index()))]);
    for flags in [&[][..], &["-fno-plt"]] {
        let module = build("tls.c", flags);
        let loaded = Loaded::load(&module, 0, &names).unwrap();
        let check = |value: i32| {
            // SAFETY: the types are those of tests/fixtures/tls.c.
            unsafe {
                loaded.function::<extern "C" fn(i32)>("write_tls")(value);
                assert_eq!(*libc::__errno_location(), value, "{flags:?}");
                assert_eq!(
                    loaded.function::<extern "C" fn() -> i32>("read_tls")(),
                    value
                );
                let address = loaded.function::<extern "C" fn() -> u64>("address_tls")();
                assert_eq!(address, errno_address());
            }
        };
        check(11);
        std::thread::scope(|scope| {
            scope.spawn(|| check(12));
        });
    }
    for flags in [
        &["-ftls-model=initial-exec"][..],
        &["-mtls-dialect=gnu2"],
        &["-fPIE", "-ftls-model=local-exec"],
    ] {
        let module = build("tls.c", flags);
        let error = match Loaded::load(&module, 0, &names) {
            Ok(_) => panic!("{flags:?}: linked without a distance"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("-ftls-model=global-dynamic"), "{error}");
    }
}

#[test]
fn refuses_to_mix_up_thread_local_variables() {
    let module = build("tls.c", &[]);
    let names = Names::of([("outside_tls", Resolved::Address(4096))]);
    let error = match Loaded::load(&module, 0, &names) {
        Ok(_) => panic!("linked an address as a thread-local variable"),
        Err(error) => error.to_string(),
    };
    assert!(
        error.contains("'outside_tls' cannot be bound: it is not"),
        "{error}"
    );
}

#[test]
fn unwind_information_covers_every_function() {
    use gimli::UnwindSection as _;
    let module = build("calls.c", &[]);
    let loaded = Loaded::load(&module, 0, &surroundings()).unwrap();
    let linked = &loaded.linked;
    let range = linked.eh_frame.clone().unwrap();
    let start = (range.start - linked.placement.read_only) as usize;
    let bytes = &linked.read_only[start..start + (range.end - range.start) as usize];
    assert_eq!(bytes[bytes.len() - 4..], [0; 4]);
    let section = gimli::EhFrame::new(bytes, gimli::LittleEndian);
    let bases = gimli::BaseAddresses::default().set_eh_frame(range.start);
    let mut covered = Vec::new();
    let mut entries = section.entries(&bases);
    while let Some(entry) = entries.next().unwrap() {
        if let gimli::CieOrFde::Fde(partial) = entry {
            let fde = partial.parse(gimli::EhFrame::cie_from_offset).unwrap();
            covered.push((fde.initial_address(), fde.len()));
        }
    }
    covered.sort_unstable();
    let functions: Vec<(u64, u64)> = linked
        .functions
        .iter()
        .map(|f| (f.address, f.size))
        .collect();
    assert_eq!(covered, functions);
    let count = linked.symbol("count").unwrap();
    assert_eq!(linked.function_at(count + 1).unwrap().name, "count");
    assert!(linked.function_at(linked.stubs.start).is_none());
}

#[test]
fn runs_code_of_clang() {
    let _turn = TURN.lock().unwrap();
    for flags in [&[][..], &["-O0"], &["-fno-plt"], &["-Os"]] {
        let module = build_with("clang", "calls.c", flags);
        exercise(&Loaded::load(&module, 0, &surroundings()).unwrap());
    }
}

#[test]
fn runs_code_of_cpp() {
    let text = "namespace shop { template <class T> T twice(T x) { return x + x; } }
        extern \"C\" int outside_add(int, int);
        struct Base { virtual int f(int x) { return x; } virtual ~Base() {} };
        struct Derived : Base { int f(int x) override { return outside_add(x, 1); } };
        extern \"C\" int run(int x) { Derived d; Base *b = &d; asm(\"\" : \"+r\"(b));
            return shop::twice(b->f(x)); }";
    let module = build_text(text, "cc", &["-fno-rtti"]).unwrap();
    let mut names = surroundings();
    names.0.insert(
        "_ZdlPvm".into(),
        Resolved::Address(libc::free as *const () as u64),
    );
    let loaded = Loaded::load(&module, 0, &names).unwrap();
    // SAFETY: the type is that of the source.
    let run = unsafe { loaded.function::<extern "C" fn(i32) -> i32>("run") };
    assert_eq!(run(20), 42);
}
