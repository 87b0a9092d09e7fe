//! Where text and JSON go, and in which colours.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::render;

/// Standard output and standard error as the user wants them.
pub(crate) struct Output {
    /// JSON on standard output, one object per line, and nothing else.
    pub(crate) json: bool,
    colour: bool,
    error_colour: bool,
}

impl Output {
    /// Colours are used on terminals only, and not at all when NO_COLOR is set and not empty
    /// (no-color.org).
    pub(crate) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            json,
            colour: wanted && io::stdout().is_terminal(),
            error_colour: wanted && io::stderr().is_terminal(),
        }
    }

    /// Prints text to standard output, with a line feed.
    pub(crate) fn line(&self, text: &str) {
        finish(writeln!(io::stdout().lock(), "{text}"));
    }

    /// Prints a heading to standard output.
    pub(crate) fn heading(&self, text: &str) {
        self.line(&paint(self.colour, "1", text));
    }

    /// Prints one JSON object to standard output.
    pub(crate) fn object(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.line(&text),
            Err(error) => self.line(&json!({ "error": error.to_string() }).to_string()),
        }
    }

    /// Says what is worth knowing about a process, although the command goes on. JSON has it
    /// in the status.
    pub(crate) fn warning(&self, pid: i32, text: &str) {
        if !self.json {
            let label = paint(self.error_colour, "1;33", "engraft:");
            let text = render::printable(text);
            // Nothing can be said any more when standard error is gone.
            let _ = writeln!(io::stderr().lock(), "{label} process {pid}: {text}");
        }
    }

    /// Reports a failure, of one process or of the whole command.
    pub(crate) fn failure(&self, pid: Option<i32>, failure: &Failure) {
        if self.json {
            self.object(&tag_process(pid, failure));
            return;
        }
        let mut text = paint(self.error_colour, "1;31", "engraft:");
        if let Some(pid) = pid {
            text += &format!(" process {pid}:");
        }
        text += &format!(" {}\n", render::printable(&failure.to_string()));
        for detail in &failure.details {
            text += &format!("  {detail}\n");
        }
        if let Some(help) = &failure.help {
            let label = paint(self.error_colour, "1", "help:");
            text += &format!("  {label} {}\n", render::printable(help));
        }
        // Nothing can be said any more when standard error is gone.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// The value's JSON object with the process it is about.
pub(crate) fn tag_process(pid: Option<i32>, value: &impl Serialize) -> Value {
    let mut tagged = serde_json::Map::new();
    if let Some(pid) = pid {
        tagged.insert("pid".to_owned(), pid.into());
    }
    match serde_json::to_value(value) {
        Ok(Value::Object(members)) => tagged.extend(members),
        Ok(other) => drop(tagged.insert("value".to_owned(), other)),
        Err(error) => drop(tagged.insert("error".to_owned(), error.to_string().into())),
    }
    Value::Object(tagged)
}

/// `engraft log | head` is no failure, so a reader that went away ends the command quietly.
fn finish(result: io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "engraft: standard output cannot be written: {error}"
            );
            std::process::exit(1);
        }
    }
}

fn paint(colour: bool, code: &str, text: &str) -> String {
    if colour {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_become_flat_objects() {
        let failure = Failure {
            errno: Some("EBUSY".into()),
            ..Failure::new("no")
        }
        .with_help("wait");
        assert_eq!(
            tag_process(Some(7), &failure).to_string(),
            r#"{"errno":"EBUSY","error":"no","help":"wait","pid":7}"#
        );
    }
}
