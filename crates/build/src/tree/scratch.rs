//! The places where both builds happen, one after the other.

use std::ffi::OsString;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::lines::has_line_directives;
use super::{
    TreeError, apply_patches, copy_tree, find_changes, hide_from_git, keep_line_numbers,
    remove_tree,
};

/// Scratch copies of a source tree, before and after patches.
///
/// Both are built at one path, because debug information, `__FILE__` and what a configuration
/// writes into files contain it.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Below this everything that a build makes is expected: `../build` of the tree too.
    root: PathBuf,
    tree: PathBuf,
    patched: PathBuf,
    /// Patched files, relative.
    changed: Vec<PathBuf>,
    /// Texts of patched files that keep the old lines' numbers.
    numbered: Vec<(PathBuf, Vec<u8>)>,
}

impl Scratch {
    /// Copies the source below `work` and applies the patches to a second copy, so that a patch
    /// that does not fit is known before anything is compiled.
    pub(crate) fn prepare(
        source: &Path,
        patches: &[PathBuf],
        strip: u32,
        work: &Path,
    ) -> Result<Self, TreeError> {
        let source = resolve(source)?;
        let work = resolve(work)?;
        if source.starts_with(&work) || work.starts_with(&source) {
            return Err(TreeError::Nested {
                source_tree: source,
                work,
            });
        }
        let root = work.join("tree");
        let tree = root.join(source.file_name().unwrap_or("source".as_ref()));
        let patched = work.join("patched");
        fs::create_dir(&root).map_err(TreeError::io("create", &root))?;
        copy_tree(&source, &tree)?;
        copy_tree(&tree, &patched)?;
        apply_patches(&patched, patches, strip)?;
        let changes = find_changes(&tree, &patched)?;
        hide_from_git(&patched, &changes);
        let changed = changes.present;
        let numbered = number_lines(&tree, &patched, &changed)?;
        Ok(Self {
            root,
            tree,
            patched,
            changed,
            numbered,
        })
    }

    /// The patched source.
    pub(crate) fn patched(&self) -> &Path {
        &self.patched
    }

    /// Where builds happen.
    pub(crate) fn tree(&self) -> &Path {
        &self.tree
    }

    /// The directory that contains the tree and nothing else before a build.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether line directives are put into patched files.
    pub(crate) fn keeps_lines(&self) -> bool {
        !self.numbered.is_empty()
    }

    /// Whether a file of the built tree is as it was in the source.
    pub(crate) fn is_original(&self, path: &Path) -> bool {
        let Ok(relative) = path.strip_prefix(&self.tree) else {
            return false;
        };
        let original = fs::symlink_metadata(self.patched.join(relative));
        let present = fs::symlink_metadata(path);
        match (original, present) {
            (Ok(original), Ok(present)) => {
                original.len() == present.len()
                    && original.modified().ok() == present.modified().ok()
            }
            _ => false,
        }
    }

    /// The names of all files in the patched source, without their directories.
    pub(crate) fn file_names(&self) -> Result<Vec<OsString>, TreeError> {
        let mut names = Vec::new();
        let mut directories = vec![self.patched.clone()];
        while let Some(directory) = directories.pop() {
            let entries = fs::read_dir(&directory).map_err(TreeError::io("read", &directory))?;
            for entry in entries {
                let entry = entry.map_err(TreeError::io("read", &directory))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(entry.path());
                } else {
                    names.push(entry.file_name());
                }
            }
        }
        Ok(names)
    }

    /// Replaces what is built by the patched tree.
    pub(crate) fn lay_patched(&self, keep_lines: bool) -> Result<(), TreeError> {
        remove_tree(&self.root)?;
        fs::create_dir(&self.root).map_err(TreeError::io("create", &self.root))?;
        copy_tree(&self.patched, &self.tree)?;
        if keep_lines {
            self.write_numbered()?;
        }
        Ok(())
    }

    fn write_numbered(&self) -> Result<(), TreeError> {
        for (relative, text) in &self.numbered {
            fs::write(self.tree.join(relative), text)
                .map_err(TreeError::io("write", self.tree.join(relative)))?;
        }
        equalize_times(&self.tree, &self.changed)
    }
}

fn resolve(path: &Path) -> Result<PathBuf, TreeError> {
    path.canonicalize().map_err(TreeError::io("find", path))
}

/// Gives files one common time: a file that is generated from another one and patched together
/// with it is then not generated again.
fn equalize_times(tree: &Path, files: &[PathBuf]) -> Result<(), TreeError> {
    let now = FileTimes::new().set_modified(SystemTime::now());
    for relative in files {
        let path = tree.join(relative);
        File::open(&path)
            .and_then(|file| file.set_times(now))
            .map_err(TreeError::io("set the time of", path))?;
    }
    Ok(())
}

fn number_lines(
    tree: &Path,
    patched: &Path,
    changed: &[PathBuf],
) -> Result<Vec<(PathBuf, Vec<u8>)>, TreeError> {
    equalize_times(patched, changed)?;
    let mut numbered = Vec::new();
    for relative in changed.iter().filter(|path| has_line_directives(path)) {
        let (old, new) = (tree.join(relative), patched.join(relative));
        if !old.exists() {
            continue;
        }
        let old_text = fs::read(&old).map_err(TreeError::io("read", &old))?;
        let new_text = fs::read(&new).map_err(TreeError::io("read", &new))?;
        if let Some(text) = keep_line_numbers(&old_text, &new_text) {
            numbered.push((relative.clone(), text));
        }
    }
    Ok(numbered)
}
