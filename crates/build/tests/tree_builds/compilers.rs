//! Ways to call compilers and linkers, and what becomes of the objects.

use std::fs;
use std::path::Path;

use crate::objects::{changed, has_section, named, names, section};
use crate::project::Project;

/// Two sources with a function each, and a patch for the second.
fn pair() -> Project {
    Project::new()
        .file(
            "main.c",
            "int other(int);\nint main(void) { return other(1); }\n",
        )
        .file("other.c", "int other(int x)\n{\n\treturn x + 1;\n}\n")
        .patch("other.c", "x + 1", "x + 10")
}

fn shell(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

#[test]
fn one_command_for_everything() {
    let project = pair();
    let (before, after) = project
        .build("program", &shell("gcc -O2 main.c other.c -o program"))
        .expect("builds");
    assert_eq!(names(&before), ["main.o", "other.o"]);
    assert_eq!(changed(&before, &after), ["other.o"]);
    let other = named(&before, "other.o");
    assert!(has_section(&other.path, ".text.other"));
    assert!(has_section(&other.path, ".debug_info"));
    assert_eq!(other.source.as_deref(), Some(Path::new("other.c")));
}

#[test]
fn compilers_by_other_names() {
    for compiler in [
        "cc",
        "gcc-12",
        "x86_64-linux-gnu-gcc",
        "c99",
        "clang",
        "clang-14",
        "ccache gcc",
    ] {
        let script = format!(
            "{compiler} -c -O2 main.c && {compiler} -c -O2 other.c && {compiler} *.o -o program"
        );
        let project = pair();
        let (before, after) = project.build("program", &shell(&script)).expect(compiler);
        assert_eq!(changed(&before, &after), ["other.o"], "{compiler}");
        let other = named(&before, "other.o");
        assert!(has_section(&other.path, ".text.other"), "{compiler}");
    }
}

#[test]
fn cpp_with_its_own_compilers() {
    for compiler in ["c++", "g++", "clang++"] {
        let project = Project::new()
            .file("a.cc", "int b(int);\nint main() { return b(1); }\n")
            .file("b.cc", "int b(int x) { return x + 1; }\n")
            .patch("b.cc", "x + 1", "x + 10");
        let script = format!("{compiler} -c a.cc && {compiler} -c b.cc && {compiler} -o p a.o b.o");
        let (before, after) = project.build("p", &shell(&script)).expect(compiler);
        assert_eq!(changed(&before, &after), ["b.o"], "{compiler}");
        let object = named(&before, "b.o");
        assert!(has_section(&object.path, ".text._Z1bi"), "{compiler}");
    }
}

#[test]
fn arguments_arrive_as_they_are() {
    let project = Project::new()
        .file(
            "the main.c",
            "#include <string.h>\nint other(int);\n\
             int main(void) { return strcmp(TEXT, \"a \\\"b\\\" $c\") + other(1); }\n",
        )
        .file("sub dir/other.c", "int other(int x) { return x - 1; }\n")
        .file(
            "flags",
            "-O1\n\"-DTEXT=\\\"a \\\\\\\"b\\\\\\\" $c\\\"\"\n'the main.c' -o 'the main.o'\n",
        )
        .patch("sub dir/other.c", "x - 1", "x * 0");
    let script = "gcc -c @flags && gcc -xc -c -o'an other.o' - < 'sub dir/other.c' && \
                  gcc -o 'the program' 'the main.o' 'an other.o' && './the program'";
    let (before, after) = project
        .build("the program", &shell(script))
        .expect("builds");
    assert_eq!(names(&before), ["the main.o", "an other.o"]);
    assert_eq!(changed(&before, &after), ["an other.o"]);
    for object in &before.objects {
        assert!(has_section(&object.path, ".debug_info"), "{}", object.name);
    }
}

#[test]
fn the_debug_information_that_is_wanted_is_kept_and_what_is_missing_is_added() {
    for flags in [
        "",
        "-g0",
        "-g1",
        "-g3",
        "-gdwarf-4",
        "-gz -g",
        "-gsplit-dwarf",
    ] {
        let script =
            format!("gcc {flags} -c main.c && gcc {flags} -c other.c && gcc *.o -o program");
        let project = pair();
        let (before, _) = project.build("program", &shell(&script)).expect(flags);
        let object = &named(&before, "other.o").path;
        let info = section(object, ".debug_info").expect(flags);
        let is_compressed = info.starts_with(&[1, 0, 0, 0, 0, 0, 0, 0]);
        assert!(info.len() > 40 && !is_compressed, "{flags}");
        assert_eq!(
            has_section(object, ".debug_macro"),
            flags == "-g3",
            "{flags}"
        );
    }
}

#[test]
fn what_is_no_compilation_stays_what_it_is() {
    let script = "gcc -E main.c > main.i && gcc -S -O2 -o other.s other.c && \
                  gcc -MM main.c > main.d && test -n \"$(gcc -dumpmachine)\" && \
                  gcc -fsyntax-only main.c && echo 'int x;' | gcc -E - > /dev/null && \
                  ! gcc -c missing.c 2> /dev/null && \
                  gcc -c main.i && as other.s -o other.o && gcc main.o other.o -o program && \
                  grep -q '^main.o: main.c' main.d";
    let project = pair();
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(names(&before), ["main.o", "other.o"]);
    assert_eq!(changed(&before, &after), ["other.o"]);
    assert!(has_section(&named(&before, "other.o").path, ".text.other"));
}

#[test]
fn archives_whole_and_thin() {
    let script = "gcc -c main.c other.c && ar rc whole.a other.o && ar rcT thin.a other.o && \
                  gcc main.o -L. -l:whole.a -o program && gcc main.o thin.a -o thin";
    let project = pair();
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(names(&before), ["main.o", "whole.a(other.o)"]);
    assert_eq!(changed(&before, &after), ["whole.a(other.o)"]);
    let project = pair();
    let (before, _) = project.build("thin", &shell(script)).expect("builds");
    assert_eq!(names(&before), ["main.o", "other.o"]);
}

#[test]
fn members_of_one_name_are_told_apart() {
    let project = pair().file("sub/other.c", "int more(void) { return 0; }\n");
    let script = "gcc -c main.c other.c && gcc -c sub/other.c -o sub/other.o && \
                  ar qc all.a other.o sub/other.o && \
                  gcc main.o -Wl,--whole-archive all.a -Wl,--no-whole-archive -o program";
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    let expected = ["main.o", "all.a(other.o)", "all.a(other.o)#2"];
    assert_eq!(names(&before), expected);
    assert_eq!(changed(&before, &after), ["all.a(other.o)"]);
    let sources: Vec<_> = before
        .objects
        .iter()
        .map(|object| object.source.clone())
        .collect();
    assert_eq!(sources[1].as_deref(), Some(Path::new("other.c")));
    assert_eq!(sources[2].as_deref(), Some(Path::new("sub/other.c")));
}

#[test]
fn objects_made_of_objects_are_taken_apart() {
    for link in [
        "ld -r -o built-in.o",
        "gcc -r -o built-in.o",
        "gcc -nostdlib -no-pie -Wl,-r -o built-in.o",
    ] {
        let project = Project::new()
            .file("main.c", "int a(void), b(void);\nint main(void) { return a() + b(); }\n")
            .file("a.c", "static int same(int x) { return x + 1; }\nint a(void) { volatile int x = 1; return same(x); }\n")
            .file("b.c", "static int same(int x) { return x + 2; }\nint b(void) { volatile int x = 1; return same(x); }\n")
            .patch("b.c", "x + 2", "x + 20");
        let script = format!(
            "gcc -c main.c a.c b.c && {link} a.o b.o && rm a.o b.o && ar rc lib.a built-in.o && \
             gcc main.o lib.a -o program"
        );
        let (before, after) = project.build("program", &shell(&script)).expect(link);
        assert_eq!(names(&before), ["main.o", "a.o", "b.o"], "{link}");
        assert_eq!(changed(&before, &after), ["b.o"], "{link}");
    }
}

#[test]
fn a_target_that_is_renamed_stripped_or_linked_to_is_recognized() {
    for then in [
        "mv program_unstripped program",
        "strip -o program program_unstripped",
        "cp program_unstripped program && strip program",
        "ln program_unstripped program",
        "ln -s program_unstripped program",
    ] {
        let script = format!("gcc -c main.c other.c && gcc *.o -o program_unstripped && {then}");
        let project = pair();
        let (before, after) = project.build("program", &shell(&script)).expect(then);
        assert_eq!(changed(&before, &after), ["other.o"], "{then}");
        assert!(has_section(&before.target, ".symtab"), "{then}");
    }
}

#[test]
fn the_last_link_counts() {
    let project = pair().file("late.c", "int late;\n");
    let script = "gcc -c *.c && gcc main.o other.o -o program && \
                  gcc main.o late.o other.o -o program && gcc main.o other.o -o program2";
    let (before, _) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(names(&before), ["main.o", "late.o", "other.o"]);
}

#[test]
fn objects_that_are_deleted_or_changed_later_are_as_they_were_linked() {
    let script = "gcc -c main.c other.c && gcc *.o -o program && strip main.o && rm other.o";
    let project = pair();
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(changed(&before, &after), ["other.o"]);
    assert!(has_section(&named(&before, "main.o").path, ".debug_info"));
}

#[test]
fn shared_libraries() {
    let script = "gcc -fPIC -c other.c && gcc -shared -Wl,-soname,libother.so.1 other.o \
                  -o libother.so.1.2 && ln -s libother.so.1.2 libother.so && \
                  gcc main.c -L. -lother -o program";
    let project = pair();
    let (before, after) = project
        .build("libother.so", &shell(script))
        .expect("builds");
    assert_eq!(names(&before), ["other.o"]);
    assert_eq!(changed(&before, &after), ["other.o"]);
    // The library's object is not the program's.
    let project = pair();
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(names(&before), ["main.o"]);
    assert_eq!(changed(&before, &after), Vec::<&str>::new());
}

#[test]
fn libtool_with_its_hidden_directory() {
    let script = "libtool --quiet --tag=CC --mode=compile gcc -c other.c -o other.lo && \
                  libtool --quiet --tag=CC --mode=link gcc other.lo -rpath /usr/lib -o libother.la && \
                  gcc -c main.c && \
                  libtool --quiet --tag=CC --mode=link gcc main.o libother.la -o program";
    let project = pair();
    let (before, _) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(names(&before), ["main.o"]);
    let project = pair();
    let (before, after) = project
        .build("libother.so.0", &shell(script))
        .expect("builds");
    assert_eq!(names(&before), [".libs/other.o"]);
    assert_eq!(changed(&before, &after), [".libs/other.o"]);
}

#[test]
fn other_linkers_list_their_files_too() {
    for linker in ["bfd", "gold", "lld", "mold"] {
        let script = format!(
            "gcc -c main.c other.c && ar rc lib.a other.o && ar rcT thin.a main.o && \
             gcc -fuse-ld={linker} -Wl,--whole-archive thin.a -Wl,--no-whole-archive lib.a \
             -o program"
        );
        let project = pair();
        let (before, _) = project.build("program", &shell(&script)).expect(linker);
        assert_eq!(names(&before), ["main.o", "lib.a(other.o)"], "{linker}");
    }
}

#[test]
fn the_linker_may_be_called_without_a_compiler() {
    let project = Project::new()
        .file(
            "start.c",
            "int other(int);\nvoid _start(void) { other(1); for (;;); }\n",
        )
        .file("other.c", "int other(int x) { return x + 1; }\n")
        .patch("other.c", "x + 1", "x + 10");
    let script = "gcc -c start.c other.c && echo 'start.o other.o' > list && ld @list -o program";
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(names(&before), ["start.o", "other.o"]);
    assert_eq!(changed(&before, &after), ["other.o"]);
}

#[test]
fn assembly_among_the_sources() {
    let project = pair().file("low.S", "#define NAME low\n.globl NAME\nNAME: ret\n");
    let (before, after) = project
        .build("program", &shell("gcc -O2 main.c low.S other.c -o program"))
        .expect("builds");
    assert_eq!(names(&before), ["main.o", "low.o", "other.o"]);
    assert_eq!(changed(&before, &after), ["other.o"]);
}

#[test]
fn a_language_that_is_given_holds_for_sources_only() {
    let script = "cp other.c other.txt && gcc -c main.c && \
                  gcc main.o -x c other.txt -x none -lm -o program";
    let project = pair();
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(names(&before), ["main.o", "other.o"]);
    assert_eq!(changed(&before, &after), ["other.o"]);
}

#[test]
fn what_comes_through_a_pipe_is_read_once() {
    let script = "gcc -c main.c && gcc -x c -c -o other.o - < other.c && gcc *.o -o program && \
                  for number in 1 2; do \
                      echo \"int main(void) { return $number; }\" | gcc -x c -o program-$number /dev/stdin && \
                      echo \"int f$number;\" | gcc -x c -c -o piped.o /dev/stdin && \
                      nm piped.o | grep -q f$number || exit 1; \
                  done; ./program-1; test $? = 1 && { ./program-2; test $? = 2; }";
    let project = pair();
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    assert_eq!(changed(&before, &after), ["other.o"]);
}

#[test]
fn a_build_beside_the_tree() {
    let script = "mkdir ../out && cd ../out && gcc -c ../source/main.c ../source/other.c && \
                  gcc main.o other.o -o program";
    let project = pair();
    let (before, after) = project
        .build("../out/program", &shell(script))
        .expect("builds");
    assert_eq!(names(&before), ["../out/main.o", "../out/other.o"]);
    assert_eq!(changed(&before, &after), ["../out/other.o"]);
}

#[test]
fn names_in_the_program_are_those_of_the_source() {
    let project = pair().file("path.c", "const char *path = __FILE__;\n");
    let script = "gcc -c main.c other.c \"$PWD/path.c\" && gcc *.o -o program";
    let (before, after) = project.build("program", &shell(script)).expect("builds");
    let strings = section(&before.target, ".rodata").expect("strings");
    let expected = project
        .path("source/path.c")
        .canonicalize()
        .expect("a source");
    let text = String::from_utf8_lossy(&strings);
    assert!(text.contains(&*expected.to_string_lossy()), "{text:?}");
    let info = section(&named(&after, "other.o").path, ".debug_line_str").expect("names");
    let scratch = project.path("work").canonicalize().expect("scratch");
    assert!(!String::from_utf8_lossy(&info).contains(&*scratch.to_string_lossy()));
}

#[test]
fn nothing_changes_without_patches() {
    let project = Project::new()
        .file("a.c", "#include <stdio.h>\nint main(void) { puts(__DATE__ __TIME__); }\n")
        .file("b.c", "static int late; __attribute__((constructor)) static void f(void) { late = __LINE__; }\n")
        .patch_text("\n");
    let (before, after) = project
        .build(
            "program",
            &shell("gcc -O2 -g3 -c a.c b.c && gcc a.o b.o -o program"),
        )
        .expect("builds");
    assert_eq!(changed(&before, &after), Vec::<&str>::new());
    assert_eq!(
        fs::read(&before.target).expect("read"),
        fs::read(&after.target).expect("read")
    );
}
