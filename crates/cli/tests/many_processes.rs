//! All processes of one program are patched by one command, and no process of another one; when
//! one of them refuses, the others are served, and the command says who was not.

mod support;

use std::path::Path;
use std::process::Output;

use support::{Program, Workshop, engraft, livepatch, stderr};

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
static volatile int factor = 2;
__attribute__((noinline)) int answer(int question) { return question * factor; }
int main(void)
{
	static char line[64];
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%d\n", answer(atoi(line)));
		fflush(stdout);
	}
	return 0;
}
"#;

const CODE: &str = "static int new_answer(int question) { return question * 100; }";

fn run(arguments: &[&str], exe: &Path) -> Output {
    engraft()
        .args(arguments)
        .arg("--exe")
        .arg(exe)
        .output()
        .unwrap()
}

fn succeed(arguments: &[&str], exe: &Path) {
    let output = run(arguments, exe);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
}

#[test]
fn many_processes() {
    let workshop = Workshop::new();
    let path = workshop.program("program", PROGRAM, &[]);
    // The same program under another name is another file.
    let other = workshop.program("other", PROGRAM, &[]);
    let mut programs: Vec<Program> = (0..6).map(|_| Program::start(&path)).collect();
    let mut bystander = Program::start(&other);
    let source = livepatch(CODE, &[("answer", "new_answer")], "");
    let module = workshop.module("many", &source);

    let mut expect = |answers: [&str; 6]| {
        let got: Vec<String> = programs
            .iter_mut()
            .map(|program| program.ask("3"))
            .collect();
        assert_eq!(got, answers);
        assert_eq!(bystander.ask("3"), "6");
    };
    expect(["6"; 6]);
    succeed(&["load", &module], &path);
    expect(["300"; 6]);
    succeed(&["disable", "many"], &path);
    expect(["6"; 6]);
    succeed(&["unload", "many"], &path);
    expect(["6"; 6]);
}

#[test]
fn many_processes_one_of_which_refuses() {
    let workshop = Workshop::new();
    let path = workshop.program("program", PROGRAM, &[]);
    let mut programs: Vec<Program> = (0..3).map(|_| Program::start(&path)).collect();
    let source = livepatch(CODE, &[("answer", "new_answer")], "");
    let module = workshop.module("many", &source);
    let second = programs[1].pid();
    let load = |target: [&str; 2]| engraft().args(["load", &module]).args(target).output();
    let pid = second.to_string();
    assert_eq!(load(["--pid", &pid]).unwrap().status.code(), Some(0));
    let answers = |programs: &mut Vec<Program>| -> Vec<String> {
        programs
            .iter_mut()
            .map(|program| program.ask("3"))
            .collect()
    };
    assert_eq!(answers(&mut programs), ["6", "300", "6"]);

    let output = run(&["load", &module], &path);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    for program in &programs {
        let named = said.contains(&format!("process {}: ", program.pid()));
        assert_eq!(named, program.pid() == second, "{said}");
    }
    assert!(said.contains("EEXIST"), "{said}");
    assert_eq!(answers(&mut programs), ["300"; 3]);
}
