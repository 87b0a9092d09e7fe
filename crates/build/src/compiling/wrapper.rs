//! What runs in place of a compiler.
//!
//! A wrapped compiler records what it is asked for, looks closely at links that may be the
//! target's, and then becomes the real one, with a few more flags. It is found in PATH before
//! the real one; below it PATH no longer contains it, so a compiler that calls another one is
//! recorded once.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::arguments::{Invocation, Mode};
use super::links::{inspect_compiler_link, inspect_linker};
use super::reuse;
use super::rustc;
use super::session::{Record, Session, VARIABLE};
use super::tools::{Tool, find_program, path_without};
use crate::tree::normalize;

/// Runs as a compiler, if this process was started as one by a build.
///
/// The program that serves as wrapper ([`crate::TreeRequest::wrapper`]) calls this before
/// anything else, and leaves with what it returns. It returns nothing in every other process.
pub fn run_as_wrapper() -> Option<ExitCode> {
    let session = env::var_os(VARIABLE)?;
    let called = PathBuf::from(env::args_os().next()?);
    let name = called.file_name()?.to_owned();
    let tool = Tool::named(name.to_str()?)?;
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let error = match run(tool, &name, arguments, Path::new(&session)) {
        Ok(code) => return Some(code),
        Err(error) => error,
    };
    eprintln!("engraft: the wrapper of {}: {error}", name.display());
    Some(ExitCode::FAILURE)
}

fn run(tool: Tool, name: &OsStr, arguments: Vec<OsString>, session: &Path) -> io::Result<ExitCode> {
    let session = Session::read(session)?;
    let wrapped = Wrapped::find(tool, name, arguments, &session)?;
    match tool {
        Tool::Compiler => compile(&wrapped, &session),
        Tool::Linker => {
            inspect_linker(&wrapped, &session)?;
            wrapped.become_real(&wrapped.arguments)
        }
        Tool::Rustc | Tool::RustcWrapper => {
            let arguments = rustc::adjust(&wrapped, &session)?;
            wrapped.become_real(&arguments)
        }
    }
}

/// The program that is wrapped, and how it was called.
pub(super) struct Wrapped {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) directory: PathBuf,
    /// PATH for the program.
    path: OsString,
}

impl Wrapped {
    fn find(
        tool: Tool,
        name: &OsStr,
        mut arguments: Vec<OsString>,
        session: &Session,
    ) -> io::Result<Self> {
        let whole = env::var_os("PATH").unwrap_or_default();
        let rest = path_without(&whole, &session.tools);
        let name = if tool == Tool::RustcWrapper && !arguments.is_empty() {
            arguments.remove(0)
        } else {
            name.to_owned()
        };
        let program = if name.as_bytes().contains(&b'/') {
            PathBuf::from(&name)
        } else {
            find_program(&name, &rest).ok_or_else(|| {
                let message = format!("there is no other '{}' in PATH", name.display());
                io::Error::new(io::ErrorKind::NotFound, message)
            })?
        };
        Ok(Self {
            program,
            arguments,
            directory: env::current_dir()?,
            // rustc calls a compiler to link, and that link must be seen.
            path: match tool {
                Tool::Compiler | Tool::Linker => rest,
                Tool::Rustc | Tool::RustcWrapper => whole,
            },
        })
    }

    /// The real program, to be run with some arguments.
    pub(super) fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("PATH", &self.path);
        command
    }

    fn become_real(&self, arguments: &[OsString]) -> io::Result<ExitCode> {
        let error = self.command(arguments).exec();
        let message = format!("cannot run '{}': {error}", self.program.display());
        Err(io::Error::new(error.kind(), message))
    }

    /// The absolute form of a path among the arguments.
    pub(super) fn absolute(&self, path: &Path) -> PathBuf {
        normalize(&self.directory, path)
    }
}

fn compile(wrapped: &Wrapped, session: &Session) -> io::Result<ExitCode> {
    let invocation = Invocation::parse(&wrapped.arguments, &wrapped.directory);
    let mut arguments = wrapped.arguments.clone();
    if invocation.compiles() {
        arguments = add_flags(&arguments, &invocation, session);
    }
    if invocation.mode == Mode::Compile
        && let Some(code) = reuse::compile(wrapped, &invocation, &arguments, session)?
    {
        return Ok(code);
    }
    if matches!(invocation.mode, Mode::Compile | Mode::Link) {
        for source in invocation.sources() {
            session.record(&Record::Compilation {
                source: wrapped.absolute(&source.path),
                object: (invocation.mode == Mode::Compile)
                    .then(|| wrapped.absolute(&invocation.object_of(source))),
                is_reused: false,
            })?;
        }
    }
    if invocation.mode == Mode::Link {
        inspect_compiler_link(wrapped, &invocation, session)?;
    }
    wrapped.become_real(&arguments)
}

/// Flags that make objects comparable and change no code.
///
/// The mapping of paths comes first, so that the project's own mappings win. The others come
/// last, where they win.
pub(super) fn add_flags(
    arguments: &[OsString],
    invocation: &Invocation,
    session: &Session,
) -> Vec<OsString> {
    let mut mapping = OsString::from("-ffile-prefix-map=");
    mapping.push(&session.tree);
    mapping.push("=");
    mapping.push(&session.source);
    let mut result = vec![mapping];
    result.extend(arguments.iter().cloned());
    result.extend(["-ffunction-sections", "-fdata-sections"].map(OsString::from));
    if invocation.debug_level < 2 {
        result.push("-g".into());
    }
    if invocation.has_split_debug {
        result.push("-gno-split-dwarf".into());
    }
    if invocation.has_compressed_debug {
        result.push("-gz=none".into());
    }
    if !invocation.has_random_seed
        && let Some(source) = invocation.sources().next()
    {
        let mut seed = OsString::from("-frandom-seed=");
        seed.push(&source.path);
        result.push(seed);
    }
    result
}
