//! Build systems.

use crate::objects::{changed, has_section, named, names};
use crate::project::Project;

/// Two sources with a function each, and a patch for the second.
fn pair() -> Project {
    Project::new()
        .file(
            "src/main.c",
            "int other(int);\nint main(void) { return other(1); }\n",
        )
        .file("src/other.c", "int other(int x)\n{\n\treturn x + 1;\n}\n")
        .patch("src/other.c", "x + 1", "x + 10")
}

fn check(project: &Project, target: &str, script: &str, expected: &[&str]) {
    let (before, after) = project
        .build(target, &["sh", "-c", script])
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(names(&before), expected);
    let other = expected.iter().find(|name| name.contains("other"));
    let other = other.expect("an object of the patched source");
    assert_eq!(changed(&before, &after), [*other]);
    let object = &named(&before, other).path;
    assert!(has_section(object, ".text.other"));
    assert!(has_section(object, ".debug_info"));
}

const CMAKE: &str = "\
cmake_minimum_required(VERSION 3.10)
project(sample C)
add_library(other STATIC src/other.c)
add_executable(program src/main.c)
target_link_libraries(program other)
";

#[test]
fn cmake() {
    for generator in ["Unix Makefiles", "Ninja"] {
        let project = pair().file("CMakeLists.txt", CMAKE);
        let script = format!(
            "cmake -G '{generator}' -B out -DCMAKE_BUILD_TYPE=Release . && cmake --build out"
        );
        let expected = [
            "out/CMakeFiles/program.dir/src/main.c.o",
            "out/libother.a(other.c.o)",
        ];
        check(&project, "out/program", &script, &expected);
    }
}

#[test]
fn meson() {
    let project = pair().file(
        "meson.build",
        "project('sample', 'c', default_options: ['buildtype=release'])\n\
         other = static_library('other', 'src/other.c')\n\
         executable('program', 'src/main.c', link_with: other)\n",
    );
    let expected = [
        "out/program.p/src_main.c.o",
        "out/libother.a.p/src_other.c.o",
    ];
    check(
        &project,
        "out/program",
        "meson setup out && ninja -C out",
        &expected,
    );
}

/// What a configure script of autoconf does, as far as compilers see it.
const CONFIGURE: &str = "\
#!/bin/sh
for CC in $CC gcc cc; do
    IFS=:
    for directory in $PATH; do
        if test -x \"$directory/$CC\"; then found=$directory/$CC; break 2; fi
    done
    unset IFS
done
echo 'int main(void) { return 0; }' > conftest.c
$found -o conftest conftest.c && ./conftest || { echo 'C compiler cannot create executables'; exit 77; }
echo 'int main(void) { return no_such_function(); }' > conftest.c
if $found -Werror -o conftest conftest.c 2> /dev/null; then echo 'any function is found'; exit 1; fi
rm -f conftest*
sed \"s|@CC@|$found|\" Makefile.in > Makefile
";

const MAKEFILE_IN: &str = "\
CC = @CC@
program: main.o libother.a
\t$(CC) -g -O2 -o program main.o libother.a
libother.a: other.o
\tar cr $@ other.o
.c.o:
\t$(CC) -g -O2 -MT $@ -MD -MP -MF $*.Tpo -c -o $@ $<
\tmv $*.Tpo $*.Po
main.o: src/main.c
\t$(CC) -g -O2 -MD -c -o $@ src/main.c && test -s main.d
other.o: src/other.c
\t$(CC) -g -O2 -MT $@ -MD -MP -MF other.Tpo -c -o $@ src/other.c && mv other.Tpo other.Po
";

#[test]
fn configure_script_that_stores_the_compilers_path() {
    let project = pair()
        .file("configure", CONFIGURE)
        .file("Makefile.in", MAKEFILE_IN);
    let expected = ["main.o", "libother.a(other.o)"];
    check(&project, "program", "sh ./configure && make -j2", &expected);
}

#[test]
fn cargo() {
    let project = Project::new()
        .file(
            "Cargo.toml",
            "[package]\nname = \"my-sample\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
             [dependencies]\nhelper = { path = \"helper\" }\n[workspace]\n",
        )
        .file(
            "src/main.rs",
            "fn main() { std::process::exit(helper::other(1)); }\n",
        )
        .file(
            "helper/Cargo.toml",
            "[package]\nname = \"helper\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
        )
        .file(
            "helper/src/lib.rs",
            "#[inline(never)]\npub fn other(x: i32) -> i32 {\n    x + 1\n}\n",
        )
        .patch("helper/src/lib.rs", "x + 1", "x + 10");
    for (target, command) in [
        ("target/debug/my-sample", "cargo build --offline"),
        (
            "target/release/my-sample",
            "cargo build --offline --release",
        ),
    ] {
        let (before, after) = project
            .build(target, &["sh", "-c", command])
            .unwrap_or_else(|error| panic!("{error}"));
        let changed = changed(&before, &after);
        assert!(!changed.is_empty(), "{command}");
        for name in &changed {
            assert!(
                name.starts_with("target/") && name.contains("(helper-"),
                "{name}"
            );
        }
        assert!(
            names(&before)
                .iter()
                .any(|name| name.contains("/my_sample-")),
            "{:?}",
            names(&before)
        );
        let has_information = |name| has_section(&named(&before, name).path, ".debug_info");
        assert!(changed.into_iter().any(has_information), "{command}");
        project.clear_work();
    }
}

#[test]
fn rustc_called_by_make() {
    let project = Project::new()
        .file("Makefile", "program: main.rs other.c\n\t$(CC) -O2 -c other.c\n\trustc -O -C codegen-units=1 main.rs -o program -C link-arg=other.o\n")
        .file("main.rs", "unsafe extern \"C\" { fn other(x: i32) -> i32; }\nfn main() { std::process::exit(unsafe { other(1) }); }\n")
        .file("other.c", "int other(int x) { return x + 1; }\n")
        .patch("other.c", "x + 1", "x + 10");
    let (before, after) = project.build("program", &["make"]).expect("builds");
    assert_eq!(changed(&before, &after), ["other.o"]);
    assert!(names(&before).len() >= 2, "{:?}", names(&before));
}
