//! The log command.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use engraft_engine::LogLine;
use serde::Serialize;

use crate::arguments::LogArguments;
use crate::failure::{Failure, Verdict};
use crate::output::{Output, tag_process};
use crate::render;
use crate::target;

/// The kernel's number for debug messages (KERN_DEBUG).
pub(crate) const DEBUG: u8 = 7;
const POLL: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct JsonLine<'a> {
    /// CLOCK_BOOTTIME.
    seconds: f64,
    level: u8,
    text: &'a str,
    order: u64,
}

pub(crate) fn run(arguments: &LogArguments, output: &Output) -> Result<Verdict, Failure> {
    let processes = arguments.target.processes()?;
    let named = processes.len() > 1;
    let mut next = HashMap::new();
    let mut print_new = |pid: i32| -> Result<Verdict, Failure> {
        let next = next.entry(pid).or_insert(0);
        for line in engraft_engine::read_log(pid)? {
            if line.order >= *next {
                *next = line.order + 1;
                if arguments.debug || line.level < DEBUG {
                    print(output, Some(pid), named, &line);
                }
            }
        }
        Ok(Verdict::Done)
    };
    let verdict = target::for_each(&arguments.target, output, &mut print_new)?;
    let mut followed = if arguments.follow {
        processes
    } else {
        Vec::new()
    };
    while !followed.is_empty() {
        thread::sleep(POLL);
        // A process that has ended is no failure to follow it.
        followed.retain(|&pid| print_new(pid).is_ok() || is_alive(pid));
    }
    Ok(verdict)
}

fn is_alive(pid: i32) -> bool {
    Path::new("/proc")
        .join(pid.to_string())
        .join("exe")
        .exists()
}

pub(crate) fn print(output: &Output, pid: Option<i32>, named: bool, line: &LogLine) {
    if output.json {
        let seconds = Duration::from_nanos(line.time_ns).as_secs_f64();
        let json = JsonLine {
            seconds,
            level: line.level,
            text: &line.text,
            order: line.order,
        };
        output.object(&tag_process(pid, &json));
    } else if let Some(pid) = pid.filter(|_| named) {
        output.line(&prefix_lines(&format!("{pid}: "), &describe(line)));
    } else {
        output.line(&describe(line));
    }
}

/// As dmesg prints it; a message of several lines has the time before each.
pub(crate) fn describe(line: &LogLine) -> String {
    let microseconds = line.time_ns / 1000;
    let time = format!(
        "[{:5}.{:06}] ",
        microseconds / 1_000_000,
        microseconds % 1_000_000
    );
    prefix_lines(&time, &render::printable(line.text.trim_end_matches('\n')))
}

fn prefix_lines(prefix: &str, text: &str) -> String {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| format!("{prefix}{line}"))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(time_ns: u64, text: &str) -> LogLine {
        LogLine {
            time_ns,
            level: 5,
            text: text.to_owned(),
            order: 0,
        }
    }

    #[test]
    fn lines_look_like_dmesg() {
        assert_eq!(
            describe(&line(123_456_789_999, "livepatch: enabling patch 'fix'")),
            "[  123.456789] livepatch: enabling patch 'fix'"
        );
        assert_eq!(
            describe(&line(1_234_567_000_001_000, "x\n")),
            "[1234567.000001] x"
        );
    }

    #[test]
    fn several_lines_are_each_dated_and_escaped() {
        assert_eq!(
            describe(&line(0, "a\n\x1b[0m")),
            "[    0.000000] a\n[    0.000000] \\u{1b}[0m"
        );
    }
}
