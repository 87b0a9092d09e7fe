//! Functions whose entry cannot take a redirect.

use super::*;

/// Functions of the program in assembly, called once so that they are linked.
fn with_assembly(assembly: &str) -> Scene {
    let code: String = assembly
        .lines()
        .map(|line| format!("__asm__(\"{}\");\n", line.trim()))
        .collect();
    Scene::with(&format!("{code}static void prepare(void) {{}}"), &[])
}

fn patch_of(scene: &Scene, function: &str) -> Vec<u8> {
    let funcs = format!("{{ .old_name = \"{function}\", .new_func = new_answer }},");
    scene.workshop.module("fix", &livepatch(FIX, &funcs))
}

#[test]
fn too_short() {
    let mut scene = with_assembly(
        ".text\n .globl tiny\n .type tiny, @function\n tiny: xorl %eax, %eax\n ret\n .size tiny, .-tiny\n\
             .globl next\n .type next, @function\n next: movl $1, %eax\n ret\n .size next, .-next",
    );
    let module = patch_of(&scene, "tiny");
    let said = [
        "function tiny cannot be redirected",
        "3 bytes",
        "patch its callers instead",
    ];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
}

#[test]
fn jumped_into_from_within() {
    let mut scene = with_assembly(
        ".text\n .globl looping\n .type looping, @function\n looping: xorl %eax, %eax\n \
             1: addl $1, %eax\n cmpl $5, %eax\n jne 1b\n ret\n .size looping, .-looping",
    );
    let module = patch_of(&scene, "looping");
    let said = [
        "function looping cannot be redirected",
        "jumps to",
        "patch its callers instead",
    ];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
}

#[test]
fn jumped_into_from_another_function() {
    let mut scene = with_assembly(
        ".text\n .globl shared\n .type shared, @function\n shared: xorl %eax, %eax\n \
             .Linner: addl $1, %eax\n addl $2, %eax\n ret\n .size shared, .-shared\n .p2align 4\n \
             .globl intruder\n .type intruder, @function\n intruder: movl $40, %eax\n jmp .Linner\n \
             .size intruder, .-intruder",
    );
    let module = patch_of(&scene, "shared");
    let said = [
        "function shared cannot be redirected",
        "intruder+0x5 (program) jumps to",
        "patch its callers instead",
    ];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
}

/// A debugger that was killed may leave one; a uprobe looks the same.
#[test]
fn with_a_breakpoint_set() {
    let mut scene = Scene::set();
    let module = fix(&scene.workshop, "fix");
    let listing = Command::new("nm")
        .arg(scene.workshop.path("program"))
        .output()
        .expect("nm");
    let listing = String::from_utf8(listing.stdout).expect("text");
    let line = listing
        .lines()
        .find(|line| line.ends_with(" T answer"))
        .expect("answer");
    let offset = u64::from_str_radix(line.split(' ').next().expect("address"), 16).expect("hex");
    let base = scene.before.maps.split('-').next().expect("first mapping");
    let entry = u64::from_str_radix(base, 16).expect("hex") + offset;
    let memory = fs::File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/mem", scene.pid()))
        .expect("memory");
    let mut original = [0];
    memory.read_exact_at(&mut original, entry).expect("read");
    memory.write_all_at(&[0xcc], entry).expect("write");
    let error = scene.load("fix", &module).expect_err("a breakpoint");
    expect(
        &error,
        Errno::EBUSY,
        &["function answer", "breakpoint", "remove"],
    );
    let mut now = [0];
    memory.read_exact_at(&mut now, entry).expect("read");
    assert_eq!(now, [0xcc], "the breakpoint is its owner's");
    memory.write_all_at(&original, entry).expect("write");
    scene.is_untouched();
}
