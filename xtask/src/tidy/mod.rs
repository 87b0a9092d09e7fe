//! The repository's own rules, checked on every file that git knows or would add.

mod crates;
mod files;
mod length;
mod links;
mod markers;
mod unsafety;

use std::fmt;

use crate::failure::Failure;
use crate::workspace::Workspace;

pub(crate) use files::SourceFile;

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// From 1; 0 for the file as a whole.
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(file: &SourceFile, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: file.path.clone(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Checks everything; the failure lists every finding.
pub(crate) fn run(workspace: &Workspace) -> Result<String, Failure> {
    let files = files::read_all(workspace)?;
    let packages = crates::read_packages(workspace)?;
    let mut findings = Vec::new();
    for file in &files {
        findings.extend(length::check(file));
        findings.extend(markers::check(file));
        findings.extend(unsafety::check(file));
        findings.extend(crates::check_header(file));
        findings.extend(links::check(file, &files));
    }
    findings.extend(length::check_median(&files));
    findings.extend(crates::check_directions(&packages));
    findings.extend(crates::check_code_map(&packages, &files));
    if findings.is_empty() {
        let median = length::median(&files);
        Ok(format!("{} files, median {median} lines", files.len()))
    } else {
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        let message = format!("{} findings\n{}", lines.len(), lines.join("\n"));
        Err(Failure::new(message))
    }
}
