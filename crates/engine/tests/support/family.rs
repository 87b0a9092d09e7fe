//! `fixtures/family.c`, its forked children, and patches for it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::{Program, Workshop};

/// What a patch for the family replaces.
pub const ALL: [&str; 4] = ["step", "other", "pair", "hold"];

/// The program and its patches, compiled once for many starts.
pub struct Family {
    pub workshop: Workshop,
    pub path: PathBuf,
    children: u32,
}

impl Family {
    pub fn build() -> Self {
        let workshop = Workshop::new();
        let path = workshop.build_fixture("family.c", &["-O2", "-pthread"]);
        Self {
            workshop,
            path,
            children: 0,
        }
    }

    pub fn start(&self) -> Program {
        let mut command = Command::new(&self.path);
        command.process_group(0);
        Program::start_with(command)
    }

    /// A patch whose functions are of the version given.
    pub fn patch(&self, name: &str, version: u32, functions: &[&str], replace: bool) -> Vec<u8> {
        self.workshop
            .module(name, &patch_source(version, functions, replace))
    }

    /// Has the program fork, and talks to the child.
    pub fn fork(&mut self, program: &mut Program) -> Child {
        self.children += 1;
        let [input, output] =
            ["in", "out"].map(|end| self.workshop.path(&format!("{end}{}", self.children)));
        for fifo in [&input, &output] {
            let made = Command::new("mkfifo").arg(fifo).status().expect("mkfifo");
            assert!(made.success());
        }
        let pid = program.ask(&format!("fork {} {}", input.display(), output.display()));
        // Opening a pipe waits for the other end.
        let input = File::create(input).expect("pipe");
        let output = BufReader::new(File::open(output).expect("pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let child = Child {
            pid: pid.parse().expect("a process number"),
            input,
            lines,
        };
        assert_eq!(child.line(), "ready");
        child
    }
}

/// A forked child; ends when it is dropped.
pub struct Child {
    pub pid: i32,
    input: File,
    lines: Receiver<String>,
}

impl Child {
    fn line(&self) -> String {
        self.lines
            .recv_timeout(Duration::from_secs(20))
            .expect("the child answers")
    }

    pub fn ask(&mut self, question: &str) -> String {
        writeln!(self.input, "{question}").expect("the child listens");
        self.line()
    }
}

fn patch_source(version: u32, functions: &[&str], replace: bool) -> String {
    let funcs: String = functions
        .iter()
        .map(|name| format!("\t{{ .old_name = \"{name}\", .new_func = new_{name} }},\n"))
        .collect();
    format!(
        r#"
#include <linux/module.h>
#include <linux/livepatch.h>
extern int step(void), other(void), judge(int own, int first, int second);
extern int serve(void), fputs(const char *, void *), fflush(void *);
extern void *out;
/* Keeps a call from becoming a jump, which would leave no frame of its caller. */
#define CALL(call) ({{ int result_ = (call); barrier(); result_; }})
__attribute__((unused)) static int new_step(void) {{ return {version}; }}
__attribute__((unused)) static int new_other(void) {{ return {version}; }}
__attribute__((unused)) static int new_pair(void) {{ return CALL(judge({version}, step(), other())); }}
__attribute__((unused)) static int new_hold(void)
{{
	fputs("inside\n", out);
	fflush(out);
	serve();
	return CALL(judge({version}, step(), other()));
}}
static struct klp_func funcs[] = {{
{funcs}	{{}}
}};
static struct klp_object objs[] = {{ {{ .funcs = funcs }}, {{}} }};
static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs, .replace = {replace} }};
static int init(void) {{ return klp_enable_patch(&patch); }}
static void leave(void) {{ }}
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#
    )
}
