//! What can go wrong.

use std::io;

use nix::errno::Errno;

/// A failed operation: what was done, why it failed, and the way out where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {reason}")]
pub struct Error {
    context: String,
    reason: String,
    errno: Errno,
    help: Option<String>,
    /// What the kernel has said meanwhile.
    log: Vec<String>,
}

impl Error {
    pub(crate) fn new(context: impl Into<String>, errno: Errno, reason: impl Into<String>) -> Self {
        Self {
            context: context.into(),
            reason: reason.into(),
            errno,
            help: None,
            log: Vec::new(),
        }
    }

    /// The error of a system call.
    pub(crate) fn of_call(context: impl Into<String>, errno: Errno) -> Self {
        let error = Self::new(context, errno, errno.desc());
        match errno {
            Errno::EPERM | Errno::EACCES => {
                error.with_help("run as root; a kernel in lockdown takes signed modules only")
            }
            _ => error,
        }
    }

    pub(crate) fn of_io(context: impl Into<String>, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Self::of_call(context, errno)
    }

    pub(crate) fn missing_livepatch() -> Self {
        let reason = "this kernel has no livepatch: there is no /sys/kernel/livepatch";
        Self::new("kernel", Errno::ENOSYS, reason)
            .with_help("a kernel with CONFIG_LIVEPATCH is needed, as distributions' kernels are")
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn with_log(mut self, log: Vec<String>) -> Self {
        self.log = log;
        self
    }

    /// The kernel's errno, or the one that says it best.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// What can be done about it.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Lines that the kernel has logged about it.
    #[must_use]
    pub fn log(&self) -> &[String] {
        &self.log
    }
}
