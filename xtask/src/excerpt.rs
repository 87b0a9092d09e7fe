//! What of a failed step's output says why it failed.

/// How many lines from the end are shown of output without a report of failed tests.
const LAST_LINES: usize = 200;
/// How many are shown after such reports: what cargo says at the end.
const LINES_AFTER_REPORTS: usize = 5;

/// The reports of all test programs that failed, each with its tests' output, and the end; of
/// other output only the end. Line for line as it was written.
pub(crate) fn of(contents: &str) -> Vec<&str> {
    let lines: Vec<&str> = contents.lines().collect();
    let mut excerpt = reports(&lines);
    let rest = if excerpt.is_empty() {
        LAST_LINES
    } else {
        LINES_AFTER_REPORTS
    };
    excerpt.extend(&lines[lines.len().saturating_sub(rest)..]);
    excerpt
}

/// From each "failures:" that the output of tests follows to the result of that program, with
/// the line before it that names the program.
fn reports<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let mut reports = Vec::new();
    let (mut program, mut inside) = ("", false);
    for line in lines {
        if line.trim_start().starts_with("Running ") {
            (program, inside) = (line, false);
        } else if *line == "failures:" && !inside {
            reports.push(program);
            inside = true;
        }
        if inside {
            reports.push(line);
        }
        inside &= !line.starts_with("test result: ");
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::{LAST_LINES, of};

    const FAILED: &str = "\
     Running tests/first.rs (target/debug/deps/first)
test one ... FAILED

failures:

---- one stdout ----
thread 'one' panicked: no thread started meanwhile

failures:
    one

test result: FAILED. 1 passed; 1 failed
";

    #[test]
    fn the_reports_of_failed_tests_are_shown_wherever_they_are() {
        let passing = "     Running tests/next.rs (target/debug/deps/next)\ntest two ... ok\n";
        let output = FAILED.to_owned() + &passing.repeat(LAST_LINES) + "error: 1 target failed:\n";
        let excerpt = of(&output);
        assert_eq!(
            excerpt[0].trim(),
            "Running tests/first.rs (target/debug/deps/first)"
        );
        assert_eq!(excerpt[1], "failures:");
        assert!(excerpt.contains(&"thread 'one' panicked: no thread started meanwhile"));
        assert!(excerpt.contains(&"test result: FAILED. 1 passed; 1 failed"));
        assert!(!excerpt.contains(&"test one ... FAILED"));
        assert_eq!(excerpt.last(), Some(&"error: 1 target failed:"));
        assert!(excerpt.len() < 20, "{excerpt:#?}");
    }

    #[test]
    fn of_other_output_the_end_is_shown() {
        let output = "line\n".repeat(LAST_LINES) + "error: unused variable\n";
        let excerpt = of(&output);
        assert_eq!(excerpt.len(), LAST_LINES);
        assert_eq!(excerpt.last(), Some(&"error: unused variable"));
        assert_eq!(of(""), [""; 0]);
    }
}
