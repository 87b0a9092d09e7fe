//! Line numbers that stay what they were.
//!
//! A patch that adds a line changes `__LINE__` in everything after it, and with it the code of
//! every assertion and log message there. A `#line` after each such place gives the rest of the
//! file its old numbers back. New lines count on from the line before them, so a number may occur
//! twice; what they say of themselves is right where nothing was added above.

use std::path::Path;

use similar::{Algorithm, DiffTag, capture_diff_slices};

use super::lexer::{Conditional, Lexer};

/// Suffixes of C and C++ files. What generates code from other files is left alone.
const SUFFIXES: [&str; 14] = [
    "c", "h", "cc", "hh", "cpp", "hpp", "cxx", "hxx", "c++", "h++", "C", "H", "inl", "tcc",
];

/// Whether a file is in a language that has `#line`.
pub(crate) fn has_line_directives(path: &Path) -> bool {
    path.extension()
        .and_then(|suffix| suffix.to_str())
        .is_some_and(|suffix| SUFFIXES.contains(&suffix))
}

/// The new text with directives that keep the old lines' numbers, where one can be put safely.
///
/// Nothing if none is needed, or if the text has directives of its own, whose numbers belong to
/// another file.
pub(crate) fn keep_line_numbers(old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let old: Vec<&[u8]> = old.split_inclusive(|&byte| byte == b'\n').collect();
    let new: Vec<&[u8]> = new.split_inclusive(|&byte| byte == b'\n').collect();
    let numbers = old_numbers(&old, &new);
    let mut result = Vec::new();
    let mut lexer = Lexer::default();
    let mut count = Count::default();
    let mut inserted = false;
    for (line, old_number) in new.iter().zip(numbers) {
        if let Some(number) = old_number
            && count.next != Some(number)
            && lexer.is_safe()
            && may_follow_directive(line)
        {
            result.extend(format!("#line {number}\n").bytes());
            count.set(number);
            inserted = true;
        }
        result.extend_from_slice(line);
        match lexer.read(line) {
            Some(Conditional::SetsLine) => return None,
            directive => count.pass(directive),
        }
    }
    inserted.then_some(result)
}

/// For each new line that is an old one, its number there, from 1.
fn old_numbers(old: &[&[u8]], new: &[&[u8]]) -> Vec<Option<usize>> {
    let mut numbers = vec![None; new.len()];
    for operation in capture_diff_slices(Algorithm::Myers, old, new) {
        let (tag, from, to) = operation.as_tag_tuple();
        // A line replaced by another is at the same place.
        if tag == DiffTag::Equal {
            for (number, at) in from.zip(to) {
                numbers[at] = Some(number + 1);
            }
        }
    }
    numbers
}

/// Not before an empty line, where nothing needs a number, nor before a parenthesis, which may
/// continue a macro call.
fn may_follow_directive(line: &[u8]) -> bool {
    let text = line.trim_ascii_start();
    !text.is_empty() && text[0] != b'('
}

/// The number that the compiler gives to the next line.
#[derive(Debug)]
struct Count {
    /// Nothing if it depends on which branch of a conditional group is compiled.
    next: Option<usize>,
    /// For each open group, whether a number was set in it.
    groups: Vec<bool>,
}

impl Default for Count {
    fn default() -> Self {
        Self {
            next: Some(1),
            groups: Vec::new(),
        }
    }
}

impl Count {
    fn set(&mut self, number: usize) {
        self.next = Some(number);
        self.groups.fill(true);
    }

    fn pass(&mut self, directive: Option<Conditional>) {
        self.next = self.next.map(|next| next + 1);
        let was_set = match directive {
            Some(Conditional::Opens) => {
                self.groups.push(false);
                false
            }
            Some(Conditional::Switches) => self.groups.last() == Some(&true),
            Some(Conditional::Closes) => self.groups.pop() == Some(true),
            Some(Conditional::SetsLine) | None => false,
        };
        if was_set {
            self.next = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{has_line_directives, keep_line_numbers};
    use std::path::Path;

    fn keep(old: &str, new: &str) -> String {
        match keep_line_numbers(old.as_bytes(), new.as_bytes()) {
            Some(text) => String::from_utf8(text).expect("text stays text"),
            None => "unchanged".to_owned(),
        }
    }

    #[test]
    fn lines_after_an_addition_keep_their_numbers() {
        assert_eq!(
            keep("a\nb\nc\n", "a\nnew\nb\nc\n"),
            "a\nnew\n#line 2\nb\nc\n"
        );
    }

    #[test]
    fn lines_after_a_removal_keep_their_numbers() {
        assert_eq!(keep("a\nb\nc\nd\n", "a\nc\nd\n"), "a\n#line 3\nc\nd\n");
    }

    #[test]
    fn a_change_of_equal_length_needs_nothing() {
        assert_eq!(keep("a\nb\nc\n", "a\nB\nc\n"), "unchanged");
        assert_eq!(keep("a\nb\n", "a\nb\n"), "unchanged");
    }

    #[test]
    fn additions_at_the_end_need_nothing() {
        assert_eq!(keep("a\nb\n", "a\nb\nc\n"), "unchanged");
        assert_eq!(keep("a\nb", "a\nb\nc"), "unchanged");
    }

    #[test]
    fn several_changes_are_each_corrected() {
        assert_eq!(
            keep("a\nb\nc\nd\ne\n", "1\n2\na\nb\nd\ne\n"),
            "1\n2\n#line 1\na\nb\n#line 4\nd\ne\n"
        );
    }

    #[test]
    fn two_changes_that_cancel_are_corrected_between_them() {
        assert_eq!(
            keep("a\nb\nc\nd\n", "new\na\nb\nd\n"),
            "new\n#line 1\na\nb\n#line 4\nd\n"
        );
    }

    #[test]
    fn macro_arguments_strings_and_comments_stay_whole() {
        assert_eq!(
            keep("LOG(a,\nb);\nx;\n", "LOG(a,\nnew,\nb);\nx;\n"),
            "LOG(a,\nnew,\nb);\n#line 3\nx;\n"
        );
        assert_eq!(
            keep("/* a\nb */\nx;\n", "/* a\nnew\nb */\nx;\n"),
            "/* a\nnew\nb */\n#line 3\nx;\n"
        );
        assert_eq!(
            keep("#define A \\\nb\nx;\n", "#define A \\\nnew \\\nb\nx;\n"),
            "#define A \\\nnew \\\nb\n#line 3\nx;\n"
        );
    }

    #[test]
    fn a_macro_call_may_begin_on_the_line_before_its_parenthesis() {
        assert_eq!(
            keep("CALL\n(1);\nx;\n", "new;\nCALL\n(1);\nx;\n"),
            "new;\n#line 1\nCALL\n(1);\nx;\n"
        );
        assert_eq!(
            keep("old\n(1);\nx;\n", "CALL\nnew\n(1);\nx;\n"),
            "CALL\nnew\n(1);\n#line 3\nx;\n"
        );
    }

    #[test]
    fn without_a_safe_place_nothing_is_inserted() {
        assert_eq!(keep("f(\na,\nb\n", "f(\nnew,\na,\nb\n"), "unchanged");
    }

    #[test]
    fn numbers_are_set_again_after_a_group_that_may_be_skipped() {
        assert_eq!(
            keep(
                "#if X\na\n#else\nb\n#endif\nc\nd\n",
                "#if X\nnew\na\n#else\nb\n#endif\nc\nd\n"
            ),
            "#if X\nnew\n#line 2\na\n#else\n#line 4\nb\n#endif\n#line 6\nc\nd\n"
        );
    }

    #[test]
    fn an_include_guard_is_left_as_it_is() {
        assert_eq!(
            keep(
                "#ifndef H\n#define H\na\n#endif\n",
                "#ifndef H\n#define H\nnew\na\n#endif\n\n"
            ),
            "#ifndef H\n#define H\nnew\n#line 3\na\n#endif\n\n"
        );
    }

    #[test]
    fn files_with_numbers_of_their_own_are_left_alone() {
        assert_eq!(
            keep("a\n#line 7 \"x.y\"\nb\n", "n\na\n#line 7 \"x.y\"\nb\n"),
            "unchanged"
        );
        assert_eq!(
            keep("a\n# 7 \"x.y\"\nb\n", "n\na\n# 7 \"x.y\"\nb\n"),
            "unchanged"
        );
    }

    #[test]
    fn only_c_and_cpp_files_have_them() {
        for yes in ["a.c", "d/a.h", "a.cc", "a.hpp", "a.C", "a.c++"] {
            assert!(has_line_directives(Path::new(yes)), "{yes}");
        }
        for no in ["a.y", "a.l", "a.h.in", "a.S", "c", "a.rs", "a.pl", "a.inc"] {
            assert!(!has_line_directives(Path::new(no)), "{no}");
        }
    }
}
