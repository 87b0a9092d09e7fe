//! What a command prints when it refuses, and how it ends: each line of bad input.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{
    Program, Workshop, as_nobody, engraft, is_root, livepatch, run_checked, stderr, stdout,
};

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/prctl.h>
#ifndef PREPARATION
#define PREPARATION
#endif
volatile int secret = 7;
__attribute__((noinline)) int answer(int question) { return question + secret; }
int main(void)
{
	static char line[64];
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	PREPARATION;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%d\n", answer((int)strlen(line) - 1));
		fflush(stdout);
	}
	return 0;
}
"#;

const CODE: &str = "static int new_answer(int question) { return question * 100; }";

struct Scene {
    workshop: Workshop,
    program: Program,
    maps: String,
}

impl Scene {
    fn set() -> Self {
        Self::with("")
    }

    fn with(preparation: &str) -> Self {
        let workshop = Workshop::new();
        let source = format!("#define PREPARATION {preparation}\n{PROGRAM}");
        let path = workshop.program("program", &source, &["-Wl,--build-id=0x0102030405"]);
        let mut program = Program::start(&path);
        assert_eq!(program.ask("abc"), "10");
        let maps = maps_of(&program);
        Self {
            workshop,
            program,
            maps,
        }
    }

    fn fix(&self) -> String {
        self.module("fix", CODE, &[("answer", "new_answer")])
    }

    fn module(&self, name: &str, code: &str, funcs: &[(&str, &str)]) -> String {
        self.workshop.module(name, &livepatch(code, funcs, ""))
    }

    /// The command is refused with these words, in text and in JSON, and changes nothing.
    #[track_caller]
    fn refuses(&mut self, command: &[&str], errno: &str, said: &[&str]) {
        let output = self.program.run(command);
        expect(&output, errno, said);
        let output = self.program.run(&[command, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(stderr(&output), "");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["errno"], errno, "{object}");
        assert_eq!(object["pid"], self.program.pid(), "{object}");
        self.is_untouched();
    }

    /// `engraft check` lists the same, and exits in the same way.
    #[track_caller]
    fn check_says(&mut self, module: &str, said: &[&str]) {
        let output = self.program.run_to(1, &["check", module]);
        let text = stdout(&output);
        assert!(text.contains("would be refused"), "{text}");
        for part in said {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
        self.is_untouched();
    }

    #[track_caller]
    fn is_untouched(&mut self) {
        assert_eq!(self.program.ask("abc"), "10");
        assert_eq!(maps_of(&self.program), self.maps);
    }
}

fn maps_of(program: &Program) -> String {
    fs::read_to_string(format!("/proc/{}/maps", program.pid())).unwrap()
}

/// Exit code 1, and all of this on standard error.
#[track_caller]
fn expect(output: &Output, errno: &str, said: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(stdout(output), "");
    let text = stderr(output);
    assert!(text.starts_with("engraft: "), "{text}");
    assert!(
        text.contains(&format!("({errno})")),
        "no ({errno}) in: {text}"
    );
    for part in said {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn no_such_process() {
    let workshop = Workshop::new();
    let module = workshop.module("fix", &livepatch(CODE, &[("answer", "new_answer")], ""));
    for command in [
        &["load", &*module][..],
        &["check", &module],
        &["enable", "fix"],
        &["disable", "fix"],
        &["unload", "fix"],
        &["force"],
        &["list"],
        &["status"],
        &["log"],
    ] {
        let output = engraft()
            .args(command)
            .args(["--pid", "2147483647"])
            .output()
            .unwrap();
        expect(&output, "ESRCH", &["process 2147483647", "no such process"]);
    }
}

/// The command and a program of root's, for a user without rights.
struct Strangers {
    workshop: Workshop,
    command: PathBuf,
    module: PathBuf,
}

impl Strangers {
    fn new() -> Self {
        let workshop = Workshop::new();
        let place =
            |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        place(&workshop.path("."), 0o755);
        let command = workshop.path("engraft");
        fs::copy(env!("CARGO_BIN_EXE_engraft"), &command).unwrap();
        let module = workshop.module("fix", &livepatch(CODE, &[("answer", "new_answer")], ""));
        place(Path::new(&module), 0o644);
        Self {
            workshop,
            command,
            module: module.into(),
        }
    }

    /// Runs the command as nobody if this is root, else as the user that this is.
    fn run(&self, arguments: &[&str], pid: i32) -> Output {
        let mut command = as_nobody(&self.command);
        command
            .args(arguments)
            .args(["--pid", &pid.to_string()])
            .output()
            .unwrap()
    }
}

#[test]
fn another_users_process() {
    let strangers = Strangers::new();
    let path = strangers.workshop.program("program", PROGRAM, &[]);
    let mut program = Program::start(&path);
    assert_eq!(program.ask("abc"), "10");
    // Without root's rights, process 1 is somebody else's.
    let pid = if is_root() { program.pid() } else { 1 };
    let maps = maps_of(&program);
    let module = strangers.module.to_str().unwrap();
    for command in [
        &["load", module][..],
        &["check", module],
        &["status"],
        &["log"],
        &["force"],
    ] {
        let output = strangers.run(command, pid);
        let named = format!("process {pid}");
        let said = [
            &*named,
            "not permitted",
            "it belongs to another user",
            "run as root or with CAP_SYS_PTRACE",
        ];
        expect(&output, "EPERM", &said);
    }
    assert_eq!(program.ask("abc"), "10");
    assert_eq!(maps_of(&program), maps);
}

#[test]
fn a_process_that_may_not_be_looked_at() {
    let strangers = Strangers::new();
    let source = format!("#define PREPARATION prctl(PR_SET_DUMPABLE, 0)\n{PROGRAM}");
    let path = strangers.workshop.program("program", &source, &[]);
    if !is_root() {
        println!("root may look at everything, this user at nothing that is not dumpable");
    }
    let mut program = Program::start_with(as_nobody(&path));
    assert_eq!(program.ask("abc"), "10");
    let output = strangers.run(&["load", strangers.module.to_str().unwrap()], program.pid());
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let reason = match scope.trim() {
        setting @ ("1" | "2" | "3") => format!("kernel.yama.ptrace_scope is {setting}"),
        _ => "it is not dumpable (prctl PR_SET_DUMPABLE".to_owned(),
    };
    expect(&output, "EPERM", &["not permitted", &reason]);
    assert_eq!(program.ask("abc"), "10");
}

/// A program of two instructions: pause(2) for ever, as 32-bit code.
fn write_32_bit_program(path: &Path) {
    const BASE: u32 = 0x0804_8000;
    let code = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7]; // 1: mov $29, %eax; int $0x80; jmp 1b
    let size = 52 + 32 + code.len() as u32;
    let mut bytes = b"\x7fELF\x01\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2u16, 3].iter().flat_map(|half| half.to_le_bytes()));
    bytes.extend(
        [1, BASE + 84, 52, 0, 0]
            .iter()
            .flat_map(|word: &u32| word.to_le_bytes()),
    );
    bytes.extend(
        [52u16, 32, 1, 0, 0, 0]
            .iter()
            .flat_map(|half| half.to_le_bytes()),
    );
    let header = [1, 0, BASE, BASE, size, size, 5, 0x1000];
    bytes.extend(header.iter().flat_map(|word: &u32| word.to_le_bytes()));
    bytes.extend(code);
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_32_bit_program() {
    let workshop = Workshop::new();
    let module = workshop.module("fix", &livepatch(CODE, &[("answer", "new_answer")], ""));
    let path = workshop.path("program");
    write_32_bit_program(&path);
    let mut child = match Command::new(&path).spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("this kernel runs no 32-bit programs, so there are none to refuse: {error}");
            return;
        }
    };
    let pid = child.id().to_string();
    let maps = || fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    while !maps().contains("program") {
        std::thread::yield_now();
    }
    let before = maps();
    for command in [&["load", &*module][..], &["check", &module], &["status"]] {
        let output = engraft()
            .args(command)
            .args(["--pid", &pid])
            .output()
            .unwrap();
        let said = [
            &*format!("process {pid}"),
            "a 32-bit program",
            "only 64-bit x86-64 programs can be patched",
        ];
        expect(&output, "ENOEXEC", &said);
    }
    assert_eq!(maps(), before);
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn already_traced_by_a_debugger() {
    const DEBUGGER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/ptrace.h>
int main(int argc, char **argv)
{
	char byte;
	if (ptrace(PTRACE_SEIZE, atoi(argv[1]), 0, 0))
		return 1;
	puts("ready");
	fflush(stdout);
	return (int)read(0, &byte, 1);
}
"#;
    let mut scene = Scene::set();
    let module = scene.fix();
    let path = scene.workshop.program("debugger", DEBUGGER, &[]);
    let mut command = Command::new(path);
    command.arg(scene.program.pid().to_string());
    let debugger = Program::start_with(command);
    let by = format!("already traced by process {}", debugger.pid());
    for command in [
        &["load", &*module][..],
        &["check", &module],
        &["enable", "fix"],
    ] {
        scene.refuses(command, "EBUSY", &[&by, "debugger", "detach it first"]);
    }
    // Those who only look need not trace.
    let output = scene.program.run_to(0, &["status"]);
    assert!(stdout(&output).contains("no patches"), "{output:?}");
    debugger.finish();
    scene.program.run_to(0, &["load", &module]);
    assert_eq!(scene.program.ask("abc"), "300");
}

#[test]
fn a_build_id_mismatch() {
    let mut scene = Scene::set();
    let other = scene
        .workshop
        .program("other", PROGRAM, &["-Wl,--build-id=0xfeed0607"]);
    let source = scene.workshop.path("fix.c");
    let module = scene.fix();
    let cc = |made_for: &Path| {
        let mut command = engraft();
        command
            .arg("cc")
            .arg(&source)
            .arg("-o")
            .arg(&module)
            .arg("--for")
            .arg(made_for);
        command
    };
    run_checked(&mut cc(&other));
    let inspected = stdout(&engraft().args(["inspect", &module]).output().unwrap());
    let line = "made for main executable, build-id feed0607";
    assert!(inspected.lines().any(|found| found == line), "{inspected}");
    let inspected = engraft()
        .args(["inspect", "--json", &module])
        .output()
        .unwrap();
    let object: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(object["made_for"][0]["build_id"], "feed0607");
    assert_eq!(object["made_for"][0]["object"], Value::Null);
    let said = [
        "made for program with build-id feed0607",
        "has build-id 0102030405",
        "help: make the module for the build that is running",
    ];
    scene.refuses(&["load", &module], "ENOEXEC", &said);
    scene.check_says(&module, &said[..2]);
    run_checked(&mut cc(&scene.workshop.path("program")));
    scene.program.run_to(0, &["load", &module]);
    assert_eq!(scene.program.ask("abc"), "300");
}

#[test]
fn a_file_that_cannot_be_built_for() {
    let workshop = Workshop::new();
    let source = workshop.write("fix.c", &livepatch(CODE, &[("answer", "new_answer")], ""));
    let module = workshop.path("fix.lp");
    let bare = workshop.program("bare", PROGRAM, &["-Wl,--build-id=none"]);
    for (path, said) in [
        (&bare, "it has no build-id; link it with -Wl,--build-id"),
        (&source, "no ELF header"),
        (&workshop.path("absent"), "No such file or directory"),
    ] {
        let mut command = engraft();
        command
            .arg("cc")
            .arg(&source)
            .arg("-o")
            .arg(&module)
            .arg("--for")
            .arg(path);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = stderr(&output);
        assert!(
            text.contains(said) && text.contains(path.to_str().unwrap()),
            "{text}"
        );
        assert!(!module.exists());
    }
}

#[test]
fn a_damaged_module_file() {
    let mut scene = Scene::set();
    let whole = fs::read(scene.fix()).unwrap();
    let module = scene.workshop.path("damaged.lp");
    let path = module.to_str().unwrap().to_owned();
    fs::write(&module, &whole[..whole.len() / 2]).unwrap();
    for command in ["load", "check"] {
        let output = scene.program.run(&[command, &path]);
        expect(
            &output,
            "ENOEXEC",
            &["patch module 'damaged.lp'", "damaged: "],
        );
    }
    let big = fs::File::create(&module).unwrap();
    big.set_len(1 << 40).unwrap();
    let output = scene.program.run_to(1, &["load", &path]);
    assert!(
        stderr(&output).contains("it is larger than 64 MiB"),
        "{output:?}"
    );
    let output = scene.program.run_to(1, &["load", "/dev/zero"]);
    assert!(
        stderr(&output).contains("it is not a regular file"),
        "{output:?}"
    );
    scene.is_untouched();
}

#[test]
fn an_unknown_symbol() {
    let mut scene = Scene::set();
    let module = scene.module("fix", CODE, &[("anwser", "new_answer")]);
    let said = [
        "symbol 'anwser' of object 'program'",
        "not found",
        "similar names: answer",
    ];
    scene.refuses(&["load", &module], "EINVAL", &said);
    scene.check_says(&module, &said);
}

#[test]
fn an_ambiguous_symbol() {
    const TWIN: &str =
        "__attribute__((noinline)) static int twin(int x) { __asm__(\"\"); return x + 1; }\n";
    let mut scene = {
        let workshop = Workshop::new();
        workshop.write(
            "one.c",
            &format!("{TWIN}int first(int x) {{ return twin(x); }}"),
        );
        workshop.write(
            "two.c",
            &format!("{TWIN}int second(int x) {{ return twin(x); }}"),
        );
        let path = workshop.program("program", PROGRAM, &["one.c", "two.c"]);
        let mut program = Program::start(&path);
        assert_eq!(program.ask("abc"), "10");
        let maps = maps_of(&program);
        Scene {
            workshop,
            program,
            maps,
        }
    };
    let module = scene.module("fix", CODE, &[("twin", "new_answer")]);
    let said = [
        "'twin'",
        "ambiguous",
        "1: function at 0x",
        "from one.c, 2: function at 0x",
        "from two.c",
    ];
    scene.refuses(&["load", &module], "EINVAL", &said);
    scene.check_says(&module, &said);
}

#[test]
fn a_function_that_is_too_short_or_jumped_into() {
    let workshop = Workshop::new();
    let assembly = [
        ".text; .globl tiny; .type tiny, @function; tiny: xorl %eax, %eax; ret; .size tiny, .-tiny",
        ".globl next; .type next, @function; next: movl $1, %eax; ret; .size next, .-next",
        ".globl looping; .type looping, @function; looping: xorl %eax, %eax; 1: addl $1, %eax",
        "cmpl $5, %eax; jne 1b; ret; .size looping, .-looping",
        ".globl shared; .type shared, @function; shared: xorl %eax, %eax; .Linner: addl $1, %eax",
        "addl $2, %eax; ret; .size shared, .-shared; .p2align 4",
        ".globl intruder; .type intruder, @function; intruder: movl $40, %eax; jmp .Linner",
        ".size intruder, .-intruder",
    ];
    let code: String = assembly
        .iter()
        .map(|line| format!("__asm__(\"{line}\");\n"))
        .collect();
    let path = workshop.program("program", &format!("{code}{PROGRAM}"), &[]);
    let mut program = Program::start(&path);
    assert_eq!(program.ask("abc"), "10");
    let maps = maps_of(&program);
    let mut scene = Scene {
        workshop,
        program,
        maps,
    };
    for (function, said) in [
        ("tiny", "only 3 bytes up to the next code"),
        ("looping", "jumps to 0x"),
        ("shared", "intruder+0x5 (program) jumps to 0x"),
    ] {
        let module = scene.module("fix", CODE, &[(function, "new_answer")]);
        let named = format!("function {function} cannot be redirected");
        let said = [&*named, said, "patch its callers instead"];
        scene.refuses(&["load", &module], "EINVAL", &said);
        scene.check_says(&module, &said);
    }
}

#[test]
fn a_duplicate_name() {
    let mut scene = Scene::set();
    let module = scene.fix();
    scene.program.run_to(0, &["load", &module]);
    let output = scene.program.run(&["load", &module]);
    let said = [
        "load 'fix'",
        "a module of that name is loaded",
        "help: enable it again",
        "engraft unload fix",
    ];
    expect(&output, "EEXIST", &said);
    assert_eq!(scene.program.ask("abc"), "300");
    let output = scene.program.run_to(0, &["list", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["patches"].as_array().unwrap().len(), 1);
    assert_eq!(status["patches"][0]["state"], "enabled");
}

#[test]
fn a_patch_without_functions_or_callbacks() {
    let mut scene = Scene::set();
    let module = scene.module("fix", "", &[]);
    let said = [
        "patch 'fix'",
        "neither funcs nor callbacks",
        "remove it from klp_patch.objs",
    ];
    scene.refuses(&["load", &module], "EINVAL", &said);
    scene.check_says(&module, &said);
}

#[test]
fn an_incompatible_state() {
    let mut scene = Scene::set();
    let stateful = |version: u32| {
        let states = format!(
            "static struct klp_state states[] = {{ {{ .id = 5, .version = {version} }}, {{ }} }};"
        );
        let code = format!("{CODE}\n{states}");
        livepatch(&code, &[("answer", "new_answer")], ".states = states")
    };
    let newer = scene.workshop.module("newer", &stateful(2));
    let older = scene.workshop.module("older", &stateful(1));
    scene.program.run_to(0, &["load", &newer]);
    let said = [
        "patch 'older'",
        "not compatible with 'newer'",
        "state 5",
        "disable 'newer' first",
    ];
    expect(&scene.program.run(&["load", &older]), "EINVAL", &said);
    assert_eq!(scene.program.ask("abc"), "300");
    let log = stdout(&scene.program.run_to(0, &["log"]));
    let line = "livepatch: Livepatch patch (older) is not compatible with the already installed livepatches.";
    assert!(log.contains(line), "{log}");
    let output = scene.program.run_to(0, &["list", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["patches"].as_array().unwrap().len(), 1);
}

#[test]
fn a_pre_patch_callback_that_fails() {
    let mut scene = Scene::set();
    let code = format!(
        "{CODE}\nstatic int refuse(struct klp_object *o) {{ pr_info(\"not today\\n\"); return -ENODEV; }}\n\
         #define CALLBACKS , .callbacks.pre_patch = refuse"
    );
    let module = scene.module("fix", &code, &[("answer", "new_answer")]);
    let output = scene.program.run(&["load", &module]);
    let said = [
        "'fix'",
        "pre_patch callback of object 'program' returned -19",
        "log of the target may say why",
    ];
    expect(&output, "ENODEV", &said);
    assert_eq!(scene.program.ask("abc"), "10");
    let status = stdout(&scene.program.run_to(0, &["status"]));
    assert!(status.contains("no patches"), "{status}");
    let log = stdout(&scene.program.run_to(0, &["log"]));
    assert!(log.contains("not today"), "{log}");
    assert!(
        log.contains("livepatch: pre-patch callback failed for object 'program'"),
        "{log}"
    );
    assert!(
        log.contains("livepatch: failed to enable patch 'fix'"),
        "{log}"
    );
}

#[test]
fn no_memory_near_the_target() {
    let mut scene = Scene::with(
        r#"do { unsigned long pages; FILE *file = fopen("/proc/self/statm", "r"); \
        if (!file || fscanf(file, "%lu", &pages) != 1) abort(); fclose(file); \
        struct rlimit limit = { pages * 4096 + (1 << 20), RLIM_INFINITY }; \
        setrlimit(RLIMIT_AS, &limit); } while (0)
#include <sys/resource.h>"#,
    );
    let module = scene.fix();
    let help = format!(
        "help: raise it: prlimit --pid {} --as=",
        scene.program.pid()
    );
    let said = [
        "map memory in the target",
        "RLIMIT_AS leaves",
        "KiB are needed",
        &help,
    ];
    scene.refuses(&["load", &module], "ENOMEM", &said);
    scene.check_says(&module, &said[1..3]);
    let prlimit = ["--pid", &scene.program.pid().to_string(), "--as=unlimited"].map(str::to_owned);
    run_checked(Command::new("prlimit").args(prlimit).stdout(Stdio::null()));
    scene.program.run_to(0, &["load", &module]);
    assert_eq!(scene.program.ask("abc"), "300");
}

#[test]
fn a_running_transition() {
    const LINGERING: &str = r#"
#include <pthread.h>
#include <unistd.h>
static volatile int entered;
__attribute__((noinline)) int linger(int fd) { char byte; entered = 1; return (int)read(fd, &byte, 1) + 1; }
static void *body(void *ends) { return (void *)(long)linger(*(int *)ends); }
static void lingering(void)
{
	static int ends[2];
	pthread_t thread;
	if (!pipe(ends))
		pthread_create(&thread, NULL, body, ends);
	while (!entered)
		usleep(1000);
}
#define PREPARATION lingering()
"#;
    let workshop = Workshop::new();
    let path = workshop.program("program", &format!("{LINGERING}{PROGRAM}"), &["-pthread"]);
    let mut program = Program::start(&path);
    assert_eq!(program.ask("abc"), "10");
    let slow = "static int new_linger(int fd) { return fd; }";
    let slow = workshop.module("slow", &livepatch(slow, &[("linger", "new_linger")], ""));
    let fix = workshop.module("fix", &livepatch(CODE, &[("answer", "new_answer")], ""));
    program.run_to(0, &["load", &slow, "--no-wait"]);
    let said = [
        "patch 'fix'",
        "'slow' is in transition",
        "wait for it, reverse it or force it",
    ];
    expect(&program.run(&["load", &fix]), "EBUSY", &said);
    let output = program.run_to(1, &["check", &fix]);
    assert!(
        stdout(&output).contains("'slow' is in transition"),
        "{output:?}"
    );
    assert_eq!(program.ask("abc"), "10");
    let output = program.run_to(0, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["transition"]["patch"], "slow");
    assert_eq!(status["patches"].as_array().unwrap().len(), 1);
    program.run_to(0, &["disable", "slow"]);
    program.run_to(0, &["load", &fix]);
    assert_eq!(program.ask("abc"), "300");
}
