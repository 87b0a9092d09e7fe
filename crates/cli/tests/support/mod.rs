//! Programs and livepatches compiled at test time, and the command run on them.
#![allow(dead_code, missing_docs, unreachable_pub)] // each test binary uses its own part

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory with the things of one test.
pub struct Workshop(tempfile::TempDir);

impl Workshop {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Compiles a program; `flags` may name further sources and libraries.
    pub fn program(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        let source = self.write(&format!("{name}.c"), source);
        let output = self.path(name);
        let mut command = Command::new("cc");
        command
            .arg("-O2")
            .arg("-o")
            .args([&output, &source])
            .args(flags);
        run_checked(command.current_dir(self.0.path()));
        output
    }

    /// Compiles a livepatch with the command; returns the path of the module.
    pub fn module(&self, name: &str, source: &str) -> String {
        let source = self.write(&format!("{name}.c"), source);
        let output = self.path(&format!("{name}.lp"));
        run_checked(engraft().arg("cc").arg(source).arg("-o").arg(&output));
        output.to_str().unwrap().to_owned()
    }
}

/// A livepatch that replaces functions of the main executable; `code` defines the new ones.
pub fn livepatch(code: &str, funcs: &[(&str, &str)], patch: &str) -> String {
    let funcs: String = funcs
        .iter()
        .map(|(old, new)| format!("{{ .old_name = \"{old}\", .new_func = {new} }}, "))
        .collect();
    format!(
        r#"
#include <linux/livepatch.h>
#include <linux/module.h>
{code}
#ifndef CALLBACKS
#define CALLBACKS
#endif
static struct klp_func funcs[] = {{ {funcs}{{ }} }};
static struct klp_object objs[] = {{ {{ .funcs = funcs CALLBACKS }}, {{ }} }};
static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs, {patch} }};
static int fix_init(void) {{ return klp_enable_patch(&patch); }}
static void fix_exit(void) {{ }}
module_init(fix_init);
module_exit(fix_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#
    )
}

pub fn engraft() -> Command {
    Command::new(env!("CARGO_BIN_EXE_engraft"))
}

#[track_caller]
pub fn run_checked(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program run as nobody if this is root, else as the user that this is.
pub fn as_nobody(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(program);
    command
}

pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    line.split_whitespace().nth(2) == Some("0")
}

/// A running program that says "ready" and answers lines with lines.
pub struct Program {
    pub child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    pub fn start(path: &Path) -> Self {
        Self::start_with(Command::new(path))
    }

    pub fn start_with(mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        let program = Self {
            child,
            input,
            lines,
        };
        assert_eq!(program.line(), "ready");
        program
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    #[track_caller]
    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("the program answers")
    }

    #[track_caller]
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").expect("the program listens");
    }

    #[track_caller]
    pub fn ask(&mut self, question: &str) -> String {
        self.tell(question);
        self.line()
    }

    /// Runs a command on it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let pid = self.pid().to_string();
        engraft()
            .args(arguments)
            .args(["--pid", &pid])
            .output()
            .unwrap()
    }

    /// Runs a command on it and checks the exit code.
    #[track_caller]
    pub fn run_to(&self, code: i32, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        output
    }

    /// Closes its input and expects a clean end.
    #[track_caller]
    pub fn finish(mut self) {
        drop(self.input.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
