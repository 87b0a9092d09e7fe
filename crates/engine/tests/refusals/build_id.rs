//! A module for another program or library than the one that runs.

use super::*;

fn bound(workshop: &Workshop, name: &str, info: &[&str]) -> Vec<u8> {
    let infos: String = info
        .iter()
        .map(|text| format!("MODULE_INFO(build_id, \"{text}\");\n"))
        .collect();
    workshop.module(name, &(livepatch(FIX, FIX_FUNCS) + &infos))
}

const FLAG: &str = "-Wl,--build-id=0x0102030405";

#[test]
fn of_another_build() {
    let mut scene = Scene::with("static void prepare(void) {}", &[FLAG]);
    let module = bound(&scene.workshop, "fix", &["beef0102"]);
    let pid = scene.pid().to_string();
    let said = [
        "load 'fix'",
        "made for program with build-id beef0102",
        "has build-id 0102030405",
        &pid,
        "make the module for the build that is running",
    ];
    scene.refuses("fix", &module, Errno::ENOEXEC, &said);
    let module = bound(&scene.workshop, "good", &["0102030405"]);
    let mut engine = Engine::open(scene.pid()).expect("open");
    load(&mut engine, "good", &module, &[]).expect("the right build");
    settle(&mut engine);
    assert_eq!(scene.program.ask("abc"), "hello 300");
}

#[test]
fn of_a_program_without_one() {
    let mut scene = Scene::with("static void prepare(void) {}", &["-Wl,--build-id=none"]);
    let module = bound(&scene.workshop, "fix", &["beef0102"]);
    let said = ["made for program with build-id beef0102", "has no build-id"];
    scene.refuses("fix", &module, Errno::ENOEXEC, &said);
}

/// The C library of the test's own process is the program's, too.
#[test]
fn of_another_library() {
    let mut scene = Scene::with("static void prepare(void) {}", &[FLAG]);
    let infos = ["0102030405", "libc.so.6=abad1dea"];
    let module = bound(&scene.workshop, "fix", &infos);
    let said = ["made for libc.so.6 with build-id abad1dea", "has build-id "];
    scene.refuses("fix", &module, Errno::ENOEXEC, &said);
}

/// A library that is not there cannot be the wrong one.
#[test]
fn of_a_library_that_is_not_loaded() {
    let mut scene = Scene::with("static void prepare(void) {}", &[FLAG]);
    let module = bound(&scene.workshop, "fix", &["libabsent.so.1=abad1dea"]);
    let mut engine = Engine::open(scene.pid()).expect("open");
    load(&mut engine, "fix", &module, &[]).expect("the right build");
    settle(&mut engine);
    assert_eq!(scene.program.ask("abc"), "hello 300");
}

/// What is mapped counts, not what lies on disk by now.
#[test]
fn of_the_file_that_was_installed_meanwhile() {
    let mut scene = Scene::with("static void prepare(void) {}", &[FLAG]);
    let path = scene.workshop.path("program");
    fs::remove_file(&path).expect("remove");
    let newer = "-Wl,--build-id=0xfeed0607";
    scene
        .workshop
        .build("cc", "program", &["program.c", "-O1", newer]);
    scene.before = Snapshot::of(scene.pid());
    let module = bound(&scene.workshop, "fix", &["feed0607"]);
    let said = ["build-id feed0607", "has build-id 0102030405"];
    scene.refuses("fix", &module, Errno::ENOEXEC, &said);
}
