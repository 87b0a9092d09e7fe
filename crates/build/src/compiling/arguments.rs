//! What a compiler's command line asks for.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Options whose value is the next argument, `-o` and `-x` aside.
const TAKE_VALUE: [&str; 53] = [
    "-A",
    "-B",
    "-D",
    "-F",
    "-G",
    "-I",
    "-L",
    "-MF",
    "-MJ",
    "-MQ",
    "-MT",
    "-T",
    "-Tbss",
    "-Tdata",
    "-Ttext",
    "-U",
    "-V",
    "-Xassembler",
    "-Xclang",
    "-Xlinker",
    "-Xpreprocessor",
    "-arch",
    "-aux-info",
    "-b",
    "-current_version",
    "-dumpbase",
    "-dumpbase-ext",
    "-dumpdir",
    "-e",
    "-framework",
    "-h",
    "-idirafter",
    "-imacros",
    "-imultilib",
    "-include",
    "-include-pch",
    "-iprefix",
    "-iquote",
    "-isysroot",
    "-isystem",
    "-iwithprefix",
    "-iwithprefixbefore",
    "-l",
    "-mllvm",
    "-rpath",
    "-soname",
    "-specs",
    "-target",
    "-u",
    "-wrapper",
    "-z",
    "--param",
    "--sysroot",
];

/// Languages that compilers find out from a file's suffix.
const SOURCE_SUFFIXES: [&str; 28] = [
    "c", "i", "ii", "cc", "cp", "cxx", "cpp", "CPP", "c++", "C", "m", "mi", "mm", "M", "mii", "h",
    "H", "hh", "hp", "hxx", "hpp", "HPP", "h++", "tcc", "f", "f90", "F", "F90",
];
const ASSEMBLY_SUFFIXES: [&str; 3] = ["s", "S", "sx"];

/// How far a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It answers a question, or there is nothing to work on.
    Query,
    /// `-E`, `-M`, `-MM`, `-fsyntax-only`.
    Preprocess,
    /// `-S`.
    Assembly,
    /// `-c`.
    Compile,
    /// Everything, to a program, a shared library, or (`-r`) an object.
    Link,
}

/// What an input file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Source text in a language that is compiled.
    Source,
    /// Assembly.
    Assembly,
    /// What only the linker reads.
    Linked,
}

/// An input file and its place among the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) position: usize,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// The language that `-x` sets here.
    pub(super) language: Option<String>,
}

/// A compiler's command line, understood.
#[derive(Debug)]
pub(super) struct Invocation {
    /// All arguments, response files replaced by what is in them.
    pub(super) arguments: Vec<OsString>,
    pub(super) mode: Mode,
    pub(super) inputs: Vec<Input>,
    pub(super) output: Option<PathBuf>,
    /// Where among the arguments the output is named.
    pub(super) output_positions: Vec<usize>,
    /// `-r`: the result of linking is an object again.
    pub(super) is_relocatable: bool,
    /// 0 to 3, as the last of the `-g` options says.
    pub(super) debug_level: u8,
    pub(super) has_split_debug: bool,
    pub(super) has_compressed_debug: bool,
    pub(super) has_random_seed: bool,
}

impl Invocation {
    /// Understands arguments that are given in `directory`.
    pub(super) fn parse(arguments: &[OsString], directory: &Path) -> Self {
        let mut invocation = Self {
            arguments: expand_responses(arguments, directory),
            mode: Mode::Link,
            inputs: Vec::new(),
            output: None,
            output_positions: Vec::new(),
            is_relocatable: false,
            debug_level: 0,
            has_split_debug: false,
            has_compressed_debug: false,
            has_random_seed: false,
        };
        invocation.read();
        invocation
    }

    fn read(&mut self) {
        let mut language = None;
        let mut position = 0;
        while let Some(argument) = self.arguments.get(position) {
            let bytes = argument.as_bytes().to_vec();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let value = self.arguments.get(position + 1).cloned();
            match text.as_str() {
                "-o" => {
                    self.output_positions.extend([position, position + 1]);
                    self.output = value.map(PathBuf::from);
                    position += 1;
                }
                "-x" => {
                    language = value.and_then(|name| name.into_string().ok());
                    position += 1;
                }
                _ if text.starts_with("-o") && !is_word(&text) => {
                    self.output_positions.push(position);
                    self.output = Some(PathBuf::from(OsStr::from_bytes(&bytes[2..])));
                }
                _ if text.starts_with("-x") => language = Some(text[2..].to_owned()),
                _ if TAKE_VALUE.contains(&text.as_str()) => {
                    if text == "-Xlinker" && value.as_deref() == Some("-r".as_ref()) {
                        self.is_relocatable = true;
                    }
                    position += 1;
                }
                _ if text.len() > 1 && text.starts_with('-') => self.read_option(&text),
                _ => {
                    let path = PathBuf::from(OsStr::from_bytes(&bytes));
                    let kind = kind_of(&path, language.as_deref());
                    self.inputs.push(Input {
                        position,
                        path,
                        kind,
                        language: language.clone(),
                    });
                }
            }
            position += 1;
        }
        if self.inputs.is_empty() {
            self.mode = Mode::Query;
        }
    }

    fn read_option(&mut self, text: &str) {
        match text {
            "-E" | "-M" | "-MM" | "-fsyntax-only" | "--preprocess" => {
                self.go_only_to(Mode::Preprocess);
            }
            "-S" | "--assemble" => self.go_only_to(Mode::Assembly),
            "-c" | "--compile" => self.go_only_to(Mode::Compile),
            "-###" | "-cc1" | "-cc1as" | "--version" | "--help" | "-dumpversion"
            | "-dumpmachine" | "-dumpspecs" => self.go_only_to(Mode::Query),
            "-r" => self.is_relocatable = true,
            "-gsplit-dwarf" => self.has_split_debug = true,
            "-gno-split-dwarf" => self.has_split_debug = false,
            _ if text.starts_with("-print-") || text.starts_with("--print-") => {
                self.go_only_to(Mode::Query);
            }
            _ if text.starts_with("-Wl,") => {
                self.is_relocatable |= text
                    .split(',')
                    .any(|word| matches!(word, "-r" | "-i" | "--relocatable"));
            }
            _ if text.starts_with("-frandom-seed=") => self.has_random_seed = true,
            _ if text.starts_with("-gz") => self.has_compressed_debug = text != "-gz=none",
            _ if text.starts_with("-g") => {
                if let Some(level) = debug_level(&text[2..]) {
                    self.debug_level = level;
                }
            }
            _ => {}
        }
    }

    fn go_only_to(&mut self, mode: Mode) {
        let order = |mode| match mode {
            Mode::Query => 0,
            Mode::Preprocess => 1,
            Mode::Assembly => 2,
            Mode::Compile => 3,
            Mode::Link => 4,
        };
        if order(mode) < order(self.mode) {
            self.mode = mode;
        }
    }

    /// Inputs that are compiled, assembly not among them.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Input> {
        self.inputs
            .iter()
            .filter(|input| input.kind == Kind::Source)
    }

    /// Whether code is made from sources.
    pub(super) fn compiles(&self) -> bool {
        matches!(self.mode, Mode::Assembly | Mode::Compile | Mode::Link)
            && self.sources().next().is_some()
    }

    /// The file that `-c` writes for a source.
    pub(super) fn object_of(&self, input: &Input) -> PathBuf {
        match &self.output {
            Some(output) => output.clone(),
            None => {
                let name = input.path.file_name().unwrap_or_default();
                Path::new(name).with_extension("o")
            }
        }
    }

    /// The file that linking writes.
    pub(super) fn linked_output(&self) -> PathBuf {
        self.output.clone().unwrap_or_else(|| "a.out".into())
    }
}

/// Options that begin with `-o` but name no output.
fn is_word(text: &str) -> bool {
    matches!(text, "-objcmt-migrate-all" | "-object") || text.starts_with("-objc")
}

fn kind_of(path: &Path, language: Option<&str>) -> Kind {
    let suffix = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    match language {
        Some("none") | None if SOURCE_SUFFIXES.contains(&suffix) => Kind::Source,
        Some("none") | None if ASSEMBLY_SUFFIXES.contains(&suffix) => Kind::Assembly,
        Some("none") | None => Kind::Linked,
        Some(language) if language.starts_with("assembler") => Kind::Assembly,
        Some(_) => Kind::Source,
    }
}

/// The level that a debug option asks for; nothing if it does not change the level.
fn debug_level(option: &str) -> Option<u8> {
    let name = option.split('=').next().unwrap_or(option);
    match name {
        "0" | "gdb0" | "dwarf0" => Some(0),
        "1" | "gdb1" | "mlt" | "line-tables-only" | "line-directives-only" => Some(1),
        "" | "2" | "gdb" | "gdb2" | "full" | "dwarf" | "dwarf-2" | "dwarf-3" | "dwarf-4"
        | "dwarf-5" => Some(2),
        "3" | "gdb3" => Some(3),
        _ => None,
    }
}

/// Replaces `@file` by what is in the file. A file that cannot be read stays as it is, as
/// compilers do it.
pub(super) fn expand_responses(arguments: &[OsString], directory: &Path) -> Vec<OsString> {
    expand(arguments, directory, 0)
}

fn expand(arguments: &[OsString], directory: &Path, depth: usize) -> Vec<OsString> {
    let mut result = Vec::new();
    for argument in arguments {
        let named = argument.as_bytes().strip_prefix(b"@");
        let text = named
            .filter(|_| depth < 10)
            .and_then(|name| fs::read(directory.join(OsStr::from_bytes(name))).ok());
        match text {
            Some(text) => result.extend(expand(&split_words(&text), directory, depth + 1)),
            None => result.push(argument.clone()),
        }
    }
    result
}

/// Words of a response file: separated by white space, with quotes and backslashes.
fn split_words(text: &[u8]) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => word.get_or_insert_default().extend(bytes.next()),
            _ if quote == Some(byte) => quote = None,
            _ if quote.is_some() => word.get_or_insert_default().push(byte),
            b'"' | b'\'' => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            _ if byte.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words.into_iter().map(OsString::from_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::{Invocation, Kind, Mode, split_words};
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};

    fn parse(line: &str) -> Invocation {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Invocation::parse(&arguments, Path::new("/"))
    }

    #[test]
    fn modes() {
        assert_eq!(parse("-c a.c -o a.o").mode, Mode::Compile);
        assert_eq!(parse("a.c -S -c").mode, Mode::Assembly);
        assert_eq!(parse("-E a.c").mode, Mode::Preprocess);
        assert_eq!(parse("-M -c a.c").mode, Mode::Preprocess);
        assert_eq!(parse("-MD -MF a.d -c a.c").mode, Mode::Compile);
        assert_eq!(parse("a.o -o a").mode, Mode::Link);
        assert_eq!(parse("a.c -o a").mode, Mode::Link);
        assert_eq!(parse("--version").mode, Mode::Query);
        assert_eq!(parse("-print-prog-name=ld a.c").mode, Mode::Query);
        assert_eq!(parse("-v").mode, Mode::Query);
        assert_eq!(parse("-c -xc -").mode, Mode::Compile);
    }

    #[test]
    fn inputs_and_their_kinds() {
        let parsed = parse("-I inc -include x.h a.c b.S c.o -x c++ d -x none -lm -L . e.a -T s.ld");
        let inputs: Vec<(&Path, Kind)> = parsed
            .inputs
            .iter()
            .map(|input| (input.path.as_path(), input.kind))
            .collect();
        assert_eq!(
            inputs,
            [
                (Path::new("a.c"), Kind::Source),
                (Path::new("b.S"), Kind::Assembly),
                (Path::new("c.o"), Kind::Linked),
                (Path::new("d"), Kind::Source),
                (Path::new("e.a"), Kind::Linked),
            ]
        );
    }

    #[test]
    fn outputs() {
        let output = |line| parse(line).output;
        assert_eq!(output("-c a.c -o b.o"), Some(PathBuf::from("b.o")));
        assert_eq!(output("-c a.c -ob.o"), Some(PathBuf::from("b.o")));
        assert_eq!(output("-o a -c a.c -o b.o"), Some(PathBuf::from("b.o")));
        let implied = parse("-c dir/a.c");
        assert_eq!(implied.object_of(&implied.inputs[0]), PathBuf::from("a.o"));
        assert_eq!(parse("a.o").linked_output(), PathBuf::from("a.out"));
    }

    #[test]
    fn the_last_debug_option_counts() {
        let level = |line| parse(line).debug_level;
        assert_eq!(level("-c a.c"), 0);
        assert_eq!(level("-g -c a.c"), 2);
        assert_eq!(level("-g3 -g1 -c a.c"), 1);
        assert_eq!(level("-ggdb3 -c a.c"), 3);
        assert_eq!(level("-gdwarf-4 -grecord-gcc-switches -c a.c"), 2);
        assert_eq!(level("-g -g0 -c a.c"), 0);
        assert!(parse("-gz -g -c a.c").has_compressed_debug);
        assert!(parse("-gsplit-dwarf -g -c a.c").has_split_debug);
    }

    #[test]
    fn relocatable_links() {
        assert!(parse("-r a.o -o b.o").is_relocatable);
        assert!(parse("-nostdlib -Wl,-r a.o -o b.o").is_relocatable);
        assert!(!parse("-Wl,-rpath,/x a.o -o b").is_relocatable);
        assert!(parse("-Xlinker -r a.o -o b.o").is_relocatable);
    }

    #[test]
    fn words_of_response_files() {
        let words = split_words(b"-c  'a b.c'\n\"x\\\"y\" d\\ e '' f\"g\"h\n");
        assert_eq!(words, ["-c", "a b.c", "x\"y", "d e", "", "fgh"]);
    }
}
