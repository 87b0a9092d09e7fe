//! Compilations that need not be done twice.
//!
//! Most of a tree is the same before and after a patch. A source whose text after preprocessing,
//! with its line markers, was compiled before with the same arguments in the same directory gets
//! the earlier object. Preprocessing takes a small part of the time of compiling.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use super::arguments::{Invocation, Kind};
use super::session::{Record, Session, is_probe};
use super::store;
use super::wrapper::{Wrapped, add_flags};

/// Beginnings of options that read or write files beyond source, object and dependencies, or
/// whose effect preprocessing does not show.
const FOREIGN: [&str; 21] = [
    "-Wp,",
    "-Xassembler",
    "-Xclang",
    "-Xpreprocessor",
    "-MJ",
    "-aux-info",
    "--coverage",
    "-coverage",
    "-fauto-profile",
    "-fbranch-probabilities",
    "-fcallgraph-info",
    "-fdump",
    "-fmodules",
    "-fplugin",
    "-fprofile",
    "-fsave-optimization-record",
    "-fstack-usage",
    "-ftest-coverage",
    "-ftime-trace",
    "-include-pch",
    "-save-temps",
];

/// Compiles a source, or takes the earlier result. Nothing if only the compiler itself can do it.
pub(super) fn compile(
    wrapped: &Wrapped,
    invocation: &Invocation,
    arguments: &[OsString],
    session: &Session,
) -> io::Result<Option<ExitCode>> {
    let Some(plan) = Plan::make(wrapped, invocation) else {
        return Ok(None);
    };
    let Some(key) = find_key(wrapped, invocation, arguments, session)? else {
        return Ok(None);
    };
    let entry = session.reuse.join(format!("{key:032x}"));
    let is_reused = entry.is_dir();
    session.record(&Record::Compilation {
        source: plan.source.clone(),
        object: Some(plan.object.clone()),
        is_reused,
    })?;
    if is_reused {
        plan.restore(&entry)?;
        return Ok(Some(ExitCode::SUCCESS));
    }
    let status = wrapped.command(arguments).status()?;
    if status.success() {
        plan.save(&entry, session)?;
    }
    Ok(Some(code_of(status)))
}

/// The files of one compilation.
struct Plan {
    source: PathBuf,
    object: PathBuf,
    /// The list of dependencies for make.
    dependencies: Option<PathBuf>,
}

impl Plan {
    fn make(wrapped: &Wrapped, invocation: &Invocation) -> Option<Self> {
        let [input] = &invocation.inputs[..] else {
            return None;
        };
        let is_header = || {
            let suffix = input.path.extension().and_then(OsStr::to_str);
            suffix.is_some_and(|suffix| suffix.starts_with(['h', 'H']))
        };
        let source = wrapped.absolute(&input.path);
        let is_plain = input.kind == Kind::Source
            && input.path != Path::new("-")
            && !is_header()
            && !is_probe(&source)
            && invocation.debug_level < 3
            && !invocation.has_split_debug
            && !invocation.arguments.iter().any(|text| is_foreign(text));
        let object = wrapped.absolute(&invocation.object_of(input));
        is_plain.then(|| Self {
            dependencies: find_dependencies(invocation, &object)
                .map(|path| wrapped.absolute(&path)),
            source,
            object,
        })
    }

    fn save(&self, entry: &Path, session: &Session) -> io::Result<()> {
        let directory = tempfile::tempdir_in(&session.scratch)?;
        for (name, path) in self.results() {
            match fs::copy(path, directory.path().join(name)) {
                // The compiler wrote something else than expected: nothing is kept.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                other => other?,
            };
        }
        match fs::rename(directory.path(), entry) {
            Ok(()) => {
                let _ = directory.keep();
                Ok(())
            }
            // Another process was faster with the same result.
            Err(_) if entry.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes new files, as compilers do: the old ones may have other names.
    fn restore(&self, entry: &Path) -> io::Result<()> {
        for (name, path) in self.results() {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => fs::copy(entry.join(name), path)?,
            };
        }
        Ok(())
    }

    fn results(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let object = [("object", self.object.as_path())];
        let dependencies = self.dependencies.as_deref();
        object
            .into_iter()
            .chain(dependencies.map(|path| ("dependencies", path)))
    }
}

fn is_foreign(argument: &OsStr) -> bool {
    let bytes = argument.as_bytes();
    let is_dependency = bytes.starts_with(b"-Wp,-MD,") || bytes.starts_with(b"-Wp,-MMD,");
    let begins = |beginning: &&str| bytes.starts_with(beginning.as_bytes());
    // A pipe or the like is another one each time.
    let names_device = bytes.windows(5).any(|window| window == b"/dev/");
    (!is_dependency && FOREIGN.iter().any(begins)) || asks_assembler_for_file(bytes) || names_device
}

/// Listings and dependencies that the assembler is to write.
fn asks_assembler_for_file(argument: &[u8]) -> bool {
    argument.strip_prefix(b"-Wa,").is_some_and(|options| {
        options
            .split(|&byte| byte == b',')
            .any(|option| option.starts_with(b"-a") || option.starts_with(b"--MD"))
    })
}

/// Where the compiler writes dependencies.
fn find_dependencies(invocation: &Invocation, object: &Path) -> Option<PathBuf> {
    let mut is_wanted = false;
    let mut named = None;
    let mut arguments = invocation.arguments.iter();
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        let path = |bytes| Some(PathBuf::from(OsStr::from_bytes(bytes)));
        if bytes == b"-MD" || bytes == b"-MMD" {
            is_wanted = true;
        } else if bytes == b"-MF" {
            named = arguments.next().map(PathBuf::from);
        } else if let Some(name) = bytes.strip_prefix(b"-MF") {
            named = path(name);
        } else if let Some(name) = bytes
            .strip_prefix(b"-Wp,-MD,")
            .or_else(|| bytes.strip_prefix(b"-Wp,-MMD,"))
        {
            is_wanted = true;
            named = path(name);
        }
    }
    is_wanted.then(|| named.unwrap_or_else(|| object.with_extension("d")))
}

/// All that decides about the object, as one number. Nothing if the source cannot be
/// preprocessed, or includes more than text.
fn find_key(
    wrapped: &Wrapped,
    invocation: &Invocation,
    arguments: &[OsString],
    session: &Session,
) -> io::Result<Option<u128>> {
    let preprocess = arguments_to_preprocess(invocation, session);
    let output = wrapped.command(&preprocess).output()?;
    let text = output.stdout;
    let has = |what: &[u8]| text.windows(what.len()).any(|window| window == what);
    const MORE_FILES: [&[u8]; 3] = [b".incbin", b".include", b"#pragma GCC pch_preprocess"];
    if !output.status.success() || MORE_FILES.iter().any(|what| has(what)) {
        return Ok(None);
    }
    let mut all = Vec::with_capacity(text.len() + 4096);
    let mut add = |bytes: &[u8]| {
        all.extend_from_slice(&bytes.len().to_le_bytes());
        all.extend_from_slice(bytes);
    };
    add(wrapped.program.as_os_str().as_bytes());
    add(wrapped.directory.as_os_str().as_bytes());
    for argument in arguments.iter().chain(&invocation.arguments) {
        add(argument.as_bytes());
        if let Some(content) = content_of_value(argument, &wrapped.directory) {
            add(&content);
        }
    }
    add(&text);
    Ok(Some(store::hash(&all)))
}

/// The content of a file that an option names after `=`, such as a list of exceptions.
fn content_of_value(argument: &OsStr, directory: &Path) -> Option<Vec<u8>> {
    let bytes = argument.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    let path = directory.join(OsStr::from_bytes(&bytes[at + 1..]));
    path.is_file().then(|| fs::read(path).ok()).flatten()
}

fn arguments_to_preprocess(invocation: &Invocation, session: &Session) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = invocation.arguments.iter().enumerate();
    while let Some((position, argument)) = arguments.next() {
        let bytes = argument.as_bytes();
        if matches!(bytes, b"-MF" | b"-MT" | b"-MQ") {
            arguments.next();
        } else if bytes != b"-c"
            && !bytes.starts_with(b"-M")
            && !bytes.starts_with(b"-Wp,-M")
            && !invocation.output_positions.contains(&position)
        {
            kept.push(argument.clone());
        }
    }
    let mut arguments = add_flags(&kept, invocation, session);
    arguments.push("-E".into());
    arguments
}

fn code_of(status: ExitStatus) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
