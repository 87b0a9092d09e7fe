//! Programs that answer questions, and what patches change in their answers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use engraft_engine::Engine;

use super::{Program, Workshop, load, settle};

/// `main()` of a program in C or C++ that defines `reply()`, which prints one line without
/// its end.
const MAIN: &str = r#"
#include <stdio.h>
#include <string.h>
#ifdef __cplusplus
extern "C"
#endif
void reply(const char *question);
int main(void)
{
	char line[256];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		reply(line);
		puts("");
		fflush(stdout);
	}
	return 0;
}
"#;

/// What a livepatch in C or C++ starts with.
pub const HEAD: &str = "
#include <linux/module.h>
#include <linux/livepatch.h>
";

/// The rest of a livepatch, whose `FUNCS` are its `struct klp_func`s.
const TAIL: &str = r#"
static struct klp_func funcs[] = { FUNCS {} };
static struct klp_object objs[] = { { .name = OBJECT, .funcs = funcs }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int init(void) { return klp_enable_patch(&patch); }
static void leave(void) { }
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

/// The source of a livepatch that replaces functions of the executable.
pub fn livepatch(body: &str, functions: &[(&str, &str)]) -> String {
    livepatch_of("NULL", body, functions)
}

/// The source of a livepatch that replaces functions of `object`, a C expression.
pub fn livepatch_of(object: &str, body: &str, functions: &[(&str, &str)]) -> String {
    let funcs: String = functions
        .iter()
        .map(|(old, new)| format!("{{ .old_name = \"{old}\", .new_func = (void *){new} }}, "))
        .collect();
    let tail = TAIL.replace("OBJECT", object).replace("FUNCS", &funcs);
    format!("{HEAD}{body}{tail}")
}

impl Workshop {
    /// Builds a program around `reply()`.
    pub fn answering(&self, compiler: &str, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        let language = if compiler.contains("++") { "cpp" } else { "c" };
        let (main, own) = (format!("main.{language}"), format!("{name}.{language}"));
        self.write(&main, MAIN);
        self.write(&own, source);
        let mut arguments = vec!["-O2", "-g", &main, &own];
        arguments.extend(flags);
        self.build(compiler, name, &arguments)
    }
}

/// A question, the answer of the original, the answer while it is patched.
pub type Case<'a> = (&'a str, &'a str, &'a str);

/// Asserts the answers before a patch, with it, and after it has gone again.
pub fn comes_and_goes(program: &mut Program, name: &str, module: &[u8], cases: &[Case<'_>]) {
    ask_all(program, "before", cases, false);
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, name, module, &[]).unwrap_or_else(|error| panic!("load: {error}"));
    settle(&mut engine);
    ask_all(program, "patched", cases, true);
    engine.disable(name, false).expect("disable");
    settle(&mut engine);
    ask_all(program, "disabled", cases, false);
    engine.unload(name).expect("unload");
    ask_all(program, "unloaded", cases, false);
}

fn ask_all(program: &mut Program, when: &str, cases: &[Case<'_>], patched: bool) {
    for (question, old, new) in cases {
        let wanted = if patched { new } else { old };
        assert_eq!(program.ask(question), *wanted, "{when}: {question}");
    }
}

/// Retries until one thread is left, and is in `function`. It may have been borrowed just now,
/// and be on its way back.
pub fn wait_for_blocker(engine: &mut Engine, function: &str) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let transition = engine.retry().expect("retry").expect("a thread is held");
        let blockers: Vec<_> = transition.blockers.iter().map(|b| &b.function).collect();
        if blockers == [&Some(function.to_owned())] {
            return;
        }
        assert!(Instant::now() < deadline, "{transition:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lines of /proc/PID/maps: what a refused load must leave as it was.
pub fn maps_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps")
}
