//! Why a comparison could not be made.

use std::fmt::Display;

/// One message with the thing and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// A failure of that message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Says what was being done when an error arose.
pub trait Context<T> {
    /// Names it.
    ///
    /// # Errors
    ///
    /// The error, with that before it.
    fn context(self, doing: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    /// Names it.
    ///
    /// # Errors
    ///
    /// The error, with that before it.
    fn context(self, doing: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("{doing}: {error}")))
    }
}
