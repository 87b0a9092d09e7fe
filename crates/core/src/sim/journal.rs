//! What must be true of the log.

use crate::{Log, STALL_NANOSECONDS};

/// The log consists of the canonical sequences of section 13 of the specification, each of
/// one patch, and notes every stall once.
///
/// # Errors
/// The first line that does not fit, with the one before it.
pub fn check_log(log: &Log) -> Result<(), String> {
    let mut before = "idle";
    let mut current = None;
    let mut stall = Stall::default();
    for line in log.lines() {
        let text = line.text.as_str();
        if !stall.follow(text, line.stamp.time) {
            return Err(format!("log line {text:?}: a stall is noticed wrongly"));
        }
        if [
            "klp_try_switch_task: ",
            "signaling",
            "forcing",
            "shadow variables of state ",
            "Livepatch patch (",
        ]
        .iter()
        .any(|start| text.starts_with(start))
        {
            continue;
        }
        let (name, what) = split(text);
        if let Some(name) = name
            && *current.get_or_insert(name) != name
        {
            return Err(format!("log line {text:?} among those of {current:?}"));
        }
        if !follows(before, what) {
            return Err(format!("log line {text:?} after {before:?}"));
        }
        before = what;
        if what.ends_with("patching complete") {
            (before, current) = ("idle", None);
        }
    }
    Ok(())
}

/// Whether the notice of a stall comes once per start, with the first attempt that is late.
#[derive(Default)]
struct Stall {
    started: u64,
    noticed: bool,
    /// Time of an attempt that must be followed by the notice.
    owed: Option<u64>,
}

impl Stall {
    fn follow(&mut self, text: &str, time: u64) -> bool {
        if self.owed.is_some_and(|owed| owed != time) {
            return false;
        }
        let late = time >= self.started + STALL_NANOSECONDS;
        if text.contains("': starting ") {
            (self.started, self.noticed) = (time, false);
        } else if text.starts_with("signaling") {
            self.owed = None;
            return late && !std::mem::replace(&mut self.noticed, true);
        } else if text.starts_with("klp_try_switch_task: ") && late && !self.noticed {
            self.owed = Some(time);
        }
        true
    }
}

/// The patch's name, where the line has it, and the line without it.
fn split(text: &str) -> (Option<&str>, &str) {
    if let Some((name, what)) = text.strip_prefix('\'').and_then(|t| t.split_once("': ")) {
        return (Some(name), what);
    }
    if text.starts_with("pre-patch callback failed for state ") {
        return (None, "pre-patch callback failed for object");
    }
    let (what, rest) = text.split_once(" '").unwrap_or((text, ""));
    let names_patch = ["enabling patch", "failed to enable patch"].contains(&what);
    (names_patch.then(|| rest.trim_end_matches('\'')), what)
}

fn follows(before: &str, line: &str) -> bool {
    const RULES: [(&str, &[&str]); 18] = [
        ("enabling patch", &["idle"]),
        ("initializing patching transition", &["enabling patch"]),
        ("initializing unpatching transition", &["idle"]),
        (
            "starting patching transition",
            &[
                "initializing patching transition",
                "reversing transition from unpatching to patching",
            ],
        ),
        (
            "starting unpatching transition",
            &[
                "initializing unpatching transition",
                "reversing transition from patching to unpatching",
            ],
        ),
        (
            "reversing transition from patching to unpatching",
            &["starting patching transition"],
        ),
        (
            "reversing transition from unpatching to patching",
            &[
                "starting unpatching transition",
                // an unpatching transition that could not be armed
                "initializing unpatching transition",
            ],
        ),
        (
            "completing patching transition",
            &["starting patching transition"],
        ),
        (
            "completing unpatching transition",
            &[
                "starting unpatching transition",
                "canceling patching transition, going to unpatch",
            ],
        ),
        ("patching complete", &["completing patching transition"]),
        ("unpatching complete", &["completing unpatching transition"]),
        (
            "pre-patch callback failed for object",
            &["initializing patching transition"],
        ),
        (
            "failed to register ftrace handler for function",
            &["initializing patching transition"],
        ),
        (
            "failed to find location for function",
            &["initializing patching transition"],
        ),
        (
            "failed to patch object",
            &[
                "failed to register ftrace handler for function",
                "failed to find location for function",
            ],
        ),
        (
            "failed to enable patch",
            &[
                "failed to patch object",
                "pre-patch callback failed for object",
                // a canceled load
                "initializing patching transition",
            ],
        ),
        (
            "canceling patching transition, going to unpatch",
            &["failed to enable patch"],
        ),
        ("idle", &[]),
    ];
    let rule = RULES.iter().find(|(what, _)| *what == line);
    rule.is_some_and(|(_, allowed)| allowed.contains(&before))
}
