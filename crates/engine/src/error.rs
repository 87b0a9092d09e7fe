//! What can go wrong, with the kernel's errno and the way out.

use std::fmt;

use nix::errno::Errno;

/// A failed operation: what was done, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0)]
pub struct Error(Box<Failure>);

#[derive(Debug)]
struct Failure {
    context: String,
    kind: Kind,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            // It says by itself what was done.
            Kind::Process(error) if self.context.is_empty() => error.fmt(f),
            kind => write!(f, "{}: {kind}", self.context),
        }
    }
}

/// Reasons of failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Kind {
    /// The process cannot be worked on.
    #[error(transparent)]
    Process(#[from] engraft_process::Error),
    /// The livepatch rules forbid it.
    #[error(transparent)]
    Refused(#[from] engraft_core::Refusal),
    /// The patch module's file cannot be used.
    #[error(transparent)]
    Module(#[from] engraft_module::ModuleError),
    /// The module refers to something that the target lacks.
    #[error(transparent)]
    Link(#[from] engraft_module::LinkError),
    /// A function or variable cannot be found.
    #[error(transparent)]
    Symbol(#[from] engraft_elf::SymbolError),
    /// A function cannot be redirected.
    #[error(transparent)]
    Redirect(#[from] engraft_core::RouteFailure),
    /// It enables a patch, but lacks `MODULE_INFO(livepatch, "Y")`.
    #[error("module {0} is not marked as a livepatch module; add MODULE_INFO(livepatch, \"Y\")")]
    Unmarked(String),
    /// How far an old function reaches is unknown, so a thread in it would not be seen.
    #[error("the size of function '{0}' is unknown; install the debug symbols of its object")]
    OldSize(String),
    /// How far the replacement of this function reaches is unknown.
    #[error(
        "the size of the replacement of function '{0}' is unknown; give its symbol a size (.size)"
    )]
    NewSize(String),
    /// The module's init function returned this.
    #[error("{}", describe_init(*.0))]
    Init(i32),
    /// Anything else, with its errno.
    #[error("{message}")]
    Other {
        /// What is wrong.
        message: String,
        /// The errno that says it best.
        errno: Errno,
        /// The way out.
        help: Option<String>,
    },
}

impl Error {
    pub(crate) fn new(context: impl Into<String>, kind: impl Into<Kind>) -> Self {
        Self(Box::new(Failure {
            context: context.into(),
            kind: kind.into(),
        }))
    }

    pub(crate) fn other(
        context: impl Into<String>,
        errno: Errno,
        message: impl Into<String>,
    ) -> Self {
        Self::new(
            context,
            Kind::Other {
                message: message.into(),
                errno,
                help: None,
            },
        )
    }

    pub(crate) fn with_help(mut self, text: impl Into<String>) -> Self {
        if let Kind::Other { help, .. } = &mut self.0.kind {
            *help = Some(text.into());
        }
        self
    }

    /// The reason.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The errno that the kernel's livepatch, or the system call concerned, would give.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match &self.0.kind {
            Kind::Process(error) => process_errno(&error.kind),
            Kind::Refused(refusal) => Errno::from_raw(refusal.errno()),
            Kind::Module(_) => Errno::ENOEXEC,
            Kind::Link(_) => Errno::ENOENT,
            Kind::Symbol(_) | Kind::Unmarked(_) => Errno::EINVAL,
            Kind::OldSize(_) | Kind::NewSize(_) => Errno::ENOENT,
            Kind::Redirect(failure) => Errno::from_raw(failure.errno.saturating_abs()),
            Kind::Init(value) if *value > 0 => Errno::EINVAL,
            Kind::Init(value) => Errno::from_raw(value.saturating_abs()),
            Kind::Other { errno, .. } => *errno,
        }
    }

    /// Name of the errno, such as `EBUSY`.
    #[must_use]
    pub fn errno_name(&self) -> String {
        format!("{:?}", self.errno())
    }

    /// What can be done about it, where the message does not say so itself.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Other { help, .. } => help.as_deref(),
            _ => None,
        }
    }

    /// Whether some threads could not be stopped in time.
    pub(crate) fn is_not_stopped(&self) -> bool {
        use engraft_process::Kind as K;
        matches!(&self.0.kind, Kind::Process(error) if matches!(error.kind, K::NotStopped { .. }))
    }

    /// Whether the target has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(&self.0.kind, Kind::Process(error) if error.is_gone())
    }
}

fn describe_init(value: i32) -> String {
    if value > 0 {
        return format!("module init returned {value}, which is neither 0 nor a negative errno");
    }
    let errno = Errno::from_raw(value.saturating_abs());
    format!("module init returned {errno}; the log of the target may say why")
}

fn process_errno(kind: &engraft_process::Kind) -> Errno {
    use engraft_process::Kind as K;
    match kind {
        K::Gone | K::Replaced => Errno::ESRCH,
        K::NotPermitted(_) => Errno::EPERM,
        K::Traced { .. } | K::Locked | K::NotStopped { .. } | K::Suspended => Errno::EBUSY,
        K::WrongMachine(_) => Errno::ENOEXEC,
        K::Memory { errno, .. } | K::RemoteCall { errno, .. } | K::System(errno) => *errno,
        _ => Errno::EIO,
    }
}

impl From<engraft_process::Error> for Error {
    fn from(error: engraft_process::Error) -> Self {
        Self::new("", error)
    }
}

impl From<engraft_core::Refusal> for Error {
    fn from(refusal: engraft_core::Refusal) -> Self {
        Self::new("livepatch", refusal)
    }
}

impl From<engraft_core::Error<Error>> for Error {
    fn from(error: engraft_core::Error<Error>) -> Self {
        match error {
            engraft_core::Error::Refused(refusal) => refusal.into(),
            engraft_core::Error::Target(error) => error,
        }
    }
}
