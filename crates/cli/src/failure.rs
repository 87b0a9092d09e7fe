//! How a command ends.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

/// How a command ended; ordered from good to bad, so that the worst of several processes
/// decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Exit code 0.
    Done,
    /// Exit code 3: a transition did not complete in time and was reversed or left.
    NotInTime,
    /// Exit code 1: refused or failed.
    Failed,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done => Self::SUCCESS,
            Verdict::NotInTime => Self::from(3),
            Verdict::Failed => Self::from(1),
        }
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    #[serde(skip)]
    pub(crate) verdict: Verdict,
    /// What failed and why.
    #[serde(rename = "error")]
    pub(crate) message: String,
    /// Lines that belong to the message: the threads that held up a transition.
    #[serde(skip)]
    pub(crate) details: Vec<String>,
    /// Name of the errno that the kernel's livepatch would have returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno: Option<String>,
    /// The way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) help: Option<String>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Failed,
            message: message.into(),
            details: Vec::new(),
            errno: None,
            help: None,
        }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Failure {
    /// The message; the errno's name is added where it does not say it already.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match &self.errno {
            Some(errno) if !self.message.contains(&**errno) => write!(formatter, " ({errno})"),
            _ => Ok(()),
        }
    }
}

impl From<engraft_engine::Error> for Failure {
    fn from(error: engraft_engine::Error) -> Self {
        Self {
            errno: Some(error.errno_name()),
            help: error.help().map(str::to_owned),
            ..Self::new(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_verdict_wins() {
        let verdicts = [Verdict::Done, Verdict::Failed, Verdict::NotInTime];
        assert_eq!(verdicts.into_iter().max(), Some(Verdict::Failed));
        assert_eq!(
            [Verdict::Done, Verdict::NotInTime].into_iter().max(),
            Some(Verdict::NotInTime)
        );
    }

    #[test]
    fn the_errno_is_named_once() {
        let failure = |message: &str| Failure {
            errno: Some("EBUSY".to_owned()),
            ..Failure::new(message)
        };
        assert_eq!(
            failure("a transition is running").to_string(),
            "a transition is running (EBUSY)"
        );
        assert_eq!(failure("EBUSY: no").to_string(), "EBUSY: no");
    }
}
