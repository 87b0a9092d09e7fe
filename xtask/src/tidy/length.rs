//! Small files: a limit for each, and for the median.

use super::{Finding, SourceFile};

const MAX_LINES: usize = 800;
const MAX_MEDIAN: usize = 200;
const MAX_ARCHITECTURE_LINES: usize = 150;

/// A Rust file without its tests, or the page that must stay short.
pub(super) fn check(file: &SourceFile) -> Option<Finding> {
    let (lines, limit) = match file.path.as_str() {
        "ARCHITECTURE.md" => (file.text.lines().count(), MAX_ARCHITECTURE_LINES),
        _ if file.is_rust() && !file.is_test() => (count_without_tests(&file.text), MAX_LINES),
        _ => return None,
    };
    (lines > limit).then(|| {
        let message = format!("{lines} lines, the limit is {limit}: split it by concept");
        Finding::new(file, 0, message)
    })
}

/// The median over all Rust files that are not tests.
pub(super) fn check_median(files: &[SourceFile]) -> Option<Finding> {
    let median = median(files);
    (median >= MAX_MEDIAN).then(|| Finding {
        path: "*.rs".to_owned(),
        line: 0,
        message: format!("the median is {median} lines, it must stay under {MAX_MEDIAN}"),
    })
}

pub(super) fn median(files: &[SourceFile]) -> usize {
    let mut lengths: Vec<usize> = files
        .iter()
        .filter(|file| file.is_rust() && !file.is_test())
        .map(|file| count_without_tests(&file.text))
        .collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied().unwrap_or(0)
}

/// Lines before the test module, which by convention ends a file.
fn count_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        })
        .unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::{check, check_median};
    use crate::tidy::SourceFile;

    fn file_of(path: &str, lines: usize, test_lines: usize) -> SourceFile {
        let mut text = "line\n".repeat(lines);
        if test_lines > 0 {
            text.push_str("#[cfg(test)]\nmod tests {\n");
            text.push_str(&"line\n".repeat(test_lines));
        }
        SourceFile::sample(path, &text)
    }

    #[test]
    fn a_file_may_reach_the_limit_but_not_pass_it() {
        assert_eq!(check(&file_of("src/a.rs", 800, 0)), None);
        let finding = check(&file_of("src/a.rs", 801, 0)).expect("one line too many");
        assert!(finding.message.contains("801 lines"));
    }

    #[test]
    fn tests_do_not_count() {
        assert_eq!(check(&file_of("src/a.rs", 700, 700)), None);
        assert_eq!(check(&file_of("crates/x/tests/a.rs", 2000, 0)), None);
        assert!(check(&file_of("src/a.rs", 900, 10)).is_some());
    }

    #[test]
    fn the_architecture_page_has_its_own_limit() {
        assert_eq!(check(&file_of("ARCHITECTURE.md", 150, 0)), None);
        assert!(check(&file_of("ARCHITECTURE.md", 151, 0)).is_some());
    }

    #[test]
    fn the_median_is_over_files_that_are_not_tests() {
        let mut files = vec![
            file_of("a.rs", 100, 0),
            file_of("b.rs", 199, 0),
            file_of("c.rs", 500, 0),
            file_of("tests/d.rs", 5000, 0),
            file_of("tests/e.rs", 5000, 0),
        ];
        assert_eq!(check_median(&files), None);
        files[1] = file_of("b.rs", 200, 0);
        assert!(check_median(&files).is_some());
    }
}
