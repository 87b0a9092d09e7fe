//! Bad input gets an error that names the thing, the reason and the way out, and leaves the
//! target as it was.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use engraft_engine::{Engine, Error, LoadRequest, PatchState, check, read_status};
use nix::errno::Errno;
use support::{Program, Workshop, load, log_of, settle};

/// Answers each line with two numbers that come from functions to be patched.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "preparation.h"
volatile int secret = 7;
__attribute__((noinline)) int answer(int question) { return question + secret; }
__attribute__((noinline)) const char *greeting(void) { return "hello"; }
int main(int argc, char **argv)
{
	static char line[64];
	setvbuf(stdin, NULL, _IOLBF, 0);
	prepare();
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%s %d\n", greeting(), answer((int)strlen(line) - 1));
		fflush(stdout);
	}
	return 0;
}
"#;

/// The program in a directory with what belongs to it.
struct Scene {
    workshop: Workshop,
    program: Program,
    before: Snapshot,
}

/// What a target must still look like after a refusal.
#[derive(PartialEq)]
struct Snapshot {
    maps: String,
    code: BTreeMap<u64, Vec<u8>>,
}

impl Snapshot {
    fn of(pid: i32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
        let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("memory");
        let mut code = BTreeMap::new();
        let own =
            |line: &&str| line.contains("r-xp") && line.contains('/') && !line.contains("memfd");
        for line in maps.lines().filter(own) {
            let (start, rest) = line.split_once('-').expect("a range");
            let end = rest.split(' ').next().expect("a range");
            let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("number"));
            let mut bytes = vec![0; (end - start) as usize];
            memory.read_exact_at(&mut bytes, start).expect("code");
            code.insert(start, bytes);
        }
        Self { maps, code }
    }
}

impl Scene {
    fn set() -> Self {
        Self::with("static void prepare(void) {}", &[])
    }

    /// `preparation` is what the program does before it is ready.
    fn with(preparation: &str, flags: &[&str]) -> Self {
        let workshop = Workshop::new();
        workshop.write("program.c", PROGRAM);
        workshop.write("preparation.h", preparation);
        let path = workshop.build("cc", "program", &[&["program.c", "-O2"], flags].concat());
        Self::run(workshop, &path)
    }

    fn run(workshop: Workshop, path: &Path) -> Self {
        let mut program = Program::start(path);
        assert_eq!(program.ask("abc"), "hello 10");
        let before = Snapshot::of(program.pid());
        Self {
            workshop,
            program,
            before,
        }
    }

    fn pid(&self) -> i32 {
        self.program.pid()
    }

    fn load(&self, name: &str, module: &[u8]) -> Result<(), Error> {
        load(
            &mut Engine::open(self.pid()).expect("open"),
            name,
            module,
            &[],
        )
    }

    /// Loads a module and expects a refusal that says all of this; the dry run must say the
    /// same.
    #[track_caller]
    fn refuses(&mut self, name: &str, module: &[u8], errno: Errno, said: &[&str]) {
        let error = self.load(name, module).expect_err("must be refused");
        expect(&error, errno, said);
        let file_name = format!("{name}.lp");
        let request = LoadRequest {
            module,
            file_name: &file_name,
            parameters: &[],
            enable: true,
        };
        match check(self.pid(), &request) {
            Err(error) => expect(&error, errno, said),
            Ok(report) => {
                let problems = report.problems.join("\n");
                for words in said {
                    assert!(
                        problems.contains(words),
                        "check: no {words:?} in: {problems}"
                    );
                }
            }
        }
        self.is_untouched();
    }

    #[track_caller]
    fn is_untouched(&mut self) {
        assert_eq!(self.program.ask("abc"), "hello 10");
        let after = Snapshot::of(self.pid());
        assert_eq!(after.maps, self.before.maps);
        assert!(after.code == self.before.code, "code was changed");
    }

    /// As it was but for memory of ours: code that had to run in it was refused or failed.
    #[track_caller]
    fn is_unpatched(&mut self) {
        assert_eq!(self.program.ask("abc"), "hello 10");
        assert!(
            Snapshot::of(self.pid()).code == self.before.code,
            "code was changed"
        );
        let status = read_status(self.pid()).expect("status");
        assert_eq!((status.patches, status.transition), (Vec::new(), None));
    }
}

/// All that an error says.
fn words(error: &Error) -> String {
    format!("{error}; {}", error.help().unwrap_or_default())
}

#[track_caller]
fn expect(error: &Error, errno: Errno, said: &[&str]) {
    let text = words(error);
    for part in said {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    assert_eq!(error.errno(), errno, "{text}");
}

/// A livepatch of the main executable with these functions, and other code before them.
fn livepatch(code: &str, funcs: &str) -> String {
    livepatch_with(code, "{ .funcs = funcs }, {}", funcs, "")
}

fn livepatch_with(code: &str, objects: &str, funcs: &str, more: &str) -> String {
    format!(
        r#"
#include <linux/module.h>
#include <linux/livepatch.h>
{code}
static struct klp_func funcs[] __attribute__((unused)) = {{ {funcs} {{}} }};
static struct klp_object objs[] = {{ {objects} }};
static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs, {more} }};
static int init(void) {{ return klp_enable_patch(&patch); }}
static void leave(void) {{}}
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#
    )
}

const FIX: &str = "static int new_answer(int question) { return question * 100; }";
const FIX_FUNCS: &str = "{ .old_name = \"answer\", .new_func = new_answer },";

fn fix(workshop: &Workshop, name: &str) -> Vec<u8> {
    workshop.module(name, &livepatch(FIX, FIX_FUNCS))
}

#[test]
fn no_such_process() {
    let mut child = Command::new("true").spawn().expect("spawn");
    let pid = child.id().cast_signed();
    child.wait().expect("wait");
    for pid in [pid, i32::MAX] {
        let error = Engine::open(pid).err().expect("it does not exist");
        expect(
            &error,
            Errno::ESRCH,
            &[&format!("process {pid}"), "no such process"],
        );
        let error = read_status(pid).expect_err("it does not exist");
        expect(
            &error,
            Errno::ESRCH,
            &[&format!("process {pid}"), "no such process"],
        );
    }
}

#[test]
fn a_process_that_has_ended_but_is_not_reaped() {
    let mut child = Command::new("true").spawn().expect("spawn");
    let pid = child.id().cast_signed();
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).expect("a zombie has one");
    while !state().contains(") Z") {
        std::thread::yield_now();
    }
    let error = Engine::open(pid).err().expect("it has ended");
    expect(&error, Errno::ESRCH, &["no such process"]);
    child.wait().expect("wait");
}

#[test]
fn a_thread_is_no_process() {
    let scene = Scene::with(
        "#include <pthread.h>\nstatic void *idle(void *x) { for (;;) pause(); return x; }\n\
         static void prepare(void) { pthread_t t; pthread_create(&t, NULL, idle, NULL); }",
        &["-pthread"],
    );
    let tasks = fs::read_dir(format!("/proc/{}/task", scene.pid())).expect("threads");
    let threads = tasks.map(|entry| {
        entry
            .expect("entry")
            .file_name()
            .into_string()
            .expect("number")
    });
    let tid: i32 = threads
        .map(|tid| tid.parse().expect("number"))
        .find(|tid| *tid != scene.pid())
        .expect("a second thread");
    let error = Engine::open(tid).err().expect("a thread");
    expect(&error, Errno::ESRCH, &[&tid.to_string()]);
}

mod build_id {
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
}

mod module_file {
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
        let seed =
            std::env::var("ENGRAFT_SEED").map_or(0xbad_5eed, |seed| seed.parse().expect("seed"));
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
}

mod symbols {
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
}

mod entries {
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
        let offset =
            u64::from_str_radix(line.split(' ').next().expect("address"), 16).expect("hex");
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
}

mod patches {
    use super::*;

    #[test]
    fn duplicate_name() {
        let mut scene = Scene::set();
        let module = fix(&scene.workshop, "fix");
        let mut engine = Engine::open(scene.pid()).expect("open");
        load(&mut engine, "fix", &module, &[]).expect("load");
        settle(&mut engine);
        let (code, log) = (Snapshot::of(scene.pid()).code, log_of(scene.pid()));
        let other = livepatch("static int new_answer(int q) { return -q; }", FIX_FUNCS);
        let other = scene.workshop.module("fix", &other);
        for module in [&module, &other] {
            let error = load(&mut engine, "fix", module, &[]).expect_err("the name is taken");
            expect(
                &error,
                Errno::EEXIST,
                &["load 'fix'", "of that name", "unload it first"],
            );
        }
        assert_eq!(scene.program.ask("abc"), "hello 300");
        assert!(Snapshot::of(scene.pid()).code == code, "code was changed");
        assert_eq!(log_of(scene.pid()), log);
        let status = read_status(scene.pid()).expect("status");
        assert_eq!(status.patches.len(), 1);
        assert_eq!(status.patches[0].state, PatchState::Enabled);
    }

    #[test]
    fn without_objects() {
        let mut scene = Scene::set();
        let module = scene
            .workshop
            .module("fix", &livepatch_with("", "{}", "", ""));
        let said = ["patch 'fix'", "has no objects", "klp_patch.objs"];
        scene.refuses("fix", &module, Errno::EINVAL, &said);
    }

    #[test]
    fn with_an_object_without_functions_and_callbacks() {
        let mut scene = Scene::set();
        let module = scene.workshop.module("fix", &livepatch("", ""));
        let said = ["patch 'fix'", "neither funcs nor callbacks", "remove it"];
        scene.refuses("fix", &module, Errno::EINVAL, &said);
    }

    #[test]
    fn with_a_function_listed_twice() {
        let mut scene = Scene::set();
        let funcs = FIX_FUNCS.repeat(2);
        let module = scene.workshop.module("fix", &livepatch(FIX, &funcs));
        let said = [
            "patch 'fix'",
            "function 'answer'",
            "listed twice",
            "keep one entry",
        ];
        scene.refuses("fix", &module, Errno::EEXIST, &said);
    }

    #[test]
    fn with_an_unknown_parameter() {
        let mut scene = Scene::set();
        let code = format!("{FIX}\nstatic int level;\nmodule_param(level, int, 0644);");
        let module = scene.workshop.module("fix", &livepatch(&code, FIX_FUNCS));
        let mut engine = Engine::open(scene.pid()).expect("open");
        let error = load(&mut engine, "fix", &module, &[("levle", "1")]).expect_err("unknown");
        let said = [
            "parameter 'levle' of module 'fix'",
            "no such parameter",
            "it has: level",
        ];
        expect(&error, Errno::EINVAL, &said);
        let error = load(&mut engine, "fix", &module, &[("level", "many")]).expect_err("no number");
        expect(
            &error,
            Errno::EINVAL,
            &["parameter 'level'", "'many' is not a number"],
        );
        drop(engine);
        scene.is_untouched();
    }

    fn stateful(workshop: &Workshop, name: &str, version: u32) -> Vec<u8> {
        let code = format!(
            "{FIX}\nstatic struct klp_state states[] = {{ {{ .id = 5, .version = {version} }}, {{}} }};"
        );
        let objects = "{ .funcs = funcs }, {}";
        let more = ".states = states, .replace = true";
        workshop.module(name, &livepatch_with(&code, objects, FIX_FUNCS, more))
    }

    #[test]
    fn with_an_incompatible_state() {
        let mut scene = Scene::set();
        let mut engine = Engine::open(scene.pid()).expect("open");
        let newer = stateful(&scene.workshop, "newer", 2);
        load(&mut engine, "newer", &newer, &[]).expect("load");
        settle(&mut engine);
        let code = Snapshot::of(scene.pid()).code;
        let older = stateful(&scene.workshop, "older", 1);
        let error = load(&mut engine, "older", &older, &[]).expect_err("incompatible");
        let said = [
            "patch 'older'",
            "not compatible with 'newer'",
            "state 5",
            "disable 'newer' first",
        ];
        expect(&error, Errno::EINVAL, &said);
        assert_eq!(scene.program.ask("abc"), "hello 300");
        assert!(Snapshot::of(scene.pid()).code == code, "code was changed");
        let status = read_status(scene.pid()).expect("status");
        let names: Vec<&str> = status.patches.iter().map(|patch| &*patch.name).collect();
        assert_eq!(names, ["newer"]);
        assert_eq!(
            log_of(scene.pid()).last().map(String::as_str),
            Some(
                "livepatch: Livepatch patch (older) is not compatible with the already installed livepatches."
            )
        );
    }

    const CALLBACKS: &str = r#"
static int yes(struct klp_object *o) { pr_info("pre_patch of %s\n", o->name ? o->name : "main"); return 0; }
static int no(struct klp_object *o) { pr_info("refusing\n"); return -ENODEV; }
static void gone(struct klp_object *o) { pr_info("post_unpatch of %s\n", o->name ? o->name : "main"); }
static void never(struct klp_object *o) { pr_info("never\n"); }
static struct klp_func none[] = { {} };
"#;

    #[test]
    fn whose_pre_patch_fails() {
        let mut scene = Scene::set();
        let objects = "{ .funcs = funcs, .callbacks = { .pre_patch = yes, .post_patch = never, .post_unpatch = gone } }, \
                       { .name = \"libc.so.6\", .funcs = none, .callbacks = { .pre_patch = no, .post_patch = never, .post_unpatch = never } }, {}";
        let code = format!("{FIX}{CALLBACKS}");
        let module = scene
            .workshop
            .module("fix", &livepatch_with(&code, objects, FIX_FUNCS, ""));
        let error = scene.load("fix", &module).expect_err("pre_patch refuses");
        let said = [
            "'fix'",
            "pre_patch callback of object 'libc.so.6' returned -19",
            "log of the target",
        ];
        expect(&error, Errno::ENODEV, &said);
        scene.is_unpatched();
        assert_eq!(
            log_of(scene.pid()),
            [
                "livepatch: enabling patch 'fix'",
                "livepatch: 'fix': initializing patching transition",
                "pre_patch of main",
                "refusing",
                "livepatch: pre-patch callback failed for object 'libc.so.6'",
                "livepatch: failed to enable patch 'fix'",
                "livepatch: 'fix': canceling patching transition, going to unpatch",
                "livepatch: 'fix': completing unpatching transition",
                "post_unpatch of main",
                "livepatch: 'fix': unpatching complete",
            ]
        );
        let module = fix(&scene.workshop, "fix");
        let mut engine = Engine::open(scene.pid()).expect("open");
        load(&mut engine, "fix", &module, &[]).expect("the name is free again");
        settle(&mut engine);
        assert_eq!(scene.program.ask("abc"), "hello 300");
    }
}

mod memory {
    use super::*;

    #[test]
    fn limited_by_rlimit_as() {
        let mut scene = Scene::with(
            r#"
#include <sys/resource.h>
static void prepare(void)
{
	unsigned long pages;
	FILE *file = fopen("/proc/self/statm", "r");
	if (!file || fscanf(file, "%lu", &pages) != 1)
		abort();
	fclose(file);
	struct rlimit limit = { pages * 4096 + (1 << 20), RLIM_INFINITY };
	setrlimit(RLIMIT_AS, &limit);
}
"#,
            &[],
        );
        let module = fix(&scene.workshop, "fix");
        let pid = scene.pid();
        let way_out = format!("prlimit --pid {pid} --as=");
        let said = ["RLIMIT_AS leaves", "KiB", "are needed", &way_out];
        scene.refuses("fix", &module, Errno::ENOMEM, &said);
    }

    /// Takes every hole of the address space within 3 GiB of the executable.
    const FILLER: &str = r#"
#include <sys/mman.h>
static void prepare(void)
{
	static char text[1 << 20];
	unsigned long start, end, previous = 0x10000;
	unsigned long here = (unsigned long)text & ~4095UL;
	unsigned long low = here > 3UL << 30 ? here - (3UL << 30) : 0x10000, high = here + (3UL << 30);
	FILE *file = fopen("/proc/self/maps", "r");
	size_t length = fread(text, 1, sizeof text - 1, file);
	fclose(file);
	text[length] = 0;
	for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		if (sscanf(line, "%lx-%lx", &start, &end) != 2)
			start = end = 0x7ffffffff000;
		unsigned long from = previous > low ? previous : low, to = start < high ? start : high;
		if (from < to)
			mmap((void *)from, to - from, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
		previous = end;
	}
}
"#;

    fn filled(flags: &[&str]) {
        let mut scene = Scene::with(FILLER, flags);
        let module = fix(&scene.workshop, "fix");
        let said = [
            "KiB are free in the address space within 2 GiB of the code at 0x",
            "restart it",
        ];
        scene.refuses("fix", &module, Errno::ENOMEM, &said);
    }

    #[test]
    fn full_around_a_position_independent_executable() {
        filled(&["-fPIE", "-pie"]);
    }

    #[test]
    fn full_around_an_executable_at_a_fixed_address() {
        filled(&["-fno-pie", "-no-pie"]);
    }
}

#[test]
fn a_running_transition() {
    let mut scene = Scene::with(
        r#"
#include <pthread.h>
static volatile int entered;
__attribute__((noinline)) int linger(int fd) { char byte; entered = 1; return (int)read(fd, &byte, 1) + 1; }
static void *body(void *ends) { return (void *)(long)linger(*(int *)ends); }
static void prepare(void)
{
	static int ends[2];
	pthread_t thread;
	if (pipe(ends) || pthread_create(&thread, NULL, body, ends))
		abort();
	while (!entered)
		usleep(1000);
}
"#,
        &["-pthread"],
    );
    let slow = livepatch(
        "static int new_linger(int fd) { return fd; }",
        "{ .old_name = \"linger\", .new_func = new_linger },",
    );
    let slow = scene.workshop.module("slow", &slow);
    let module = fix(&scene.workshop, "fix");
    let mut engine = Engine::open(scene.pid()).expect("open");
    load(&mut engine, "slow", &slow, &[]).expect("load");
    assert!(
        engine.retry().expect("retry").is_some(),
        "a thread is in linger()"
    );
    let code = Snapshot::of(scene.pid()).code;
    let said = [
        "'fix'",
        "'slow' is in transition",
        "wait for it, reverse it or force it",
    ];
    let error = load(&mut engine, "fix", &module, &[]).expect_err("busy");
    expect(&error, Errno::EBUSY, &said);
    let error = engine.unload("slow").expect_err("busy");
    expect(
        &error,
        Errno::EAGAIN,
        &["'slow'", "in transition", "wait for it to complete"],
    );
    assert_eq!(scene.program.ask("abc"), "hello 10");
    assert!(Snapshot::of(scene.pid()).code == code, "code was changed");
    let status = read_status(scene.pid()).expect("status");
    assert_eq!(status.patches.len(), 1);
    assert!(
        status
            .transition
            .is_some_and(|transition| transition.patch == "slow")
    );
    engine.disable("slow", false).expect("reverse");
    settle(&mut engine);
    engine.unload("slow").expect("unload");
    drop(engine);
    scene.is_unpatched();
}
