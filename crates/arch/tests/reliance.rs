//! What callers rely on, in code that gcc compiled with and without -fipa-ra.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Binary, compile};
use engraft_arch::reliance::{
    CallIndex, Change, Function, Reliance, find_reliance, uses_stack_arguments,
};
use engraft_arch::{Register, RegisterSet};
use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory};

fn find(binary: &Binary, old: &str, replacing: &Binary, new: &str) -> Reliance {
    find_together(binary, old, replacing, new, &[])
}

fn find_together(
    binary: &Binary,
    old: &str,
    replacing: &Binary,
    new: &str,
    together: &[&str],
) -> Reliance {
    let object = CallIndex::build(binary.indexed());
    let code = CallIndex::build(replacing.indexed());
    let together: Vec<u64> = together
        .iter()
        .map(|name| binary.address_of(name))
        .collect();
    let change = Change {
        object: &object,
        old: binary.address_of(old),
        replacing: &code,
        new: replacing.address_of(new),
        replaced_together: &together,
    };
    find_reliance(&change, &|address, into| binary.read(address, into))
}

/// Registers that `caller` writes before its first call of `callee` and reads after it
/// without writing them in between: proof from the code itself that it relies on them.
fn proven(binary: &Binary, caller: &str, callee: &str) -> RegisterSet {
    let target = binary.address_of(callee);
    let (_, address, code, size) = binary
        .functions()
        .find(|(name, ..)| *name == caller)
        .expect("the caller");
    let mut factory = InstructionInfoFactory::new();
    let mut called = false;
    let (mut written, mut found) = (RegisterSet::EMPTY, RegisterSet::EMPTY);
    for instruction in Decoder::with_ip(64, &code[..size], address, DecoderOptions::NONE) {
        if instruction.is_call_near() {
            if called || instruction.near_branch_target() != target {
                break;
            }
            called = true;
            written = RegisterSet::EMPTY;
            continue;
        }
        for used in factory.info(&instruction).used_registers() {
            let full = used.register().full_register();
            let Ok(number) = u8::try_from(full.number()) else {
                continue;
            };
            let register = match () {
                () if full.is_gpr64() => Register::general(number),
                () if full.is_vector_register() => Register::vector(number),
                () => None,
            };
            let Some(set) = register.map(RegisterSet::from) else {
                continue;
            };
            let reads = format!("{:?}", used.access()).contains("Read");
            if called && reads && (set & written).is_empty() {
                found |= set;
            }
            if format!("{:?}", used.access()).contains("Write") {
                written |= set;
            }
        }
    }
    assert!(called, "{caller} does not call {callee}");
    found & RegisterSet::CALLER_SAVED
}

/// `leaf` touches little; `grown` is what it becomes: it spoils all scratch registers.
const SOURCE: &str = r#"
#define NOINLINE __attribute__((noinline, noclone))
#define EXPORT __attribute__((visibility("default")))
static NOINLINE int leaf(int a) { return a * a + 3; }
EXPORT int caller(int a, int b, int c) { int x = a * b; int y = b ^ c; return leaf(c) + x * y; }
static NOINLINE int middle(int a) { return leaf(a + 1) ^ 5; }
EXPORT int above(int a, int b) { int x = a * b; return middle(b) + x; }
static NOINLINE double half(double a) { return a * 0.5; }
EXPORT double scale(double a, double b, double c) { double x = a + b; return half(c) * x; }
extern void outside(int);
static NOINLINE void loud(int a) { outside(a); outside(a + 1); }
EXPORT int around(int a, int b) { int x = a * b; loud(b); return x; }
extern int take(int, int);
static volatile int sink;
static NOINLINE void quiet(int a) { sink = a; }
EXPORT int hands_on(int a, int b) { quiet(a); return take(1, b); }
EXPORT int result_over_call(int a, int b) { int r = a * b; quiet(b); return r; }
"#;

const GROWN: &str = r#"
__attribute__((visibility("default"), noinline)) int grown(int a) {
    int r = a;
    __asm__ volatile("xor %%ecx,%%ecx; xor %%edx,%%edx; xor %%esi,%%esi; xor %%edi,%%edi;"
        "xor %%r8d,%%r8d; xor %%r9d,%%r9d; xor %%r10d,%%r10d; xor %%r11d,%%r11d;"
        "pxor %%xmm1,%%xmm1; pxor %%xmm2,%%xmm2; pxor %%xmm3,%%xmm3; pxor %%xmm4,%%xmm4"
        : "+a"(r) : : "rcx","rdx","rsi","rdi","r8","r9","r10","r11","xmm1","xmm2","xmm3","xmm4");
    return r;
}
__attribute__((visibility("default"), noinline)) int same(int a) { return a * a + 4; }
__attribute__((visibility("default"), noinline)) int scratch(int a) {
    int r = a;
    __asm__ volatile("xor %%ecx,%%ecx; xor %%esi,%%esi; xor %%r8d,%%r8d; xor %%r9d,%%r9d;"
        "xor %%r10d,%%r10d; xor %%r11d,%%r11d; pxor %%xmm2,%%xmm2; pxor %%xmm3,%%xmm3"
        : "+a"(r) : : "rcx","rsi","r8","r9","r10","r11","xmm2","xmm3");
    return r;
}
extern void outside(int);
__attribute__((visibility("default"), noinline)) int calls(int a) { outside(a); return a + 1; }
"#;

fn compile_in(directory: &Path, name: &str, source: &str, flags: &[&str]) -> Binary {
    let directory = directory.join(name);
    std::fs::create_dir(&directory).unwrap();
    compile("gcc", &directory, source, flags)
}

#[test]
fn registers_kept_over_a_call_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let binary = compile_in(directory.path(), "old", SOURCE, &[]);
    let replacing = compile_in(directory.path(), "new", GROWN, &[]);
    for (caller, callee) in [
        ("caller", "leaf"),
        ("scale", "half"),
        ("result_over_call", "quiet"),
    ] {
        let proof = match caller {
            "result_over_call" => Register::RAX.into(),
            _ => proven(&binary, caller, callee) - Register::RAX.into() - xmm(0),
        };
        assert!(
            !proof.is_empty(),
            "gcc kept nothing over the call in {caller}"
        );
        let found = find(&binary, callee, &replacing, "grown");
        assert_eq!(
            proof - found.registers,
            RegisterSet::EMPTY,
            "{caller}: {found:?}"
        );
        assert!(!found.sites.is_empty());
        assert!(found.wide.is_empty());
    }
}

fn xmm(number: u8) -> RegisterSet {
    Register::vector(number).unwrap().into()
}

#[test]
fn reliance_passes_through_callers_of_callers() {
    let directory = tempfile::tempdir().unwrap();
    let binary = compile_in(directory.path(), "old", SOURCE, &[]);
    let replacing = compile_in(directory.path(), "new", GROWN, &[]);
    let proof = proven(&binary, "above", "middle") - Register::RAX.into();
    assert!(
        !proof.is_empty(),
        "gcc kept nothing over the call of middle"
    );
    let found = find(&binary, "leaf", &replacing, "grown");
    assert_eq!(proof - found.registers, RegisterSet::EMPTY, "{found:?}");
    let middle = find_together(&binary, "leaf", &replacing, "grown", &["caller", "middle"]);
    assert!(
        middle.is_empty(),
        "all callers are replaced together: {middle:?}"
    );
}

#[test]
fn an_argument_left_in_place_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let binary = compile_in(directory.path(), "old", SOURCE, &[]);
    let replacing = compile_in(directory.path(), "new", GROWN, &[]);
    let found = find(&binary, "quiet", &replacing, "grown");
    let rsi = Register::general(6).unwrap();
    assert!(found.registers.contains(rsi), "{found:?}");
}

#[test]
fn nothing_is_found_where_nothing_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let old = compile_in(directory.path(), "old", SOURCE, &[]);
    let plain = compile_in(directory.path(), "plain", SOURCE, &["-fno-ipa-ra"]);
    let replacing = compile_in(directory.path(), "new", GROWN, &[]);
    for callee in ["leaf", "half"] {
        let found = find(&plain, callee, &replacing, "scratch");
        assert!(found.is_empty(), "{callee}: {found:x?}");
        assert!(
            !find(&old, callee, &replacing, "scratch")
                .registers
                .is_empty(),
            "{callee}"
        );
    }
    // Machine code does not tell an argument that is handed back in place from one that is
    // no longer needed, so registers that are both argument and result stay in doubt.
    let doubtful = RegisterSet::from(Register::RDX) | xmm(0) | xmm(1);
    let found = find(&plain, "leaf", &replacing, "grown");
    assert_eq!(found.registers - doubtful, RegisterSet::EMPTY, "{found:x?}");
    let same = find(&old, "leaf", &replacing, "same");
    assert!(
        same.is_empty(),
        "a replacement that changes no more: {same:?}"
    );
    let loud = find(&old, "loud", &replacing, "calls");
    assert!(
        loud.is_empty(),
        "an old function that calls outside: {loud:?}"
    );
}

#[test]
fn an_unaligned_stack_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let binary = compile_in(directory.path(), "old", SOURCE, &[]);
    let replacing = compile_in(directory.path(), "new", GROWN, &[]);
    assert!(find(&binary, "leaf", &replacing, "calls").unaligned_stack);
    assert!(!find(&binary, "leaf", &replacing, "grown").unaligned_stack);
    assert!(!find(&binary, "loud", &replacing, "calls").unaligned_stack);
}

/// A call that may not return is no sign that callers expect registers to change.
#[test]
fn noreturn_calls_do_not_count() {
    // leaf: test %edi, %edi; js 1f; lea 3(%rdi), %eax; ret; 1: push %rax; call outside
    let leaf = [
        0x85, 0xff, 0x78, 4, 0x8d, 0x47, 3, 0xc3, 0x50, 0xe8, 0xf2, 0x0f, 0, 0,
    ];
    // caller: mov %esi, %ecx; call leaf; add %ecx, %eax; ret
    let caller = [0x89, 0xf1, 0xe8, 0xf9, 0xfe, 0xff, 0xff, 0x01, 0xc8, 0xc3];
    // The same leaf with a call that returns: push %rax; call outside; pop %rdx; ret
    let returns = [0x50, 0xe8, 0xfa, 0x0f, 0, 0, 0x5a, 0xc3];
    // new: xor %ecx, %ecx; ret
    let new = [0x31, 0xc9, 0xc3];
    let outside = [0xff, 0x25, 0, 0, 0, 0];
    let replacing = CallIndex::build([Function {
        address: 0x5000,
        code: &new,
    }]);
    let relied = |leaf: &[u8]| {
        let object = CallIndex::build([
            Function {
                address: 0x1000,
                code: leaf,
            },
            Function {
                address: 0x1100,
                code: &caller,
            },
            Function {
                address: 0x2000,
                code: &outside,
            },
        ]);
        let change = Change {
            object: &object,
            old: 0x1000,
            replacing: &replacing,
            new: 0x5000,
            replaced_together: &[],
        };
        find_reliance(&change, &|_, _| false)
    };
    let found = relied(&leaf);
    assert_eq!(found.registers, Register::RCX.into());
    assert_eq!(found.sites, [0x1102]);
    assert!(relied(&returns).is_empty());
}

#[test]
fn wide_vectors_are_told_apart() {
    let leaf = [0x31, 0xc0, 0xc3];
    // vmovups (%rdi), %ymm3; call leaf; vmovups %ymm3, (%rdi); ret
    let wide = [
        0xc5, 0xfc, 0x10, 0x1f, 0xe8, 0xf7, 0xfe, 0xff, 0xff, 0xc5, 0xfc, 0x11, 0x1f, 0xc3,
    ];
    // The same with xmm3.
    let narrow = [
        0x0f, 0x10, 0x1f, 0xe8, 0xf8, 0xfe, 0xff, 0xff, 0x0f, 0x11, 0x1f, 0xc3,
    ];
    // xorps %xmm3, %xmm3; ret
    let new = [0x0f, 0x57, 0xdb, 0xc3];
    let replacing = CallIndex::build([Function {
        address: 0x5000,
        code: &new,
    }]);
    for (caller, expected) in [(&wide[..], xmm(3)), (&narrow[..], RegisterSet::EMPTY)] {
        let object = CallIndex::build([
            Function {
                address: 0x1000,
                code: &leaf,
            },
            Function {
                address: 0x1100,
                code: caller,
            },
        ]);
        let change = Change {
            object: &object,
            old: 0x1000,
            replacing: &replacing,
            new: 0x5000,
            replaced_together: &[],
        };
        let found = find_reliance(&change, &|_, _| false);
        assert_eq!((found.registers, found.wide), (xmm(3), expected));
        assert!(object.branches_into(0x1001..0x1005).is_empty());
        assert_eq!(object.branches_into(0x1000..0x1001).len(), 1);
    }
}

#[test]
fn stack_arguments() {
    let source = r#"
#include <stdarg.h>
#include <string.h>
#define EXPORT __attribute__((visibility("default")))
extern int outside(char *, int);
EXPORT int six(int a, int b, int c, int d, int e, int f) { return a ^ b ^ c ^ d ^ e ^ f; }
EXPORT int seven(int a, int b, int c, int d, int e, int f, int g) { return a ^ g; }
EXPORT int framed(int a) { char text[200]; memset(text, a, sizeof text); return outside(text, a) + 1; }
struct big { long v[9]; };
EXPORT long by_value(struct big b) { return b.v[3]; }
EXPORT int variadic(int n, ...) {
    va_list list; int sum = 0; va_start(list, n);
    while (n--) sum += va_arg(list, int);
    va_end(list); return sum; }
EXPORT void *address(void) { return __builtin_return_address(0); }
EXPORT int tail(char *p, int a) { return outside(p, a + 1); }
EXPORT int switched(int a, int b) {
    switch (a) { case 0: return b * 7; case 1: return outside(0, b) + 2; case 2: return b ^ 9;
    case 3: return b - 100; case 4: return b / 3; case 5: return outside(0, 1) * 3; default: return 0; } }
"#;
    let directory = tempfile::tempdir().unwrap();
    for compiler in ["gcc", "clang"] {
        for extra in ["-fomit-frame-pointer", "-fno-omit-frame-pointer"] {
            let binary = compile(compiler, directory.path(), source, &[extra]);
            let index = CallIndex::build(binary.indexed());
            let uses = |name: &str| {
                uses_stack_arguments(&index, binary.address_of(name), &|address, into| {
                    binary.read(address, into)
                })
            };
            for name in ["six", "framed"] {
                assert!(!uses(name), "{compiler} {extra} {name}");
            }
            for name in ["seven", "by_value", "variadic", "address", "tail"] {
                assert!(uses(name), "{compiler} {extra} {name}");
            }
            assert!(!uses("switched"), "{compiler} {extra} switched");
        }
    }
}

#[test]
fn index_of_a_large_library_is_fast_and_agrees() {
    let binary = Binary::open(&common::mapped_library("libc.so"));
    let functions: Vec<Function<'_>> = binary.indexed();
    let bytes: usize = functions.iter().map(|function| function.code.len()).sum();
    let start = Instant::now();
    let index = CallIndex::build(functions);
    let built = start.elapsed();
    let read = |address: u64, into: &mut [u8]| binary.read(address, into);
    let names = [
        "qsort", "strtol", "memcpy", "getenv", "malloc", "abs", "ffs", "qsort_r",
    ];
    let start = Instant::now();
    for old in names {
        let old = binary.address_of(old);
        let new = binary.address_of("printf");
        let change = Change {
            object: &index,
            old,
            replacing: &index,
            new,
            replaced_together: &[],
        };
        let found = find_reliance(&change, &read);
        println!(
            "{old:#x}: {} unaligned {}",
            found.registers, found.unaligned_stack
        );
    }
    let asked = start.elapsed();
    println!(
        "{bytes} bytes: index {built:?}, {} functions {asked:?}",
        names.len()
    );
    assert!(built < Duration::from_secs(2), "{built:?}");
    assert!(asked < Duration::from_secs(4), "{asked:?}");
}

#[test]
fn random_code_never_panics() {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |now| now.as_nanos() as u64 | 1);
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2_000 {
        let codes: Vec<Vec<u8>> = (0..4)
            .map(|_| {
                (0..next() % 200)
                    .map(|_| if next() % 9 == 0 { 0xe8 } else { next() as u8 })
                    .collect()
            })
            .collect();
        let base = if next() % 2 == 0 {
            0x1000
        } else {
            u64::MAX - 0x200
        };
        let functions = codes.iter().zip(0_u64..).map(|(code, place)| Function {
            address: base + place * 0x60,
            code,
        });
        let index = CallIndex::build(functions);
        let read = |address: u64, into: &mut [u8]| {
            into.fill((address >> 2) as u8);
            !address.is_multiple_of(5)
        };
        let change = Change {
            object: &index,
            old: base,
            replacing: &index,
            new: base + 0x60,
            replaced_together: &[],
        };
        let _ = find_reliance(&change, &read);
        let _ = uses_stack_arguments(&index, base, &read);
    }
}
