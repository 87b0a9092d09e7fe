//! A program with functions to be patched, a thread that can be parked in one of them, and
//! short ways to write livepatches down.

use std::ffi::OsStr;
use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use engraft_engine::{Engine, Error, LoadRequest, PatchStatus, Status, read_status};
use nix::errno::Errno;

use crate::support::{Program, Workshop, log_of, settle};

/// `first` and `second` answer 1 and 2; a thread can be parked in `linger`, and one under 300
/// activations of `sink`. `twin` exists twice. The library of the last argument can be opened,
/// its `library_answer` or another function called, and closed again.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define NOIPA __attribute__((noipa))

static volatile int one = 1;
static volatile int inside;
static int ends[2];
static pthread_t parked;
extern int other_twin(void);

NOIPA int first(void) { return one; }
NOIPA int second(void) { return 2 * one; }
NOIPA static int twin(void) { return 10 * one; }
NOIPA int linger(int fd) { char byte; inside = 1; return read(fd, &byte, 1) + 3; }
NOIPA int sink(int depth) { return depth ? sink(depth - 1) + one : linger(ends[0]); }

static void *park(void *deep)
{
	int result = deep ? sink(300) - 300 : linger(ends[0]);
	return (void *)(long)result;
}

int main(int count, char **arguments)
{
	char line[64];
	void *result, *library = NULL;
	int (*answer)(void) = NULL;

	if (pipe(ends))
		return 1;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (!strcmp(line, "ask\n")) {
			printf("%d %d\n", first(), second());
		} else if (!strcmp(line, "twins\n")) {
			printf("%d %d\n", twin(), other_twin());
		} else if (!strncmp(line, "open", 4)) {
			library = line[4] == ' ' ? dlmopen(LM_ID_NEWLM, arguments[count - 1], RTLD_NOW)
						 : dlopen(arguments[count - 1], RTLD_NOW);
			answer = library ? (int (*)(void))dlsym(library, "library_answer") : NULL;
			puts(library ? "opened" : dlerror());
		} else if (!strcmp(line, "call\n")) {
			printf("%d\n", answer());
		} else if (!strcmp(line, "occupy\n")) {
			for (int i = 0; i < 64; i++)
				mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			puts("occupied");
		} else if (!strncmp(line, "call ", 5)) {
			line[strcspn(line, "\n")] = 0;
			printf("%d\n", ((int (*)(void))dlsym(library, line + 5))());
		} else if (!strcmp(line, "close\n")) {
			puts(dlclose(library) ? "failed" : "closed");
		} else if (!strcmp(line, "park\n") || !strcmp(line, "sink\n")) {
			inside = 0;
			pthread_create(&parked, NULL, park, line[0] == 's' ? line : NULL);
			while (!inside)
				usleep(1000);
			puts("parked");
		} else if (!strcmp(line, "release\n")) {
			if (write(ends[1], "x", 1) != 1)
				return 2;
			pthread_join(parked, &result);
			printf("%ld\n", (long)result);
		}
		fflush(stdout);
	}
	return 0;
}
"#;

/// File name of a test's own library.
pub(crate) const LIBRARY: &str = "libanswer.so.1";

const TWIN: &str = r#"
static volatile int one = 1;
__attribute__((noipa)) static int twin(void) { return 20 * one; }
int other_twin(void) { return twin(); }
"#;

/// What every livepatch begins with. `FUNCS(NAME, { "old", new }, ...)` is an array of funcs,
/// TELL a set of callbacks that tell of themselves, with the number of the newest previous
/// version of state 7.
const PRELUDE: &str = r#"
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/errno.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

#define FUNCS(array, ...) static struct klp_func array[] = { __VA_ARGS__ __VA_OPT__(,) {} }

static int pre_patch_ret;
module_param(pre_patch_ret, int, 0644);

__attribute__((unused)) static void tell(const char *what, struct klp_object *obj)
{
	struct klp_state *prev = klp_get_prev_state(7);

	pr_info("%s %s %d prev %d\n", what, obj->mod ? obj->mod->name : "main",
		obj->mod ? (int)obj->mod->state : -1, prev ? (int)prev->version : -1);
}
__attribute__((unused)) static int pre_patch(struct klp_object *obj)
{
	tell("pre_patch", obj);
	return pre_patch_ret;
}
__attribute__((unused)) static void post_patch(struct klp_object *obj) { tell("post_patch", obj); }
__attribute__((unused)) static void pre_unpatch(struct klp_object *obj) { tell("pre_unpatch", obj); }
__attribute__((unused)) static void post_unpatch(struct klp_object *obj) { tell("post_unpatch", obj); }
#define TELL { pre_patch, post_patch, pre_unpatch, post_unpatch }
"#;

/// What most livepatches end with.
const EPILOGUE: &str = r"
static int init(void) { return klp_enable_patch(&patch); }
static void leave(void) { }
module_init(init);
module_exit(leave);
";

const MARK: &str = r#"
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

/// A livepatch whose `body` defines `objs`; `fields` go into the `struct klp_patch`.
pub(crate) fn livepatch(body: &str, fields: &str) -> String {
    let patch = "static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs,";
    format!("{PRELUDE}{body}\n{patch} {fields} }};\n{EPILOGUE}{MARK}")
}

/// A livepatch written out whole, `init` and `leave` included, but for the beginning and the
/// mark.
pub(crate) fn written_out(body: &str) -> String {
    format!("{PRELUDE}{body}{MARK}")
}

/// A livepatch that lets functions of the program answer with numbers and tells of its
/// callbacks.
pub(crate) fn answering(functions: &[(&str, i32)], fields: &str) -> String {
    let mut body = String::new();
    let mut entries = String::new();
    for (name, answer) in functions {
        // `linger` takes a descriptor; any function may be called with one too many.
        let _ = writeln!(body, "static int new_{name}(int fd) {{ return {answer}; }}");
        let _ = write!(entries, "{{ \"{name}\", new_{name} }},");
    }
    let entries = entries.trim_end_matches(',');
    let _ = writeln!(body, "FUNCS(funcs, {entries});");
    body += "static struct klp_object objs[] = { { .funcs = funcs, .callbacks = TELL }, {} };";
    livepatch(&body, fields)
}

pub(crate) struct Scene {
    pub(crate) workshop: Workshop,
    pub(crate) program: Program,
    pub(crate) engine: Engine,
}

impl Scene {
    pub(crate) fn set() -> Self {
        Self::set_with(Workshop::new())
    }

    /// In a directory that may hold the library.
    pub(crate) fn set_with(workshop: Workshop) -> Self {
        Self::start(workshop, &[])
    }

    /// The program is started by a command, such as `nice`.
    pub(crate) fn set_under(command: &[&str]) -> Self {
        Self::start(Workshop::new(), command)
    }

    fn start(workshop: Workshop, before: &[&str]) -> Self {
        workshop.write("program.c", PROGRAM);
        workshop.write("twin.c", TWIN);
        let arguments = ["-O2", "-pthread", "program.c", "twin.c"];
        let path = workshop.build("cc", "program", &arguments);
        let library = workshop.path(LIBRARY);
        let words = before.iter().map(OsStr::new);
        let mut words = words.chain([path.as_os_str(), library.as_os_str()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        let program = Program::start_with(command);
        let engine = Engine::open(program.pid()).expect("open");
        Self {
            workshop,
            program,
            engine,
        }
    }

    /// Lets go of the process and takes hold of it again, as the next command does.
    pub(crate) fn reopen(self) -> Self {
        let Self {
            workshop,
            program,
            engine,
        } = self;
        drop(engine);
        let engine = Engine::open(program.pid()).expect("open");
        Self {
            workshop,
            program,
            engine,
        }
    }

    pub(crate) fn load_with(
        &mut self,
        name: &str,
        source: &str,
        parameters: &[(&str, &str)],
    ) -> Result<(), Error> {
        let module = self.workshop.module(name, source);
        crate::support::load(&mut self.engine, name, &module, parameters)
    }

    /// Compiles, loads, enables.
    pub(crate) fn load(&mut self, name: &str, source: &str) -> Result<(), Error> {
        self.load_with(name, source, &[])
    }

    /// Compiles and loads without enabling.
    #[track_caller]
    pub(crate) fn register(&mut self, name: &str, source: &str) {
        let module = self.workshop.module(name, source);
        let request = LoadRequest {
            module: &module,
            file_name: &format!("{name}.lp"),
            parameters: &[],
            enable: false,
        };
        self.engine.load(&request).expect("load");
    }

    /// Loads and waits until the transition is over.
    #[track_caller]
    pub(crate) fn install(&mut self, name: &str, source: &str) {
        self.load(name, source)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        self.settle();
    }

    pub(crate) fn settle(&mut self) {
        settle(&mut self.engine);
    }

    /// Waits until the only thread that holds up the transition is seen in a function.
    #[track_caller]
    pub(crate) fn expect_blocked_in(&mut self, function: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.engine.retry().expect("retry").expect("a transition");
            let functions: Vec<_> = status
                .blockers
                .iter()
                .map(|b| b.function.as_deref())
                .collect();
            if functions == [Some(function)] {
                return;
            }
            // One that was lent to a callback may still be on its way back.
            assert!(Instant::now() < deadline, "{status:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    pub(crate) fn disable(&mut self, name: &str) {
        self.engine.disable(name, false).expect("disable");
        self.settle();
    }

    #[track_caller]
    pub(crate) fn enable(&mut self, name: &str) {
        self.engine.enable(name, false).expect("enable");
        self.settle();
    }

    /// Asserts what `first` and `second` answer.
    #[track_caller]
    pub(crate) fn expect_answers(&mut self, first: i32, second: i32) {
        assert_eq!(self.program.ask("ask"), format!("{first} {second}"));
    }

    pub(crate) fn status(&self) -> Status {
        read_status(self.program.pid()).expect("status")
    }

    #[track_caller]
    pub(crate) fn patch(&self, name: &str) -> PatchStatus {
        let mut patches = self.status().patches.into_iter();
        patches.find(|patch| patch.name == name).expect("patch")
    }

    /// The log from line number `from` on, the prefix `livepatch: ` left out.
    pub(crate) fn log_from(&self, from: usize) -> Vec<String> {
        let lines = log_of(self.program.pid()).into_iter().skip(from);
        let short = |line: String| {
            line.strip_prefix("livepatch: ")
                .map(str::to_owned)
                .unwrap_or(line)
        };
        lines.map(short).collect()
    }

    pub(crate) fn log_length(&self) -> usize {
        log_of(self.program.pid()).len()
    }
}

/// Asserts a refusal's errno and a part of its text, the way out included.
#[track_caller]
pub(crate) fn expect_refused<V: std::fmt::Debug>(
    result: Result<V, Error>,
    errno: Errno,
    part: &str,
) {
    let error = result.expect_err("refused");
    let text = format!("{error}; {}", error.help().unwrap_or_default());
    assert_eq!(error.errno(), errno, "{text}");
    assert!(text.contains(part), "{text:?} does not contain {part:?}");
}
