//! C++ that throws through patched functions.

use engraft_engine::Engine;

use crate::support::answers::{Case, comes_and_goes, livepatch, wait_for_blocker};
use crate::support::{Program, Workshop, load, settle};

const PROGRAM: &str = r#"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <pthread.h>
#include <string>
#include <unistd.h>
static thread_local int guards;
struct Guard { ~Guard() { guards++; } };
extern "C" __attribute__((noipa)) int inner(int x)
{
	if (x > 10)
		throw std::runtime_error("inner " + std::to_string(x));
	return x;
}
/* Throws nothing by itself, but a caller cannot know. */
extern "C" __attribute__((noipa)) int quiet(int x) { return inner(x % 10); }
extern "C" __attribute__((noipa)) int middle(int x) { Guard guard; return inner(x) + 1; }
/* Calls are among the instructions that entry jumps displace. */
extern "C" __attribute__((noipa)) int passes(int x) { return inner(x) + 2; }
extern "C" __attribute__((noipa)) int catches(int x)
{
	try {
		return inner(x) + 3;
	} catch (const std::exception &) {
		return -3;
	}
}
static std::string answer(const char *line)
{
	const char *space = strchr(line, ' ');
	int x = atoi(space);
	std::string text;
	guards = 0;
	try {
		Guard guard;
		int result = *line == 'q' ? quiet(x) : *line == 'm' ? middle(x)
			   : *line == 'p' ? passes(x) : catches(x);
		text = std::to_string(result);
	} catch (const std::runtime_error &error) {
		text = std::string("caught '") + error.what() + "'";
	}
	return text + " guards " + std::to_string(guards);
}
/* A thread that stays in here, in the old code, and answers, until it is asked nothing. */
static int questions[2], answers[2];
extern "C" __attribute__((noipa)) int hold(void)
{
	char line[256];
	ssize_t length;
	while ((length = read(questions[0], line, sizeof(line) - 1)) > 1) {
		line[length] = 0;
		std::string text = answer(line);
		write(answers[1], text.data(), text.size());
	}
	return 1;
}
static void *held(void *)
{
	hold();
	write(answers[1], "out", 3);
	pause();
	return nullptr;
}
__attribute__((constructor)) static void start(void)
{
	pthread_t thread;
	pipe(questions);
	pipe(answers);
	pthread_create(&thread, nullptr, held, nullptr);
}
extern "C" void reply(const char *line)
{
	char text[256];
	if (strncmp(line, "held ", 5) != 0) {
		fputs(answer(line).c_str(), stdout);
		return;
	}
	write(questions[1], line + 5, strlen(line + 5) + 1);
	printf("%.*s", (int)read(answers[0], text, sizeof(text)), text);
}
"#;

const PATCH: &str = r#"// C++
#include <stdexcept>
extern "C" int inner(int x);
static int destroyed;
struct Own { ~Own() { destroyed++; } };
/* Thrown here, caught in an original caller. */
static int new_quiet(int x)
{
	Own own;
	if (x == 0)
		throw std::runtime_error("quiet no more");
	return -x;
}
/* Thrown by an original callee, caught here. */
static int new_middle(int x)
{
	try {
		Own own;
		return inner(x) + 100;
	} catch (const std::exception &error) {
		return -1000 - destroyed;
	}
}
/* Thrown by an original callee, passes through. */
static int new_passes(int x)
{
	Own own;
	return inner(x) + destroyed;
}
"#;

const FUNCTIONS: [(&str, &str); 3] = [
    ("quiet", "new_quiet"),
    ("middle", "new_middle"),
    ("passes", "new_passes"),
];

const CASES: [Case<'_>; 8] = [
    ("quiet 5", "5 guards 1", "-5 guards 1"),
    ("quiet 0", "0 guards 1", "caught 'quiet no more' guards 1"),
    ("middle 5", "6 guards 2", "105 guards 1"),
    ("middle 12", "caught 'inner 12' guards 2", "-1004 guards 1"),
    ("catches 14", "-3 guards 1", "-3 guards 1"),
    ("passes 5", "7 guards 1", "9 guards 1"),
    (
        "passes 13",
        "caught 'inner 13' guards 1",
        "caught 'inner 13' guards 1",
    ),
    // The destructor of the replacement's own object has run when it was unwound.
    ("passes 5", "7 guards 1", "11 guards 1"),
];

const HELD: &str = r#"// C++
extern "C" int inner(int x);
static int new_passes(int x) { return inner(x) + 200; }
static int new_catches(int x) { return inner(x) + 300; }
static int new_hold(void) { return 2; }
"#;

const HELD_FUNCTIONS: [(&str, &str); 3] = [
    ("passes", "new_passes"),
    ("catches", "new_catches"),
    ("hold", "new_hold"),
];

fn throws_through_patched_functions(flags: &[&str]) {
    let workshop = Workshop::new();
    let path = workshop.answering("g++", "program", PROGRAM, flags);
    let module = workshop.module("exceptions", &livepatch(PATCH, &FUNCTIONS));
    let mut program = Program::start(&path);
    comes_and_goes(&mut program, "exceptions", &module, &CASES);
    program.finish();
}

#[test]
fn exceptions_with_a_shared_standard_library() {
    throws_through_patched_functions(&[]);
}

#[test]
fn exceptions_in_a_static_executable() {
    throws_through_patched_functions(&["-static"]);
}

/// Two copies of the unwinder, of which the shared one is in charge.
#[test]
fn exceptions_beside_a_linked_unwinder() {
    throws_through_patched_functions(&["-static-libgcc", "-Wl,-u,__register_frame_info"]);
}

#[test]
fn exceptions_of_a_linked_standard_library() {
    throws_through_patched_functions(&["-static-libgcc", "-static-libstdc++"]);
}

/// A thread in the old universe runs displaced prologues, whose calls throw.
fn throws_through_displaced_calls(flags: &[&str]) {
    let workshop = Workshop::new();
    let path = workshop.answering("g++", "program", PROGRAM, flags);
    let module = workshop.module("held", &livepatch(HELD, &HELD_FUNCTIONS));
    let mut program = Program::start(&path);
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "held", &module, &[]).expect("load");
    wait_for_blocker(&mut engine, "hold");
    for (question, old, new) in [
        ("passes 5", "7 guards 1", "205 guards 1"),
        (
            "passes 13",
            "caught 'inner 13' guards 1",
            "caught 'inner 13' guards 1",
        ),
        ("catches 5", "8 guards 1", "305 guards 1"),
        ("catches 13", "-3 guards 1", "caught 'inner 13' guards 1"),
    ] {
        assert_eq!(program.ask(question), new);
        assert_eq!(program.ask(&format!("held {question}")), old);
    }
    assert_eq!(program.ask("held "), "out");
    settle(&mut engine);
    assert_eq!(program.ask("catches 13"), "caught 'inner 13' guards 1");
    drop(engine);
    program.finish();
}

#[test]
fn exceptions_through_displaced_calls() {
    throws_through_displaced_calls(&["-pthread"]);
}

#[test]
fn exceptions_through_displaced_calls_of_a_static_executable() {
    throws_through_displaced_calls(&["-pthread", "-static"]);
}
