//! A program in the foreground of a terminal, reading a line: the line arrives whole, nobody is
//! stopped or put into the background, and the terminal's settings stay.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use engraft_engine::Engine;
use nix::pty::openpty;

use crate::support::answers::livepatch;
use crate::support::{Workshop, load, settle};

/// Makes its input the controlling terminal of a session of its own.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
static volatile sig_atomic_t signals;
static void count(int number) { signals++; }
static volatile int one = 1;
__attribute__((noipa)) int answer(int x) { return x + one; }
int main(void)
{
	char line[64];
	struct termios settings;
	const int job_control[] = { SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGHUP, SIGINT };
	setsid();
	ioctl(0, TIOCSCTTY, 0);
	tcgetattr(0, &settings);
	settings.c_lflag &= ~ECHO;
	tcsetattr(0, TCSANOW, &settings);
	for (int i = 0; i < 6; i++)
		signal(job_control[i], count);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		tcgetattr(0, &settings);
		printf("%d %d %d %d\n", answer(atoi(line)), (int)signals,
		       tcgetpgrp(0) == getpgrp(), !(settings.c_lflag & ECHO));
		fflush(stdout);
	}
	return 0;
}
"#;

struct Console {
    child: Child,
    keyboard: File,
    screen: BufReader<File>,
}

impl Console {
    fn start(path: &std::path::Path) -> Self {
        let ends = openpty(None, None).expect("a pseudo terminal");
        let copy = |end: &OwnedFd| end.try_clone().expect("descriptor");
        let child = Command::new(path)
            .stdin(Stdio::from(copy(&ends.slave)))
            .stdout(Stdio::from(ends.slave))
            .spawn()
            .expect("program starts");
        let mut console = Self {
            child,
            keyboard: File::from(copy(&ends.master)),
            screen: BufReader::new(File::from(ends.master)),
        };
        assert_eq!(console.line(), "ready");
        console
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.screen.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("keys");
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn terminal() {
    let workshop = Workshop::new();
    workshop.write("program.c", PROGRAM);
    let path = workshop.build("cc", "program", &["-O2", "-g", "program.c"]);
    let source = livepatch(
        "static int new_answer(int x) { return x * 10; }",
        &[("answer", "new_answer")],
    );
    let module = workshop.module("terminal", &source);
    let mut console = Console::start(&path);
    let pid = console.child.id().cast_signed();
    console.press("12\n");
    assert_eq!(console.line(), "13 0 1 1");
    // Half a line is typed before the patch, half after it.
    console.press("1");
    let mut engine = Engine::open(pid).expect("open");
    load(&mut engine, "terminal", &module, &[]).expect("load");
    settle(&mut engine);
    console.press("2\n");
    assert_eq!(console.line(), "120 0 1 1");
    console.press("1");
    engine.disable("terminal", false).expect("disable");
    settle(&mut engine);
    console.press("2\n");
    assert_eq!(console.line(), "13 0 1 1");
}
