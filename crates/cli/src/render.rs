//! Parts of the text output that several commands share.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use engraft_engine::{BlockerStatus, Direction, PatchState, TransitionStatus};

/// Text from a target, with control characters escaped so that it cannot steer a terminal.
/// Line feeds stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let harmless = |character: char| character == '\n' || !character.is_control();
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::new();
    for character in text.chars() {
        if harmless(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_default());
        }
    }
    Cow::Owned(escaped)
}

/// What a line is about: a process, or the kernel.
pub(crate) fn subject(pid: Option<i32>) -> String {
    pid.map_or_else(|| "kernel".to_owned(), |pid| format!("process {pid}"))
}

/// One line about a thread that cannot be switched yet.
pub(crate) fn blocker(blocker: &BlockerStatus) -> String {
    let mut line = format!(
        "thread {} ({}, {}): {}",
        blocker.tid, blocker.comm, blocker.state, blocker.reason
    );
    if let Some(function) = blocker
        .function
        .as_ref()
        .filter(|name| !line.contains(&***name))
    {
        line += &format!(" {function}");
    }
    printable(&line).replace('\n', " ")
}

/// The running transition, with what holds it up and, where known, the stacks.
pub(crate) fn transition(status: &TransitionStatus) -> String {
    let mut text = format!(
        "transition of '{}' to {}: {} of {} threads switched, {} {}",
        printable(&status.patch),
        direction(status.target),
        status.switched,
        status.total,
        status.attempts,
        if status.attempts == 1 {
            "pass"
        } else {
            "passes"
        }
    );
    for held_up in &status.blockers {
        text += &format!("\n  {}", blocker(held_up));
        for frame in &held_up.stack {
            text += &format!("\n    {}", printable(frame));
        }
    }
    text
}

/// A transition's direction, as in the kernel's messages.
pub(crate) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Patched => "patched",
        Direction::Unpatched => "unpatched",
    }
}

/// A patch's state in words.
pub(crate) fn state(state: PatchState) -> &'static str {
    match state {
        PatchState::Registered => "not enabled",
        PatchState::Enabled => "enabled",
        PatchState::InTransition => "in transition",
        PatchState::Replaced => "replaced",
        PatchState::ModuleOnly => "module only",
    }
}

/// A duration with a sensible unit.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.001 {
        format!("{:.0} us", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

/// Rows with their columns aligned to the left, separated by two spaces.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_up() -> BlockerStatus {
        BlockerStatus {
            tid: 4250,
            comm: "worker".to_owned(),
            state: 'S',
            reason: "is sleeping on function".to_owned(),
            function: Some("handle_request".to_owned()),
            stack: vec![
                "nanosleep+0x17".to_owned(),
                "handle_request+0x1b".to_owned(),
            ],
        }
    }

    #[test]
    fn transitions_name_threads_functions_and_stacks() {
        let status = TransitionStatus {
            patch: "fix".to_owned(),
            target: Direction::Patched,
            total: 19,
            switched: 18,
            attempts: 3,
            blockers: vec![held_up()],
        };
        assert_eq!(
            transition(&status),
            "\
transition of 'fix' to patched: 18 of 19 threads switched, 3 passes
  thread 4250 (worker, S): is sleeping on function handle_request
    nanosleep+0x17
    handle_request+0x1b"
        );
    }

    #[test]
    fn a_function_is_named_once() {
        let said = BlockerStatus {
            reason: "is in handle_request".to_owned(),
            ..held_up()
        };
        assert_eq!(
            blocker(&said),
            "thread 4250 (worker, S): is in handle_request"
        );
    }

    #[test]
    fn targets_cannot_steer_the_terminal() {
        let hostile = BlockerStatus {
            comm: "\x1b[2J\nx".to_owned(),
            ..held_up()
        };
        assert_eq!(
            blocker(&hostile),
            r"thread 4250 (\u{1b}[2J x, S): is sleeping on function handle_request"
        );
        assert_eq!(printable("plain\ntext"), "plain\ntext");
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["PID", "PATCH", ""]),
            row(["4242", "a", "x"]),
            row(["7", "longer", ""]),
        ];
        assert_eq!(
            table(&rows),
            "\
PID   PATCH
4242  a       x
7     longer"
        );
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration(Duration::from_micros(250)), "250 us");
        assert_eq!(duration(Duration::from_micros(31_250)), "31.2 ms");
        assert_eq!(duration(Duration::from_millis(2_340)), "2.3 s");
    }
}
