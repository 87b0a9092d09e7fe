//! Functions in a large stripped program that is full of copies which nearly match.

use std::fmt::Write;
use std::process::Command;

use engraft_module::PreObject;

use crate::pre_code::{Plan, read_objects};
use crate::support::{Program, Workshop};
use crate::variants::examine;

const FUNCTIONS: usize = 20;
const COPIES: usize = 500;
/// A constant near the end of each function, which its copies have another one for.
const MARK: u32 = 0x0123_4567;

const MAIN: &str = r#"
#include <stdio.h>
int main(void)
{
	char line[256];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
	}
	return 0;
}
"#;

/// Functions that begin alike and differ in length.
fn source() -> String {
    let mut text = String::from("int printf(const char *, ...);\nint state[64];\n");
    for number in 0..FUNCTIONS {
        writeln!(
            text,
            "int work_{number}(const int *in, int count)\n{{\n\tint i, sum = 0;"
        )
        .unwrap();
        writeln!(
            text,
            "\tfor (i = 0; i < count; i++)\n\t\tsum += in[i] * state[i & 63];"
        )
        .unwrap();
        for step in 0..=number % 7 {
            writeln!(
                text,
                "\tif (sum > {})\n\t\tsum -= printf(\"%d\", sum);",
                1000 * (step + 1)
            )
            .unwrap();
        }
        writeln!(text, "\tstate[{number}]++;\n\treturn sum ^ {MARK};\n}}").unwrap();
    }
    text
}

/// Many copies of the functions, the first of them with the original constants.
fn copies(assembly: &str) -> String {
    let mut text = String::new();
    for copy in 0..COPIES {
        let functions = assembly
            .lines()
            .filter(|line| !line.contains("state,") && *line != "state:")
            .filter(|line| !line.contains(".zero") && !line.contains(".ident"));
        for line in functions {
            let line = line
                .replace(".L", &format!(".L{copy}_"))
                .replace("work_", &format!("work_{copy}_"))
                .replace(&format!("${MARK}"), &format!("${}", MARK as usize + copy));
            text.push_str(&line);
            text.push('\n');
        }
    }
    text + ".comm state,256,32\n"
}

fn prepare(workshop: &Workshop) -> (PreObject, Program) {
    workshop.write("main.c", MAIN);
    workshop.write("work.c", &source());
    let objects = workshop.compile_pre("gcc", &["work.c"], &["-O2"]);
    let names: Vec<String> = (0..FUNCTIONS)
        .map(|number| format!("work_{number}"))
        .collect();
    let replaced: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "")).collect();
    let plan = Plan {
        replaced: &replaced,
        ..Plan::default()
    };
    let code = read_objects(&objects, &plan);
    let assembly = workshop.build("gcc", "work.s", &["-O2", "-S", "work.c"]);
    let assembly = std::fs::read_to_string(assembly).expect("assembly");
    workshop.write("copies.s", &copies(&assembly));
    let path = workshop.build("gcc", "program", &["main.c", "copies.s"]);
    let status = Command::new("strip").arg("-s").arg(&path).status();
    assert!(status.expect("strip").success());
    (code, Program::start(&path))
}

#[test]
fn twenty_functions_among_ten_thousand() {
    let workshop = Workshop::new();
    let (code, program) = prepare(&workshop);
    let patch = "#include <linux/module.h>\nMODULE_LICENSE(\"GPL\");\n\
                 static int init(void) { return 0; }\nmodule_init(init);\n";
    let module = workshop.matched_module("many", patch, &code);
    let report = examine(program.pid(), "many", &module);
    assert_eq!(report.problems, Vec::<String>::new());
    // The other way round nothing is found, and what comes nearest is looked for.
    let mut other = code.clone();
    let mark = MARK.to_le_bytes();
    for section in &mut other.sections {
        if let Some(at) = section.bytes.windows(4).position(|window| window == mark) {
            section.bytes[at] ^= 0xff;
            section.bytes[at + 3] ^= 0x40;
        }
    }
    let module = workshop.matched_module("many", patch, &other);
    let report = examine(program.pid(), "many", &module);
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].contains("the nearest one"), "{report:?}");
    program.finish();
}
