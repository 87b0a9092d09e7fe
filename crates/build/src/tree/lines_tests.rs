//! Random files with lines added anywhere, against what a preprocessor makes of them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::keep_line_numbers;

const CASES: u64 = 60;

/// Pieces of a file. `@` stands for a number that no other piece has.
const PIECES: &[&str] = &[
    "int a@ = __LINE__;\n",
    "/* it's (\n * a \"comment\n\n */ int b@ = __LINE__;\n",
    "CALL(one,\n  (two), ')', \")\",\n  /* ( */ __LINE__) c@;\n",
    "CALL\n(__LINE__) d@;\n",
    "#define M@(x) \\\n  (x + \\\n  ((1\nint e@ = __LINE__;\n",
    "#define N@ /* goes\non ( */ '('\nint f@ = __LINE__;\n",
    "#if 0\ndon't (\nnever ((\n#else\nint g@ = __LINE__;\n#endif\n",
    "#ifdef NONE\nif (a &&\n#elif 1\nif (b &&\n#else\nif (\n#endif\n  c) h@(__LINE__);\n",
    "#ifdef NONE\nint i@ = __LINE__;\n\n#endif\nint i@ = __LINE__;\n",
    "#ifndef NONE\n#if 1\nint j@ = __LINE__;\n#endif\n#else\nisn't here\n#endif\n",
    "k@ = \"a string \\\n goes on (\" \"/*\";\n",
    "l@ = u8R\"x(\n ) \" ( /*\n)y\")x\" + __LINE__;\n",
    "m@ = 1'000'000 + 0xf'f + '(' + L'\\'' + u'\"';\n",
    "// a comment ( \\\n goes on (\nint n@ = __LINE__;\n",
    "struct o@ {\n  int x;\n\n  int y; // don't\n} p@ = { __LINE__,\n  __LINE__ };\n",
    "%: define Q@ (\nint q@ = __LINE__;\n",
    "int r@ = 5 / 2 /(1 /**/); char s@ = '/', t@[] = \"//\";\nint u@ = __LINE__;\n",
];

/// A generator of numbers that is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// A file, and the same file with empty lines added where they change nothing but numbers.
fn generate(random: &mut Random) -> (String, String) {
    let mut old = String::from("#define CALL(...) __VA_ARGS__\n");
    for number in 0..random.below(12) + 3 {
        let piece = PIECES[random.below(PIECES.len())];
        old += &piece.replace('@', &number.to_string());
    }
    old += "int last = __LINE__;\n";
    let mut new = String::new();
    let (mut is_continued, mut is_raw) = (false, false);
    for line in old.split_inclusive('\n') {
        if !is_continued && !is_raw && random.below(6) == 0 {
            new += &"\n".repeat(random.below(3) + 1);
        }
        new += line;
        is_continued = line.ends_with("\\\n");
        is_raw = (is_raw || line.contains("R\"x(")) && !line.contains(")x\"");
    }
    (old, new)
}

/// Tokens after preprocessing. A directive among macro arguments is an error, of which the
/// preprocessor only warns.
fn preprocess(text: &[u8]) -> Result<Vec<String>, String> {
    let mut child = Command::new("g++")
        .args(["-E", "-P", "-std=c++20", "-pedantic", "-x", "c++", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("g++ runs");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(text).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("g++ ends");
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() || messages.contains("within macro arguments") {
        return Err(messages);
    }
    let text = String::from_utf8(output.stdout).expect("text");
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn lines_added_anywhere_change_no_number_that_can_be_kept() {
    for seed in 0..CASES {
        let (old, new) = generate(&mut Random(seed));
        let kept = keep_line_numbers(old.as_bytes(), new.as_bytes());
        let text = kept.unwrap_or_else(|| new.clone().into_bytes());
        let context = || {
            let text = String::from_utf8_lossy(&text);
            format!("seed {seed}\n--- old\n{old}--- new\n{text}")
        };
        let expected =
            preprocess(old.as_bytes()).unwrap_or_else(|error| panic!("{error}{}", context()));
        let found = preprocess(&text).unwrap_or_else(|error| panic!("{error}{}", context()));
        assert_eq!(expected.len(), found.len(), "{}", context());
        assert_eq!(
            expected.last(),
            found.last(),
            "the last number: {}",
            context()
        );
        let differing = expected
            .iter()
            .zip(&found)
            .filter(|(expected, found)| expected != found)
            .inspect(|(expected, found)| {
                let number = |text: &str| text.trim_matches(|c: char| !c.is_ascii_digit()).len();
                assert!(number(expected) > 0 && number(found) > 0, "{}", context());
            })
            .count();
        // A number stays wrong only within parentheses or a comment that the addition is in.
        assert!(differing <= new.matches("\n\n").count(), "{}", context());
    }
}
