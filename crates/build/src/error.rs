//! Why no patch module could be built.

use std::fmt;

/// A failed build: what was being done, from the outermost to the innermost step, and why it
/// failed.
#[derive(Debug)]
pub struct BuildError {
    contexts: Vec<String>,
    message: String,
    help: Option<String>,
}

impl BuildError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            contexts: Vec::new(),
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The way out, where the message does not say so itself.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.contexts.iter().rev() {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for BuildError {}

impl From<object::read::Error> for BuildError {
    fn from(error: object::read::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<gimli::Error> for BuildError {
    fn from(error: gimli::Error) -> Self {
        Self::new(format!("its debugging information is damaged: {error}"))
    }
}

impl From<std::io::Error> for BuildError {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Adds what was being done to an error.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, BuildError>;
}

impl<T, E: Into<BuildError>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, BuildError> {
        self.map_err(|error| {
            let mut error = error.into();
            error.contexts.push(what());
            error
        })
    }
}
