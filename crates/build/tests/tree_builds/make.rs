//! A source tree built with make, before and after a patch.

use crate::objects::{changed, names};
use crate::project::Project;

const MAKEFILE: &str = "\
CFLAGS = -O2 -Wall
program: main.o util.o sub/lib.a
\t$(CC) $(LDFLAGS) -o $@ main.o util.o sub/lib.a
sub/lib.a: sub/part.o sub/unused.o
\tar rc $@ sub/part.o sub/unused.o
";

fn sample() -> Project {
    Project::new()
        .file("Makefile", MAKEFILE)
        .file(
            "main.c",
            "int util(int);\nint part(int);\nint main(void) { return util(1) + part(2); }\n",
        )
        .file("util.c", "int util(int x)\n{\n\treturn x + 1;\n}\n")
        .file("sub/part.c", "int part(int x)\n{\n\treturn x + 2;\n}\n")
        .file("sub/unused.c", "int unused(int x)\n{\n\treturn x + 3;\n}\n")
}

#[test]
fn the_target_is_what_was_linked_in_this_order() {
    let project = sample().patch("sub/part.c", "x + 2", "x + 20");
    let (before, after) = project.build("program", &["make", "-j2"]).expect("builds");
    assert_eq!(names(&before), ["main.o", "util.o", "sub/lib.a(part.o)"]);
    let sources: Vec<_> = before
        .objects
        .iter()
        .map(|object| object.source.clone().expect("known"))
        .collect();
    assert_eq!(
        sources,
        ["main.c", "util.c", "sub/part.c"].map(std::path::PathBuf::from)
    );
    assert_eq!(changed(&before, &after), ["sub/lib.a(part.o)"]);
}
