//! From C or C++ source to a patch module file.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use thiserror::Error;

use crate::headers::write_headers;
use crate::{ModuleError, NameError, PatchModule, RequiredBuild, UnfitObject, module_name};

/// Flags for every source file; those of the request come later and win.
///
/// `-fPIC` reaches everything in the target through slots, however far away. One section per
/// function and variable keeps them apart in messages and comparisons. Unwind tables make the
/// new functions' frames readable. Thread-local variables are accessed in the form that serves
/// wherever they lie. Stack protector and fortified calls are off because they
/// need functions that a static or musl target may not contain.
const FLAGS: [&str; 10] = [
    "-c",
    "-O2",
    "-fPIC",
    "-fno-common",
    "-ffunction-sections",
    "-fdata-sections",
    "-fasynchronous-unwind-tables",
    "-fno-stack-protector",
    "-U_FORTIFY_SOURCE",
    "-ftls-model=global-dynamic",
];

/// What to compile.
#[derive(Clone, Debug, Default)]
pub struct CompileRequest {
    /// Source files: `.c`, or `.cc`, `.cpp`, `.cxx`, `.C` for C++.
    pub sources: Vec<PathBuf>,
    /// Relocatable objects that become part of the module as they are.
    pub objects: Vec<PathBuf>,
    /// The file to write; its name without extension becomes the module's name.
    pub output: PathBuf,
    /// More flags for the compiler, such as `-I` and `-D`.
    pub flags: Vec<OsString>,
    /// Executables and libraries whose builds the module is made for.
    pub made_for: Vec<PathBuf>,
}

/// A compiled module.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The module as read back from the file.
    pub module: PatchModule,
    /// What the compiler said: warnings.
    pub diagnostics: String,
}

/// A module that could not be compiled. Nothing was written.
#[derive(Debug, Error)]
#[error("'{}': {kind}", output.display())]
pub struct CompileError {
    /// The file that was to be written.
    pub output: PathBuf,
    /// What failed.
    #[source]
    pub kind: CompileErrorKind,
}

/// What failed when a module was compiled.
#[derive(Debug, Error)]
pub enum CompileErrorKind {
    /// Something else than a file lies where the module is to go.
    #[error("it exists and is not a regular file; choose another name")]
    NotAFile,
    /// No source file was given.
    #[error("no source file given")]
    NoSource,
    /// A source file in no known language.
    #[error("source file '{}' is neither C (.c) nor C++ (.cc .cpp .cxx .C)", .0.display())]
    UnknownLanguage(PathBuf),
    /// The output's name cannot be a module's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A program could not be started.
    #[error("cannot run '{}': {error}; set {variable} to the program to use", program.display())]
    Start {
        /// The program.
        program: OsString,
        /// The environment variable that names it.
        variable: &'static str,
        /// Why.
        error: io::Error,
    },
    /// A program reported failure.
    #[error("'{}' failed:\n{diagnostics}", program.display())]
    Failed {
        /// The program.
        program: OsString,
        /// What it wrote to its standard error.
        diagnostics: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// A file that the module is made for cannot be read.
    #[error("cannot read '{}': {error}", file.display())]
    ReadObject {
        /// The executable or library.
        file: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The module cannot be made for a file.
    #[error("cannot make a module for '{}': {reason}", file.display())]
    MadeFor {
        /// The executable or library.
        file: PathBuf,
        /// Why not.
        reason: UnfitObject,
    },
    /// The result is not a usable patch module.
    #[error(transparent)]
    Module(#[from] ModuleError),
}

/// Compiles the sources with `$CC` (or `$CXX`; `cc` and `c++` if unset), merges several with
/// `$LD -r`, checks the result and puts it at its place in one step.
///
/// # Errors
///
/// [`CompileError`]; the output file is then as it was before.
pub fn compile(request: &CompileRequest) -> Result<Compiled, CompileError> {
    try_compile(request).map_err(|kind| CompileError {
        output: request.output.clone(),
        kind,
    })
}

fn try_compile(request: &CompileRequest) -> Result<Compiled, CompileErrorKind> {
    let name = module_name(&request.output)?;
    // Renaming a file to its place would replace a device or pipe.
    if fs::metadata(&request.output).is_ok_and(|there| !there.is_file()) {
        return Err(CompileErrorKind::NotAFile);
    }
    if request.sources.is_empty() {
        return Err(CompileErrorKind::NoSource);
    }
    let work = tempfile::Builder::new()
        .prefix("engraft-cc-")
        .tempdir()
        .map_err(io_error("create a temporary directory"))?;
    let include = work.path().join("include");
    write_headers(&include).map_err(io_error("write the headers"))?;
    let builds = work.path().join("builds.h");
    fs::write(&builds, declare_builds(&request.made_for)?)
        .map_err(io_error("write the headers"))?;
    let mut diagnostics = String::new();
    let mut objects = Vec::new();
    for (index, source) in request.sources.iter().enumerate() {
        let object = work.path().join(format!("{index}.o"));
        let builds = (index == 0).then_some(&*builds);
        diagnostics += &compile_source(request, source, &name, &include, builds, &object)?;
        objects.push(object);
    }
    objects.extend(request.objects.iter().cloned());
    let object = if let [object] = &objects[..] {
        object.clone()
    } else {
        let merged = work.path().join("merged.o");
        diagnostics += &merge_objects(&objects, &merged)?;
        merged
    };
    let bytes = fs::read(&object).map_err(io_error("read the compiled object"))?;
    let file_name = request.output.file_name().unwrap_or_default();
    let module = PatchModule::parse(&bytes, &file_name.to_string_lossy())?;
    write_atomically(&request.output, &bytes).map_err(io_error("write the module"))?;
    Ok(Compiled {
        module,
        diagnostics,
    })
}

fn io_error(action: &'static str) -> impl Fn(io::Error) -> CompileErrorKind {
    move |error| CompileErrorKind::Io { action, error }
}

fn compile_source(
    request: &CompileRequest,
    source: &Path,
    name: &str,
    include: &Path,
    builds: Option<&Path>,
    object: &Path,
) -> Result<String, CompileErrorKind> {
    let (variable, default) = match source.extension().and_then(OsStr::to_str) {
        Some("c") => ("CC", "cc"),
        Some("cc" | "cpp" | "cxx" | "C") => ("CXX", "c++"),
        _ => return Err(CompileErrorKind::UnknownLanguage(source.to_owned())),
    };
    let mut prefix_map = OsString::from("-ffile-prefix-map=");
    prefix_map.push(include);
    prefix_map.push("=include");
    let mut arguments: Vec<OsString> = FLAGS.iter().map(OsString::from).collect();
    arguments.extend([
        prefix_map,
        "-I".into(),
        include.into(),
        "-D__ENGRAFT__".into(),
        "-DMODULE".into(),
        format!("-DKBUILD_MODNAME=\"{name}\"").into(),
    ]);
    arguments.extend(
        builds
            .into_iter()
            .flat_map(|builds| ["-include".into(), builds.into()]),
    );
    arguments.extend(request.flags.iter().cloned());
    arguments.extend(["-o".into(), object.into(), source.into()]);
    run(variable, default, &arguments)
}

/// Module information about the builds that the module is made for, in C. It includes no
/// header: a source may have something to say before its first one (`pr_fmt`).
fn declare_builds(objects: &[PathBuf]) -> Result<String, CompileErrorKind> {
    let mut text = String::new();
    for (index, path) in objects.iter().enumerate() {
        let bytes = fs::read(path).map_err(|error| CompileErrorKind::ReadObject {
            file: path.clone(),
            error,
        })?;
        let build =
            RequiredBuild::of_file(path, &bytes).map_err(|reason| CompileErrorKind::MadeFor {
                file: path.clone(),
                reason,
            })?;
        text += &format!(
            "static const char engraft_build_{index}[] __attribute__((__used__, \
             __section__(\".modinfo\"), __aligned__(1))) = \"{}\";\n",
            escape(&build.to_info())
        );
    }
    Ok(text)
}

/// The inside of a string literal of C.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.=+".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("\\{byte:03o}"),
        })
        .collect()
}

fn merge_objects(objects: &[PathBuf], merged: &Path) -> Result<String, CompileErrorKind> {
    let mut arguments: Vec<OsString> = vec!["-r".into(), "-o".into(), merged.into()];
    arguments.extend(objects.iter().map(Into::into));
    run("LD", "ld", &arguments)
}

/// Runs the program named by an environment variable, which may hold arguments as well
/// (`CC="ccache gcc"`), and returns what it wrote to its standard error.
fn run(
    variable: &'static str,
    default: &str,
    arguments: &[OsString],
) -> Result<String, CompileErrorKind> {
    let setting = env::var(variable).unwrap_or_default();
    let mut words = setting.split_whitespace();
    let program = OsString::from(words.next().unwrap_or(default));
    let output = Command::new(&program)
        .args(words)
        .args(arguments)
        .output()
        .map_err(|error| CompileErrorKind::Start {
            program: program.clone(),
            variable,
            error,
        })?;
    let diagnostics = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(CompileErrorKind::Failed {
            program,
            diagnostics,
        });
    }
    Ok(diagnostics)
}

/// Writes a file so that readers see the old one or the whole new one.
///
/// # Errors
///
/// Those of creating, writing and renaming a file; the old one is as it was then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new()
        .prefix(".engraft-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)?;
    fs::write(file.path(), bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
