//! Fixtures: one source file, compiled as it was before a change and (with `-DAFTER` or, in Rust,
//! `--cfg after`) as it is after it, with directives in lines of their own:
//!
//! - `//#Unit: NAME`: the file is several objects, this one of which is compiled with
//!   `-DUNIT_NAME`; the order is that in which they are linked;
//! - `//#Library: NAME`: the unit that is not in the program but in a library that it uses; the
//!   patch is for the library;
//! - `//#Flags: FLAGS` of the compiler, several lines of which are tried one after another; the
//!   first word may be another compiler (`clang`, which stands for clang++ in C++);
//! - `//#Hook: FILE`: a hook, in `tests/fixtures/hooks`;
//! - `//#Expect: replaced(F, ...)`, `unchanged`, `refused(NAME: TEXT)` or `error(TEXT)`, with
//!   all flags above it that have no such line yet;
//! - `//#Added: NAME, ...`: what comes along as new, if it matters;
//! - `//#Ignored: NAME WHAT, ...`: what differs without consequence, if it matters;
//! - `//#Once: NAME, ...`: of the replaced functions, those that only `main` leads to, and once;
//! - `//#Handled: NAME, ...`: what would be refused without the hook;
//! - `//#Before: LINE` and `//#After: LINE`: what the program answers to a line of input
//!   before and after the patch is loaded. It answers like before again once it is disabled;
//! - `//#Again: LINE`: what it answers then, if that is something else because it counts;
//! - `//#Blocked: TEXT`: the patch of what is expected above is not loaded, with this reason;
//! - `//#BlockedStripped: TEXT`: the same for stripped programs only;
//! - `//#Other: FLAGS: TEXT`: nor is it loaded, with this reason, into a program that was built
//!   with these flags beside its own.
#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_build::{BuildError, ModuleRequest, ObjectPair, Report, build_module};

/// Hands the list of all fixtures, with a name for each, to another macro.
#[macro_export]
macro_rules! each_fixture {
    ($do:ident) => {
        $do! {
            alias: "alias.c";
            array_fillers: "array_fillers.c";
            become_static: "become_static.c";
            changed_initial_value: "changed_initial_value.c";
            changed_size: "changed_size.c";
            changed_value_through_pointer: "changed_value_through_pointer.c";
            cold_part: "cold_part.c";
            cold_part_only: "cold_part_only.c";
            comdat: "comdat.cc";
            constant_propagation: "constant_propagation.c";
            constant_table: "constant_table.c";
            constants_among_texts: "constants_among_texts.c";
            constructor: "constructor.c";
            equal_names: "equal_names.c";
            equal_names_both: "equal_names_both.c";
            exception_table: "exception_table.cc";
            exceptions: "exceptions.cc";
            function_pointer: "function_pointer.c";
            generics: "generics.rs";
            gone_function: "gone_function.c";
            ifunc: "ifunc.c";
            inline_assembly: "inline_assembly.c";
            inlined_callee: "inlined_callee.c";
            jump_table: "jump_table.c";
            jump_table_variants: "jump_table_variants.c";
            label_table: "label_table.c";
            layout_bit_field: "layout_bit_field.c";
            layout_class: "layout_class.cc";
            layout_handled: "layout_handled.c";
            layout_handled_by_name: "layout_handled_by_name.c";
            layout_kept: "layout_kept.c";
            layout_member_added: "layout_member_added.c";
            layout_on_stacks: "layout_on_stacks.c";
            layout_union: "layout_union.c";
            layout_unknown: "layout_unknown.c";
            layout_without_names: "layout_without_names.c";
            levels: "levels.c";
            library_calls: "library_calls.c";
            library_target: "library_target.c";
            library_variable: "library_variable.c";
            line_numbers: "line_numbers.c";
            lto: "lto.c";
            main_only: "main_only.c";
            merged_functions: "merged_functions.c";
            new_data: "new_data.c";
            new_function_elsewhere: "new_function_elsewhere.c";
            newly_inlined: "newly_inlined.c";
            newly_used_variable: "newly_used_variable.c";
            no_longer_inlined: "no_longer_inlined.c";
            own_section: "own_section.c";
            panics: "panics.rs";
            scalar_replacement: "scalar_replacement.c";
            short_function: "short_function.c";
            signature: "signature.c";
            source_paths: "source_paths.c";
            split_function: "split_function.c";
            state_in_hook: "state_in_hook.c";
            static_local: "static_local.c";
            static_local_several: "static_local_several.c";
            static_local_uncertain: "static_local_uncertain.c";
            static_objects: "static_objects.cc";
            string_literal: "string_literal.c";
            templates: "templates.cc";
            tls: "tls.c";
            unchanged: "unchanged.c";
            unused_variable: "unused_variable.c";
            virtual_method: "virtual_method.cc";
            weak: "weak.c";
        }
    };
}

pub struct Fixture {
    pub name: String,
    pub path: PathBuf,
    directives: Vec<(String, String)>,
}

/// Flags with what is expected under them.
pub struct Case<'a> {
    pub flags: &'a str,
    pub expect: &'a str,
    /// Why it is not loaded.
    pub blocked: Option<&'a str>,
    /// Why it is not loaded into a stripped program.
    pub blocked_stripped: Option<&'a str>,
}

impl Fixture {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name);
        let text = std::fs::read_to_string(&path).expect("fixture");
        let directives = text
            .lines()
            .filter_map(|line| line.strip_prefix("//#")?.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        Self {
            name: name.to_owned(),
            path,
            directives,
        }
    }

    pub fn all(&self, key: &str) -> Vec<&str> {
        let found = self.directives.iter().filter(|(name, _)| name == key);
        found.map(|(_, value)| &**value).collect()
    }

    pub fn one(&self, key: &str) -> &str {
        let found = self.all(key);
        assert_eq!(found.len(), 1, "{}: one directive {key}", self.name);
        found[0]
    }

    /// The names of a directive's list, if there is such a directive.
    pub fn list(&self, key: &str) -> Option<Vec<&str>> {
        let found = self.all(key);
        assert!(found.len() <= 1, "{}: several directives {key}", self.name);
        let names = found.first()?.split(", ");
        Some(names.filter(|name| !name.is_empty()).collect())
    }

    pub fn cases(&self) -> Vec<Case<'_>> {
        let mut flags = Vec::new();
        let mut cases: Vec<Case<'_>> = Vec::new();
        let mut last = 0;
        for (key, value) in &self.directives {
            match &**key {
                "Flags" => flags.push(&**value),
                "Expect" => {
                    last = cases.len();
                    cases.extend(flags.drain(..).map(|flags| Case {
                        flags,
                        expect: value,
                        blocked: None,
                        blocked_stripped: None,
                    }));
                }
                "Blocked" => {
                    for case in &mut cases[last..] {
                        case.blocked = Some(value);
                        case.blocked_stripped = Some(value);
                    }
                }
                "BlockedStripped" => {
                    let cases = cases[last..].iter_mut();
                    cases.for_each(|case| case.blocked_stripped = Some(value));
                }
                _ => {}
            }
        }
        assert!(flags.is_empty(), "{}: nothing expected", self.name);
        assert!(!cases.is_empty(), "{}: no flags", self.name);
        cases
    }

    /// Objects of the program in the order in which they are linked.
    pub fn units(&self) -> Vec<&str> {
        match self.all("Unit") {
            units if units.is_empty() => vec![""],
            units => units,
        }
    }

    pub fn hooks(&self) -> Vec<PathBuf> {
        let directory = self.path.with_file_name("hooks");
        let names = self.all("Hook").into_iter();
        names.map(|name| directory.join(name)).collect()
    }

    /// The unit that is linked into a library, which the patch is for.
    pub fn library(&self) -> Option<&str> {
        self.all("Library").first().copied()
    }

    /// Units that the patch is about.
    fn patched_units(&self) -> Vec<&str> {
        self.library()
            .map_or_else(|| self.units(), |unit| vec![unit])
    }

    pub fn is_rust(&self) -> bool {
        self.extension() == "rs"
    }

    fn extension(&self) -> &str {
        let extension = self.path.extension().and_then(|name| name.to_str());
        extension.expect("extension")
    }

    /// The compiler and its flags.
    fn compiler(&self, flags: &str) -> Command {
        let mut flags = flags.split_whitespace().peekable();
        let clang = flags.next_if(|first| *first == "clang").is_some();
        let mut command = Command::new(match (self.extension(), clang) {
            ("c", false) => "gcc",
            ("cc", false) => "g++",
            ("c", true) => "clang",
            ("cc", true) => "clang++",
            ("rs", false) => "rustc",
            other => panic!("{}: {other:?}", self.name),
        });
        command.arg("-g").args(flags);
        if self.is_rust() {
            command.arg("--edition=2024");
        } else {
            command.arg("-I").arg(self.path.with_file_name(""));
        }
        command
    }

    /// A copy of the source in a tree of its own: the tree, and the source's path.
    fn place_source(&self, directory: &Path, after: bool) -> (PathBuf, PathBuf) {
        let tree = directory.join(if after { "after/src" } else { "before/src" });
        std::fs::create_dir_all(&tree).expect("tree");
        let source = tree.join(&self.name);
        std::fs::copy(&self.path, &source).expect("copy");
        (tree, source)
    }

    /// Compiles one version of one unit in a tree of its own, at a time of its own; with
    /// `sections` as `engraft build` does it.
    pub fn compile(&self, output: &Path, flags: &str, unit: &str, after: bool, sections: bool) {
        let mut command = self.compiler(flags);
        let (tree, source) = self.place_source(output.parent().expect("directory"), after);
        if self.is_rust() {
            if after {
                command.args(["--cfg", "after"]);
            }
            // One object; rustc has a section for each function anyway.
            command.args(["--emit=obj", "-Ccodegen-units=1", "-o"]);
            run(command.arg(output).arg(&self.name).current_dir(tree));
            return;
        }
        if sections {
            command.args(["-ffunction-sections", "-fdata-sections"]);
        }
        if after {
            command.arg("-DAFTER");
        }
        if !unit.is_empty() {
            command.arg(format!("-DUNIT_{unit}"));
        }
        let time = if after { "1700000000" } else { "1600000000" };
        command.env("SOURCE_DATE_EPOCH", time).current_dir(tree);
        command.arg("-c").arg("-o").arg(output).arg(source);
        run(&mut command);
    }

    /// Builds the program as it was before the change, as programs are built: without a
    /// section for each function.
    pub fn link(&self, flags: &str, directory: &Path, strip: bool) -> PathBuf {
        let path = directory.join("program");
        if self.is_rust() {
            let (tree, _) = self.place_source(directory, false);
            let mut command = self.compiler(flags);
            command.args(["-Ccodegen-units=1", "-o"]).arg(&path);
            run(command.arg(&self.name).current_dir(tree));
        } else {
            self.link_units(flags, directory, &path);
        }
        let library = directory.join(LIBRARY);
        if strip {
            run(Command::new("strip").arg(&path));
            if library.exists() {
                run(Command::new("strip").arg(&library));
            }
        }
        path
    }

    fn link_units(&self, flags: &str, directory: &Path, path: &Path) {
        let mut link = self.compiler(flags);
        for unit in self.units() {
            let object = directory.join(format!("plain{unit}.o"));
            self.compile(&object, flags, unit, false, false);
            if self.library() == Some(unit) {
                let mut library = self.compiler(flags);
                library.args(["-shared", "-o"]).arg(directory.join(LIBRARY));
                run(library.arg(object));
            } else {
                link.arg(object);
            }
        }
        if self.library().is_some() {
            link.arg(directory.join(LIBRARY));
            // The library calls the program.
            link.args(["-rdynamic", "-Wl,-rpath,$ORIGIN"]);
        }
        if flags.contains("-fno-pie") {
            link.arg("-no-pie");
        }
        run(link.arg("-pthread").arg("-o").arg(path));
    }
}

/// File name of a fixture's library.
const LIBRARY: &str = "libfixture.so";

pub fn run(command: &mut Command) {
    let output = command.output().expect("program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The result of building a module from a fixture.
pub struct Built {
    pub directory: tempfile::TempDir,
    pub report: Result<Report, BuildError>,
}

impl Built {
    pub fn module(&self) -> PathBuf {
        self.directory.path().join("fixture.lp")
    }
}

/// Builds the module of a fixture's change.
pub fn build(fixture: &Fixture, flags: &str) -> Built {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = |name: &str| directory.path().join(name);
    let mut objects = Vec::new();
    for unit in fixture.patched_units() {
        let before = place(&format!("before{unit}.o"));
        let after = place(&format!("after{unit}.o"));
        fixture.compile(&before, flags, unit, false, true);
        fixture.compile(&after, flags, unit, true, true);
        objects.push(ObjectPair {
            name: match unit {
                "" => "fixture.o".to_owned(),
                unit => format!("{unit}.o"),
            },
            before: Some(before),
            after: Some(after),
        });
    }
    let output = place("fixture.lp");
    let report = build_module(ModuleRequest {
        objects,
        sources: None,
        library: fixture.library().map(|_| LIBRARY.to_owned()),
        hook_flags: &[],
        replace_set: 0,
        hooks: &fixture.hooks(),
        made_for: None,
        output: &output,
    });
    Built { directory, report }
}
