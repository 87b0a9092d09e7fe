//! Functions and references that are not there, or there several times.

use super::*;

#[test]
fn unknown_old_function() {
    let mut scene = Scene::set();
    let funcs = "{ .old_name = \"anwser\", .new_func = new_answer },";
    let module = scene.workshop.module("fix", &livepatch(FIX, funcs));
    let said = [
        "'anwser' of object 'program'",
        "not found",
        "similar names: answer",
    ];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
}

#[test]
fn unknown_reference() {
    let mut scene = Scene::set();
    let code = "extern int secrets; static int new_answer(int q) { return q + secrets; }";
    let module = scene.workshop.module("fix", &livepatch(code, FIX_FUNCS));
    let said = ["'secrets' cannot be bound", "similar names: secret"];
    scene.refuses("fix", &module, Errno::ENOENT, &said);
}

#[test]
fn a_variable_is_no_function() {
    let mut scene = Scene::set();
    let funcs = "{ .old_name = \"secret\", .new_func = new_answer },";
    let module = scene.workshop.module("fix", &livepatch(FIX, funcs));
    let said = ["function 'secret' of program", "not a function"];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
}

const TWIN: &str = "#include <stdio.h>\n__attribute__((noinline)) static int twin(int x) \
        { __asm__(\"\"); return x + NUMBER; }\nint CALLER(int x) { return twin(x); }\n";

fn twins() -> Scene {
    let workshop = Workshop::new();
    workshop.write("program.c", PROGRAM);
    workshop.write(
        "preparation.h",
        "extern int first(int), second(int);\n\
             static void prepare(void) { if (first(1) + second(1) != 32) abort(); }",
    );
    workshop.write(
        "one.c",
        &TWIN.replace("NUMBER", "10").replace("CALLER", "first"),
    );
    workshop.write(
        "two.c",
        &TWIN.replace("NUMBER", "20").replace("CALLER", "second"),
    );
    let path = workshop.build("cc", "program", &["program.c", "one.c", "two.c", "-O2"]);
    Scene::run(workshop, &path)
}

#[test]
fn ambiguous() {
    let mut scene = twins();
    let funcs = "{ .old_name = \"twin\", .new_func = new_answer },";
    let module = scene.workshop.module("fix", &livepatch(FIX, funcs));
    let said = [
        "'twin' of object 'program'",
        "ambiguous, choose one by its position",
        "1: function at 0x",
        "from one.c",
        "2: function at 0x",
        "from two.c",
    ];
    scene.refuses("fix", &module, Errno::EINVAL, &said);
    let funcs = "{ .old_name = \"twin\", .new_func = new_answer, .old_sympos = 3 },";
    let module = scene.workshop.module("fix3", &livepatch(FIX, funcs));
    let said = [
        "position 3 not found, there are: 1: function",
        "2: function",
    ];
    scene.refuses("fix3", &module, Errno::EINVAL, &said);
    let funcs = "{ .old_name = \"twin\", .new_func = new_answer, .old_sympos = 2 },";
    let module = scene.workshop.module("fix2", &livepatch(FIX, funcs));
    scene.load("fix2", &module).expect("a position names one");
}

#[test]
fn an_ambiguous_reference() {
    let mut scene = twins();
    let code = "extern int twin(int); static int new_answer(int q) { return twin(q); }";
    let module = scene.workshop.module("fix", &livepatch(code, FIX_FUNCS));
    let said = [
        "'twin' cannot be bound",
        "1: function at 0x",
        "2: function at 0x",
    ];
    scene.refuses("fix", &module, Errno::ENOENT, &said);
}
