//! Functions that a patch does not touch stay what they were.

use std::cell::RefCell;
use std::fs;

use crate::objects::{changed, named, section};
use crate::project::Project;
use engraft_build::{Progress, Step, build_both};

const SOURCE: &str = "\
#include \"check.h\"

int first(int x)
{
\tCHECK(x > 0);
\treturn x + 1;
}

int second(int x)
{
\tCHECK(x > 1);
\treturn inline_one(x) + inline_two(x);
}
";

const HEADER: &str = "\
extern void fail(const char *file, int line);
#define CHECK(x) do { if (!(x)) fail(__FILE__, __LINE__); } while (0)
static inline int inline_one(int x) { CHECK(x < 9); return x; }

static inline int inline_two(int x) { CHECK(x < 9); return 2 * x; }
";

const MAIN: &str = "\
#include <stdio.h>
#include <stdlib.h>
void fail(const char *file, int line) { printf(\"%s:%d\\n\", file, line); exit(0); }
int first(int), second(int);
int main(int argc, char **argv) { return argc == 1 ? first(0) : second(argc - 2); }
";

const BUILD: [&str; 3] = [
    "sh",
    "-c",
    "gcc -O2 -Wall -Werror -c *.c && gcc *.o -o program",
];

fn sample() -> Project {
    Project::new()
        .file("check.h", HEADER)
        .file("main.c", MAIN)
        .file("code.c", SOURCE)
}

#[test]
fn code_after_an_added_line_is_the_same() {
    let project = sample().patch(
        "code.c",
        "return x + 1;",
        "if (x == 7)\n\t\treturn 0;\n\treturn x + 1;",
    );
    let (before, after) = project.build("program", &BUILD).expect("builds");
    assert_eq!(changed(&before, &after), ["code.o"]);
    let function = |built, name| section(&named(built, "code.o").path, name).expect(name);
    assert_ne!(
        function(&before, ".text.first"),
        function(&after, ".text.first")
    );
    assert_eq!(
        function(&before, ".text.second"),
        function(&after, ".text.second")
    );
    assert_eq!(
        section(&named(&before, "code.o").path, ".rodata.str1.1"),
        section(&named(&after, "code.o").path, ".rodata.str1.1"),
        "the file's name"
    );
}

#[test]
fn code_after_a_line_that_is_added_to_a_header_is_the_same() {
    let project = sample().patch(
        "check.h",
        "static inline int inline_one",
        "extern int added;\nstatic inline int inline_one",
    );
    let (before, after) = project.build("program", &BUILD).expect("builds");
    for name in [".text.first", ".text.second"] {
        assert_eq!(
            section(&named(&before, "code.o").path, name),
            section(&named(&after, "code.o").path, name),
            "{name}"
        );
    }
}

struct Steps(RefCell<Vec<String>>);

impl Progress for Steps {
    fn step(&self, step: &Step<'_>) {
        self.0.borrow_mut().push(format!("{step:?}"));
    }
}

#[test]
fn a_tree_that_does_not_build_with_directives_is_built_without() {
    // A generator that knows no directives.
    let project = sample().file("list.h", "int one;\nint two;\n").patch(
        "list.h",
        "int one;\n",
        "int more;\nint one;\n",
    );
    let script = "! grep -q '^#line' list.h && gcc -O2 -c *.c && gcc *.o -o program";
    let steps = Steps(RefCell::default());
    let request = project.request("program", &["sh", "-c", script]);
    let (before, after) = build_both(&request, &steps).expect("builds");
    assert_eq!(changed(&before, &after), Vec::<&str>::new());
    let steps = steps.0.into_inner();
    assert!(
        steps.contains(&"LineNumbersGivenUp".to_owned()),
        "{steps:?}"
    );
}

#[test]
fn progress_counts_what_is_compiled() {
    let project = sample().patch("code.c", "x + 1", "x + 2");
    let script = "echo 'int main(void) { return 0; }' > conftest.c && gcc -c conftest.c && rm conftest.* && \
                  gcc -c main.c && gcc -c code.c && gcc *.o -o program";
    let steps = Steps(RefCell::default());
    build_both(&project.request("program", &["sh", "-c", script]), &steps).expect("builds");
    let side = |side: &str| {
        [
            format!("Building({side})"),
            format!("Compiling {{ side: {side}, objects: 1, source: \"main.c\" }}"),
            format!("Compiling {{ side: {side}, objects: 2, source: \"code.c\" }}"),
        ]
    };
    let mut expected = vec!["Preparing".to_owned()];
    expected.extend(side("Before"));
    expected.extend(side("After"));
    assert_eq!(steps.0.into_inner(), expected);
}

#[test]
fn messages_name_the_lines_that_the_running_program_names() {
    let project = sample().patch(
        "code.c",
        "return x + 1;",
        "if (x == 7)\n\t\treturn 0;\n\treturn x + 1;",
    );
    let script = "gcc -O2 -c *.c && gcc *.o -o program && ./program && ./program 2";
    project
        .build("program", &["sh", "-c", script])
        .expect("builds");
    for side in ["before", "after"] {
        let log = fs::read_to_string(project.path(&format!("work/{side}.log"))).expect("a log");
        assert_eq!(log, "code.c:5\ncode.c:11\n", "{side}");
    }
}
