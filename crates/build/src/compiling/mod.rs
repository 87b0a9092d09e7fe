//! Both builds: the project's own command with wrapped compilers, and the objects it made.

mod arguments;
mod command;
mod error;
mod links;
mod objects;
mod reuse;
mod rustc;
mod session;
mod store;
mod target;
mod tools;
mod wrapper;

pub(crate) use objects::{FileKind, has_link_time_code, kind_of, read_members};
pub(crate) use store::keep as keep_content;

pub use error::BuildError;
pub use wrapper::run_as_wrapper;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::{env, fs};

use objects::has_functions_together;
use session::Session;

use crate::tree::Scratch;

/// What to build.
#[derive(Clone, Debug)]
pub struct TreeRequest {
    /// The source tree. It is only read.
    pub source: PathBuf,
    /// Patch files, in order. There may be none.
    pub patches: Vec<PathBuf>,
    /// Leading components to remove from file names in the patches: 1 for `a/` and `b/`.
    pub strip: u32,
    /// The build command, run in the tree.
    pub command: Vec<OsString>,
    /// The program or shared library, relative to the tree.
    pub target: PathBuf,
    /// An empty directory, outside of the source, for everything that is made. The result's files
    /// and the logs that errors name are in it, so the caller removes it.
    pub work: PathBuf,
    /// A program that calls [`run_as_wrapper`] before anything else; it is run in place of
    /// compilers.
    pub wrapper: PathBuf,
}

/// One of both builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Without the patches.
    Before,
    /// With them.
    After,
}

/// What the build is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The source is copied and patched.
    Preparing,
    /// The build command begins.
    Building(Side),
    /// A compiler was started.
    Compiling {
        /// Which build.
        side: Side,
        /// How many sources have been compiled, this one included. What a configuration compiles
        /// to find out about the machine does not count.
        objects: usize,
        /// The source, relative to the tree if it is in it.
        source: &'a Path,
    },
    /// The patched tree does not build with the old lines' numbers kept, and is built without.
    LineNumbersGivenUp,
}

/// Takes part in what a build is doing.
pub trait Progress {
    /// The build comes to a step.
    fn step(&self, step: &Step<'_>);
}

/// The objects that a target is linked from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// In the order of linking.
    pub objects: Vec<BuiltObject>,
    /// The target as the linker wrote it.
    pub target: PathBuf,
    /// The tree in which it was compiled.
    pub compiled: PathBuf,
    /// The tree with its source.
    pub source: PathBuf,
}

/// An object file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltObject {
    /// Its path relative to the tree, with the archive's member in parentheses; the same in both
    /// builds.
    pub name: String,
    /// A file with its content. Objects of equal content are the same file.
    pub path: PathBuf,
    /// The source it was compiled from, relative to the tree, if that is known.
    pub source: Option<PathBuf>,
}

/// Builds the tree before and after the patches.
///
/// # Errors
///
/// [`BuildError`]; the source tree has not been touched.
pub fn build_both(
    request: &TreeRequest,
    progress: &dyn Progress,
) -> Result<(Built, Built), BuildError> {
    check_target(&request.target)?;
    progress.step(&Step::Preparing);
    let scratch = Scratch::prepare(
        &request.source,
        &request.patches,
        request.strip,
        &request.work,
    )?;
    let builder = Builder::prepare(request, &scratch, progress)?;
    let before = builder.build(Side::Before)?;
    scratch.lay_patched(scratch.keeps_lines())?;
    let after = match builder.build(Side::After) {
        Err(BuildError::CommandFailed { .. }) if scratch.keeps_lines() => {
            progress.step(&Step::LineNumbersGivenUp);
            scratch.lay_patched(false)?;
            builder.build(Side::After)
        }
        other => other,
    }?;
    refuse_unseen(&before, &after)?;
    Ok((before, after))
}

/// Refuses objects that differ and cannot be compared function by function.
fn refuse_unseen(before: &Built, after: &Built) -> Result<(), BuildError> {
    let old: HashMap<&str, &Path> = before
        .objects
        .iter()
        .map(|object| (&*object.name, &*object.path))
        .collect();
    let mut unseen = Vec::new();
    for object in &after.objects {
        let is_changed = old
            .get(&*object.name)
            .is_some_and(|path| *path != object.path);
        if is_changed && object.source.is_none() {
            let content = fs::read(&object.path).map_err(BuildError::io("read", &object.path))?;
            if has_functions_together(&content) {
                unseen.push(object.name.clone());
            }
        }
    }
    if unseen.is_empty() {
        Ok(())
    } else {
        Err(BuildError::Unseen(unseen))
    }
}

fn check_target(target: &Path) -> Result<(), BuildError> {
    let is_inside = target.components().all(|component| {
        matches!(
            component,
            Component::Normal(_) | Component::CurDir | Component::ParentDir
        )
    });
    if is_inside && target.file_name().is_some() {
        Ok(())
    } else {
        Err(BuildError::TargetOutside(target.to_path_buf()))
    }
}

/// What both builds share.
struct Builder<'a> {
    request: &'a TreeRequest,
    scratch: &'a Scratch,
    progress: &'a dyn Progress,
    work: PathBuf,
    tools: PathBuf,
}

impl<'a> Builder<'a> {
    fn prepare(
        request: &'a TreeRequest,
        scratch: &'a Scratch,
        progress: &'a dyn Progress,
    ) -> Result<Self, BuildError> {
        let work = request
            .work
            .canonicalize()
            .map_err(BuildError::io("find", &request.work))?;
        for name in ["tools", "objects", "reuse", "temporary"] {
            let directory = work.join(name);
            fs::create_dir(&directory).map_err(BuildError::io("create", &directory))?;
        }
        let tools = work.join("tools");
        let path = env::var_os("PATH").unwrap_or_default();
        tools::write_tools(&tools, &request.wrapper, &path)
            .map_err(BuildError::io("write wrapped compilers to", &tools))?;
        Ok(Self {
            request,
            scratch,
            progress,
            work,
            tools,
        })
    }

    fn build(&self, side: Side) -> Result<Built, BuildError> {
        self.progress.step(&Step::Building(side));
        let file = |suffix: &str| self.work.join(format!("{side}.{suffix}"));
        let session = self.session(file("records"));
        let session_file = file("session");
        session
            .write(&session_file)
            .map_err(BuildError::io("write", &session_file))?;
        let _ = fs::remove_file(&session.records);
        let log = file("log");
        let records = command::run(
            &self.request.command,
            &session,
            &session_file,
            &log,
            side,
            self.progress,
        )?;
        let found = target::collect(&records, self.scratch, &self.request.target, &log)?;
        Ok(Built {
            objects: found.objects,
            target: found.file,
            compiled: self.scratch.tree().to_path_buf(),
            source: match side {
                Side::Before => self.source(),
                Side::After => self.scratch.patched().to_path_buf(),
            },
        })
    }

    fn source(&self) -> PathBuf {
        let source = &self.request.source;
        source.canonicalize().unwrap_or_else(|_| source.clone())
    }

    fn session(&self, records: PathBuf) -> Session {
        Session {
            tools: self.tools.clone(),
            root: self.scratch.root().to_path_buf(),
            tree: self.scratch.tree().to_path_buf(),
            source: self.source(),
            target_stem: target_stem(&self.request.target),
            records,
            store: self.work.join("objects"),
            reuse: self.work.join("reuse"),
            scratch: self.work.join("temporary"),
        }
    }
}

/// What every file name contains that the target may be linked under.
fn target_stem(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
