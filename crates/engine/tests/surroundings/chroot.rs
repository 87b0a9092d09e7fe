//! A program that has changed its root directory: neither its executable nor its libraries nor
//! the module can be opened by their paths there.

use nix::unistd::geteuid;

use crate::support::answers::{comes_and_goes, livepatch};
use crate::support::{Program, Workshop};

const LIBRARY: &str = "int scale(int x) { return x * 10; }\n";

const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
extern int scale(int x);
__attribute__((noipa)) static int answer(int x) { return x + 1; }
__attribute__((constructor)) static void change_root(void)
{
	const char *root = getenv("NEW_ROOT");
	/* Without root's rights it becomes root in a user namespace of its own. */
	if (geteuid() != 0 && unshare(CLONE_NEWUSER))
		perror("unshare"), exit(3);
	if (chdir(root) || chroot("."))
		perror("chroot"), exit(2);
}
void reply(const char *question)
{
	struct stat place;
	printf("%d %d %s", answer(atoi(question)), scale(2),
	       stat("/proc/self", &place) ? "alone" : "in company");
}
"#;

const PATCH: &str = r#"
KLP_SYM(scale, "libscale", "scale", 0);
extern int scale(int x);
static int new_answer(int x) { return scale(x) + 2; }
static int new_scale(int x) { return x * 100; }
"#;

#[test]
fn chroot() {
    let workshop = Workshop::new();
    workshop.write("scale.c", LIBRARY);
    let arguments = ["-O2", "-shared", "-fPIC", "scale.c"];
    workshop.build("cc", "libscale.so", &arguments);
    let flags = ["-L.", "-lscale", "-Wl,-rpath,$ORIGIN"];
    let path = workshop.answering("cc", "program", PROGRAM, &flags);
    let source = livepatch(PATCH, &[("answer", "new_answer")]).replace(
        "static struct klp_object objs[] = {",
        "static struct klp_func more[] = {\n\
         \t{ .old_name = \"scale\", .new_func = (void *)new_scale }, {} };\n\
         static struct klp_object objs[] = { { .name = \"libscale\", .funcs = more },",
    );
    let module = workshop.module("chroot", &source);
    let root = workshop.path("root");
    std::fs::create_dir(&root).expect("a directory");
    let mut command = std::process::Command::new(path);
    command.env("NEW_ROOT", &root);
    let mut program = Program::start_with(command);
    if !geteuid().is_root() {
        println!("in a user namespace, for want of root's rights");
    }
    let cases = [("3", "4 20 alone", "302 200 alone")];
    comes_and_goes(&mut program, "chroot", &module, &cases);
    program.finish();
}
